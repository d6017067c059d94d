"""Back-propagation through time by hand: one autograd.Function for every cell.

Forward, every step overwrites its projected input by its gates. Backward, from the last step to the first, a step
overwrites its gates by their gradients. So a scan holds inputs, states and gates once, and what remains is left to
single large products after the loop: the gradients of all weights and of the inputs.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.product import Product


def bptt(cell: Cell, projected: Tensor, state: State, mask: Tensor | None, reverse: bool) -> tuple[Tensor, State]:
    """Runs `cell` over time.

    Args:
        projected: `(time, batch, gates · hidden)`, contiguous; consumed: its memory becomes the gates'.
        state: what the cell carries in.
        mask: `(time, batch)`, bool; the state is carried through where it is False. `None`: all True.
        reverse: from the last step to the first.

    Returns:
        The outputs `(time, batch, hidden)` and the state after the last step.
    """
    outputs, *after = _BackPropagation.apply(cell, mask, reverse, projected, *state, *cell.recurrent_parameters())
    return outputs, tuple(after)


class _BackPropagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: Cell, mask: Tensor | None, reverse: bool, gates: Tensor, *given: Tensor) -> Any:
        steps, batch, _ = gates.shape
        states = [gates.new_empty(steps + 1, batch, cell.hidden_size) for _ in range(cell.tensors)]
        saved = [gates.new_empty(steps, batch, cell.hidden_size) for _ in range(cell.saved)]
        for buffer, first in zip(states, given, strict=False):
            buffer[-1 if reverse else 0] = first
        hidden = [Product(block, batch, steps) for block in _blocks(cell)]
        order = _Order(gates, states, saved, mask, reverse)
        for t in order.forward():
            cell.step_forward(order.gates[t], order.before[t], order.after[t], order.saved[t], hidden)
            if order.ragged[t]:
                for new, old in zip(order.after[t], order.before[t], strict=True):
                    torch.where(order.masks[t], new, old, out=new)
        ctx.save_for_backward(gates, *states, *saved)
        ctx.cell, ctx.mask, ctx.reverse = cell, mask, reverse
        outputs = states[0][:-1] if reverse else states[0][1:]
        return (outputs, *(buffer[0 if reverse else -1] for buffer in states))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, errors: Tensor, *last: Tensor) -> Any:
        cell: Cell = ctx.cell
        gates, *rest = ctx.saved_tensors  # raises where a first call has overwritten them
        states, saved = rest[: cell.tensors], rest[cell.tensors :]
        steps, batch, _ = gates.shape
        hidden = [Product(block.t(), batch, steps) for block in _blocks(cell)]
        order = _Order(gates, states, saved, ctx.mask, ctx.reverse)
        gradient: State = tuple(tensor.clone() for tensor in last)
        for t in order.backward():
            gradient[0].add_(errors[t])
            around: list[Tensor] = []
            if order.ragged[t]:
                around = [tensor.masked_fill(order.masks[t], 0) for tensor in gradient]
                gradient = tuple(tensor.mul_(order.masks[t]) for tensor in gradient)
            gradient = cell.step_backward(
                order.gates[t], order.before[t], order.after[t], order.saved[t], gradient, hidden
            )
            for tensor, passed in zip(gradient, around, strict=False):
                tensor.add_(passed)
        first, second = (1, 0) if ctx.reverse else (0, 1)
        before, after = (
            tuple(buffer[start : start + steps].flatten(0, 1) for buffer in states) for start in (first, second)
        )
        weights = cell.recurrent_gradients(
            gates.flatten(0, 1), before, after, [buffer.flatten(0, 1) for buffer in saved]
        )
        return (None, None, None, gates, *gradient, *weights)


class _Order:
    """The steps of a scan and their memory, whichever way it runs."""

    def __init__(
        self, gates: Tensor, states: list[Tensor], saved: list[Tensor], mask: Tensor | None, reverse: bool
    ) -> None:
        self._reverse, self._steps = reverse, len(gates)
        self.gates = gates.unbind(0)
        rows = list(zip(*(buffer.unbind(0) for buffer in states), strict=True))
        self.before, self.after = (rows[1:], rows[:-1]) if reverse else (rows[:-1], rows[1:])
        self.saved = list(zip(*(buffer.unbind(0) for buffer in saved), strict=True)) or [()] * self._steps
        self.masks = () if mask is None else mask.unsqueeze(-1).unbind(0)
        # Only steps with padding pay for it.
        self.ragged = [False] * self._steps if mask is None else (~mask.all(1)).tolist()

    def forward(self) -> range:
        return range(self._steps - 1, -1, -1) if self._reverse else range(self._steps)

    def backward(self) -> range:
        return range(self._steps) if self._reverse else range(self._steps - 1, -1, -1)


def _blocks(cell: Cell) -> list[Tensor]:
    """The recurrent matrices, one for each vector that they multiply."""
    edges = [0, *accumulate(cell.products)]
    size = cell.hidden_size
    return [cell.weight_hidden.detach()[low * size : high * size] for low, high in pairwise(edges)]
