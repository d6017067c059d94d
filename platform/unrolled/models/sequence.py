"""Vectors in, vectors out: the plain recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.recurrence import Dropout, Stack
from unrolled.recurrence import state as nest


class SequenceModel(nn.Module):
    """A stack that reads vectors, and a linear head on its last steps.

    Args:
        stack: one-directional.
        outputs: features of an output.
        dropout: of the stack's outputs, before the head; none if `None`.
    """

    def __init__(self, stack: Stack, outputs: int, dropout: Dropout | None = None) -> None:
        super().__init__()
        self.stack, self.dropout = stack, dropout or Dropout(0.0)
        self.head = nn.Linear(stack.output_size, outputs)

    def forward(self, inputs: Tensor, last: int, truncate: int | None = None) -> Tensor:
        """Reads sequences to their end.

        Args:
            inputs: `(batch, time, features)`.
            last: how many of the last steps are asked for an output.
            truncate: gradients flow back within windows of so many steps, from the first step on; the state is carried
                from window to window and cut from the graph between them (truncated back-propagation through time,
                Williams & Peng 1990). `None`: through the whole sequence.

        Returns:
            The outputs of the last steps, `(batch, last, outputs)`.
        """
        steps = inputs.shape[1]
        window, state = truncate or steps, None
        read: list[Tensor] = []
        for start in range(0, steps, window):
            end = min(start + window, steps)
            asked = max(0, end - max(start, steps - last))
            # A window that no output is asked of can have no gradient: its state is cut at its end.
            with torch.set_grad_enabled(torch.is_grad_enabled() and asked > 0):
                hidden, state = self.stack(inputs[:, start:end], state)
            if asked:
                read.append(hidden[:, -asked:])
            state = nest.detach(state)
        outputs: Tensor = self.head(self.dropout(torch.cat(read, dim=1)))
        return outputs
