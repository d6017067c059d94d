"""Step-by-step execution of a cell with hand-written backward, for loops that do more between steps than a scan."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell, State, StepBuffers
from unrolled.recurrence.matmul import weight_gradients


class Steps:
    """The engine `bptt` with the loop left to the caller: every step saves its gates, its derivative overwrites them
    with their gradients, and the gradients of the weights are one large product over all steps at the end.

    Args:
        gates: projected inputs `(time, batch, num_gates · hidden)`; a step's must be complete when it is taken.
        state: before the first step.
        bf16: multiply in bfloat16.

    Attributes:
        gates: as given; after `forward(t)` what the derivative needs, after `backward(t)` gradients.
        outputs: h, `(time, batch, hidden)`.
    """

    def __init__(self, cell: Cell, gates: Tensor, state: State, *, bf16: bool) -> None:
        steps, batch, _ = gates.shape
        self.cell, self.gates, self._bf16 = cell, gates, bf16
        self._states = [gates.new_empty(steps + 1, *tensor.shape) for tensor in state]
        for buffer, tensor in zip(self._states, state, strict=True):
            buffer[0] = tensor
        self._saved = [gates.new_empty(steps, batch, cell.hidden_size) for _ in range(cell.num_saved)]
        self._recurrent = cell.recurrent_products(batch, steps, bf16=bf16)
        self.outputs = self._states[0][1:]

    def _buffers(self, t: int) -> StepBuffers:
        before, after = (tuple(buffer[step] for buffer in self._states) for step in (t, t + 1))
        saved = [buffer[t] for buffer in self._saved]
        return StepBuffers(self.cell.slice_gates(self.gates[t]), before, after, saved, self._recurrent)

    def forward(self, t: int) -> Tensor:
        """Takes step t, after the one before; returns its output `(batch, hidden)`."""
        buffers = self._buffers(t)
        self.cell.step_forward(buffers)
        return buffers.after[0]

    def backward(self, t: int, gradient: State) -> State:
        """Derivative of step t, after that of step t + 1; returns ∂L/∂(state before the step).

        Args:
            gradient: ∂L/∂(state after the step); may be overwritten.
        """
        if t == len(self.gates) - 1:
            steps, batch, _ = self.gates.shape
            self._recurrent = self.cell.recurrent_products(batch, steps, bf16=self._bf16, transposed=True)
        return self.cell.step_backward(self._buffers(t), gradient)

    def last(self) -> State:
        """Returns the state after the last step."""
        return tuple(buffer[-1] for buffer in self._states)

    def gradients(self) -> tuple[Tensor, ...]:
        """Returns the gradients of the recurrent weights and of `extra_parameters`, after all backward steps."""
        before, after = (
            tuple(buffer[steps].flatten(0, 1) for buffer in self._states) for steps in (slice(None, -1), slice(1, None))
        )
        saved = [buffer.flatten(0, 1) for buffer in self._saved]
        all_steps = StepBuffers(self.cell.slice_gates(self.gates.flatten(0, 1)), before, after, saved)
        grad_weight = torch.empty_like(self.cell.weight_hidden)
        dtype = torch.bfloat16 if self._bf16 else self.gates.dtype
        weight_gradients(self.cell.weight_grad_operands(all_steps), dtype, grad_weight)
        return grad_weight, *self.cell.extra_gradients(all_steps)
