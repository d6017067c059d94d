"""Back-propagation through time by hand: one autograd.Function for every cell.

Forward, one product projects the inputs of all steps; then every step overwrites its projected input by its gates.
Backward, from the last step to the first, a step overwrites its gates by their gradients. So a scan holds inputs,
states and gates once, and what remains is left to single large products after the loop: the gradients of all weights
and of the inputs.

Under `torch.autocast` with bfloat16, all products are of bfloat16 with sums in float32. States and what a step
computes are float32; gates are kept in bfloat16 between the passes.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.product import Product, weight_gradient


def bptt(cell: Cell, inputs: Tensor, state: State, mask: Tensor | None, reverse: bool) -> tuple[Tensor, State]:
    """Runs `cell` over time.

    Args:
        inputs: `(time, batch, features)`.
        state: what the cell carries in.
        mask: `(time, batch)`, bool; the state is carried through where it is False. `None`: all True.
        reverse: from the last step to the first.

    Returns:
        The outputs `(time, batch, hidden)` and the state after the last step.
    """
    device, kind = inputs.device.type, cell.bias.dtype
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    parameters = (*cell.input_parameters(), *cell.recurrent_parameters())
    with torch.autocast(device, enabled=False):
        outputs, *after = _BackPropagation.apply(
            cell, half and kind == torch.float32, mask, reverse, inputs, *state, *parameters
        )
    return outputs, tuple(after)


class _BackPropagation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: Cell, half: bool, mask: Tensor | None, reverse: bool, inputs: Tensor, *given: Tensor
    ) -> Any:
        (steps, batch, _), size, first = inputs.shape, cell.hidden_size, cell.bias
        flat = inputs.to(torch.bfloat16 if half else first.dtype).contiguous().flatten(0, 1)
        gates = flat.new_empty(steps, batch, cell.gates * size)
        kept = cell.project_forward(flat, gates.flatten(0, 1))
        states = [first.new_empty(steps + 1, batch, size) for _ in range(cell.tensors)]
        saved = [first.new_empty(steps, batch, size) for _ in range(cell.saved)]
        for buffer, state in zip(states, given, strict=False):
            buffer[-1 if reverse else 0] = state
        hidden = [Product(block, batch, steps, half) for block in _blocks(cell)]
        order = _Order(cell, gates, states, saved, mask, reverse)
        for t in order.forward():
            cell.step_forward(order.load(t), order.before[t], order.after[t], order.saved[t], hidden)
            order.store(t)
            if order.ragged[t]:
                for new, old in zip(order.after[t], order.before[t], strict=True):
                    torch.where(order.masks[t], new, old, out=new)
        ctx.save_for_backward(flat, gates, *states, *saved, *kept)
        ctx.cell, ctx.half, ctx.mask, ctx.reverse, ctx.kind = cell, half, mask, reverse, inputs.dtype
        outputs = states[0][:-1] if reverse else states[0][1:]
        return (outputs, *(buffer[0 if reverse else -1] for buffer in states))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_outputs: Tensor, *last: Tensor) -> Any:
        cell: Cell = ctx.cell
        inputs, gates, *rest = ctx.saved_tensors  # raises where a first call has overwritten them
        states, saved = rest[: cell.tensors], rest[cell.tensors : cell.tensors + cell.saved]
        kept = rest[cell.tensors + cell.saved :]
        steps, batch, _ = gates.shape
        hidden = [Product(block.t(), batch, steps, ctx.half) for block in _blocks(cell)]
        order = _Order(cell, gates, states, saved, ctx.mask, ctx.reverse)
        into = into_outputs.unbind(0)
        gradient: State = tuple(tensor.clone() for tensor in last)
        for t in order.backward():
            gradient[0].add_(into[t])
            around: list[Tensor] = []
            if order.ragged[t]:
                around = [tensor.masked_fill(order.masks[t], 0) for tensor in gradient]
                gradient = tuple(tensor.mul_(order.masks[t]) for tensor in gradient)
            gradient = cell.step_backward(
                order.load(t), order.before[t], order.after[t], order.saved[t], gradient, hidden
            )
            order.store(t)
            for tensor, passed in zip(gradient, around, strict=False):
                tensor.add_(passed)
        into_gates = gates.flatten(0, 1)
        into_inputs, projecting = cell.project_backward(inputs, kept, into_gates)
        first, second = (1, 0) if ctx.reverse else (0, 1)
        before, after = (
            tuple(buffer[start : start + steps].flatten(0, 1) for buffer in states) for start in (first, second)
        )
        flat = into_gates, before, after, [buffer.flatten(0, 1) for buffer in saved]
        weights = _recurrent_weights(cell, cell.recurrent_pairs(*flat), gates.dtype)
        into_inputs = into_inputs.to(ctx.kind).view(steps, batch, -1)
        return (None, None, None, None, into_inputs, *gradient, *projecting, weights, *cell.other_gradients(*flat))


def _recurrent_weights(cell: Cell, pairs: list[tuple[Tensor, Tensor]], kind: torch.dtype) -> Tensor:
    weights, row = torch.empty_like(cell.weight_hidden), 0
    for errors, operand in pairs:
        weight_gradient(errors.to(kind), operand, weights[row : row + errors.shape[1]])
        row += errors.shape[1]
    return weights


class _Order:
    """The steps of a scan and the views of their memory, whichever way it runs; made at once, as that is cheaper."""

    def __init__(
        self, cell: Cell, gates: Tensor, states: list[Tensor], saved: list[Tensor], mask: Tensor | None, reverse: bool
    ) -> None:
        self._reverse, self._steps = reverse, len(gates)
        size = cell.hidden_size
        self._stored = gates.unbind(0)
        self._work = None if gates.dtype == states[0].dtype else states[0].new_empty(gates.shape[1:])
        buffers = gates if self._work is None else self._work[None]
        spans = [buffers[:, :, low * size : high * size] for low, high in cell.spans]
        self._gates = _by_step(spans, len(buffers))
        rows = _by_step(states, self._steps + 1)
        self.before, self.after = (rows[1:], rows[:-1]) if reverse else (rows[:-1], rows[1:])
        self.saved = _by_step(saved, self._steps)
        self.masks = () if mask is None else mask.unsqueeze(-1).unbind(0)
        # Only steps with padding pay for it.
        self.ragged = [False] * self._steps if mask is None else (~mask.all(1)).tolist()

    def load(self, t: int) -> tuple[Tensor, ...]:
        """The spans of a step's gates, in the type to compute in."""
        if self._work is None:
            return self._gates[t]
        self._work.copy_(self._stored[t])
        return self._gates[0]

    def store(self, t: int) -> None:
        """Keeps what the step has made of what `load` gave it."""
        if self._work is not None:
            self._stored[t].copy_(self._work)

    def forward(self) -> range:
        return range(self._steps - 1, -1, -1) if self._reverse else range(self._steps)

    def backward(self) -> range:
        return range(self._steps) if self._reverse else range(self._steps - 1, -1, -1)


def _by_step(buffers: list[Tensor], steps: int) -> list[tuple[Tensor, ...]]:
    """For every step its part of each buffer `(steps, …)`."""
    return list(zip(*(buffer.unbind(0) for buffer in buffers), strict=True)) or [()] * steps


def _blocks(cell: Cell) -> list[Tensor]:
    """The recurrent matrices, one for each vector that they multiply."""
    edges = [0, *accumulate(cell.products)]
    size = cell.hidden_size
    return [cell.weight_hidden.detach()[low * size : high * size] for low, high in pairwise(edges)]
