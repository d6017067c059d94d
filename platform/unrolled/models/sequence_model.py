"""Sequence models: recurrent language models, and vectors in, vectors out.

A recurrent language model: what comes next, from everything before (Mikolov et al. 2010).

Vectors in, vectors out: the plain recurrent network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.encoders import Rows
from unrolled.models.heads import Precision, Scorer, VocabularyHead
from unrolled.recurrence import Dropout, Stack, StackState
from unrolled.recurrence import state as nest

PRIME = -1
"""Stands for the last unit of each prime text: the token that decoding feeds first."""


@dataclass(frozen=True)
class Primed:
    """Prime texts, read up to their last unit.

    Attributes:
        state: after all units but the last, tensors `(n, …)`.
        last: the last units `(n,)`, not yet fed.
    """

    state: StackState
    last: Tensor

    def __len__(self) -> int:
        return len(self.last)

    def select(self, rows: Tensor) -> Primed:
        """Takes the texts `rows` `(m,)`."""
        return Primed(nest.select(self.state, rows), self.last[rows])


class LanguageModel(nn.Module):
    """p(text) = Π_t p(x_t | x_<t). Decoding uses `start` and `step`.

    Args:
        vocabulary: how many units there are.
        embedding: `(vocabulary, features)`; `None`: units are one-hot vectors.
        stack: the recurrent network over them.
        head: scores of the next unit.
        dropout: of embeddings and outputs; one-hot vectors stay whole.
    """

    def __init__(
        self, vocabulary: int, embedding: nn.Embedding | None, stack: Stack, head: VocabularyHead, dropout: Dropout
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding, self.stack, self.head, self.dropout = embedding, stack, head, dropout

    def forward(self, tokens: Tensor, state: StackState | None = None) -> tuple[Tensor, StackState]:
        """Reads a window.

        Args:
            tokens: `(batch, time)`.
            state: before the window; zeros if `None`.

        Returns:
            One vector a token, `(batch, time, hidden)`, for the head, and the state after the window.
        """
        outputs, after = self.stack(self.embed(tokens), state)
        return self.dropout(outputs), after

    def embed(self, tokens: Tensor) -> Tensor:
        """`(…)` → what the stack reads, `(…, features)`."""
        if self.embedding is None:
            return functional.one_hot(tokens, self.vocabulary).to(self.head.weight.dtype)
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def loss(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Summed cross-entropy (nats) of `targets` `(batch, time)`, each given all tokens up to its place, and the
        state after the window."""
        outputs, after = self(tokens, state)
        return self.head.loss(outputs.flatten(0, 1), targets.flatten()), after

    def losses(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Cross-entropy (nats) of each target `(batch, time)` and the state after the window; 0 where a target
        is negative."""
        outputs, after = self(tokens, state)
        logs = self.head.log_probabilities(outputs.flatten(0, 1)).view(*targets.shape, -1)
        picked = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return torch.where(targets < 0, 0.0, -picked), after

    def prime(self, tokens: Tensor) -> Primed:
        """Reads prime texts of equal length `(n, units)`, one unit or more."""
        state = self.stack.begin(len(tokens))
        if tokens.shape[1] > 1:
            _, state = self(tokens[:, :-1], state)
        return Primed(state, tokens[:, -1])

    def start(self, memory: Primed) -> StackState:
        """The state before the last unit of every prime text."""
        return memory.state

    def step(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState]:
        """Logits `(rows, vocabulary)` of the units that follow `tokens` `(rows,)`, where `PRIME` stands for the prime
        text's last unit; rows as in `Decoder.step`."""
        output, state, _ = self.step_outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    def step_outputs(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState, None]:
        """What the head, or a `scorer`, turns into logits, `(rows, hidden)`, and the state after it."""
        rows = rows or Rows.uniform(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        tokens = torch.where(tokens == PRIME, memory.last[rows.source_index], tokens)
        output, state = self.stack.step(self.embed(tokens), state)
        return output, state, None

    def scorer(self, precision: Precision) -> Scorer:
        """The head, made ready for the steps of a search."""
        return self.head.scorer(precision)


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
