"""A cell's steps one by one, for loops in which more happens between the steps than a scan knows of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.matmul import PackedLinear, weight_gradients


class Steps:
    """What `bptt` does, with the loop left to the caller: every step keeps its gates, its derivative overwrites them by
    their gradients, and the weights' gradients are a large product over all steps in the end.

    Args:
        gates: the projected inputs `(time, batch, gates · hidden)`, complete when their step is taken.
        state: before the first step.
        half: multiply in bfloat16.

    Attributes:
        gates: as given; after `forward(t)` what the derivative needs, after `backward(t)` gradients.
        outputs: h, `(time, batch, hidden)`.
    """

    def __init__(self, cell: Cell, gates: Tensor, state: State, *, half: bool) -> None:
        steps, batch, _ = gates.shape
        self.cell, self.gates, self._half = cell, gates, half
        self._states = [gates.new_empty(steps + 1, *tensor.shape) for tensor in state]
        for buffer, tensor in zip(self._states, state, strict=True):
            buffer[0] = tensor
        self._saved = [gates.new_empty(steps, batch, cell.hidden_size) for _ in range(cell.num_saved)]
        self._hidden = self._products(turned=False)
        self.outputs = self._states[0][1:]

    def _products(self, *, turned: bool) -> list[PackedLinear]:
        steps, batch, _ = self.gates.shape
        weights = [self.cell.weight_hidden.detach()[rows] for rows in self.cell.rows()]
        return [PackedLinear(weight.t() if turned else weight, batch, steps, self._half) for weight in weights]

    def forward(self, t: int) -> Tensor:
        """Takes step t, after the one before; returns its output `(batch, hidden)`."""
        before, after = self._around(t)
        self.cell.step_forward(self._spans(t), before, after, self._saved_at(t), self._hidden)
        return after[0]

    def backward(self, t: int, gradient: State) -> State:
        """The derivative of step t, after that of the one behind it; returns ∂L/∂(state before it).

        Args:
            gradient: ∂L/∂(state after it); may be overwritten.
        """
        if t == len(self.gates) - 1:
            self._hidden = self._products(turned=True)
        return self.cell.step_backward(self._spans(t), *self._around(t), self._saved_at(t), gradient, self._hidden)

    def last(self) -> State:
        """The state after the last step."""
        return tuple(buffer[-1] for buffer in self._states)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of the recurrent weights and of `extra_parameters`, when all steps have gone back."""
        before, after = (tuple(buffer[place].flatten(0, 1) for buffer in self._states) for place in _EDGES)
        flat = self.gates.flatten(0, 1), before, after, [buffer.flatten(0, 1) for buffer in self._saved]
        weights = torch.empty_like(self.cell.weight_hidden)
        kind = torch.bfloat16 if self._half else self.gates.dtype
        weight_gradients(self.cell.weight_grad_operands(*flat), kind, weights)
        return weights, *self.cell.extra_gradients(*flat)

    def _around(self, t: int) -> tuple[State, State]:
        return tuple(buffer[t] for buffer in self._states), tuple(buffer[t + 1] for buffer in self._states)

    def _saved_at(self, t: int) -> Sequence[Tensor]:
        return [buffer[t] for buffer in self._saved]

    def _spans(self, t: int) -> tuple[Tensor, ...]:
        size = self.cell.hidden_size
        return tuple(self.gates[t][:, low * size : high * size] for low, high in self.cell.gate_slices)


_EDGES = slice(None, -1), slice(1, None)
