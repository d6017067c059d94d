"""Input feeding over a whole window, with its derivative by hand.

Every step reads what the step before has seen (Luong et al. 2015, section 3.3), so attention and readout belong to the
recurrence:

    h_t = cell([e_t; o_{t−1}], h_{t−1})
    α_t = softmax(score(h_t, keys)),  c_t = Σ_p α_tp s_p
    o_t = dropout(tanh(R [h_t; c_t] + b))

As in a scan, the share of the embeddings e is one product before the loop, and the gradients of all weights and of the
memory are large products after it; the loop keeps what only a step can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.models.scores import Additive, ScaledProducts
from unrolled.recurrence import Cell, Stack, StackState, Steps
from unrolled.recurrence.cell import tanh_backward
from unrolled.recurrence.product import Product, linear, type_of_products, weight_gradient


def applies(stack: Stack) -> bool:
    """Whether the loop below knows all that the stack does between the steps."""
    plain = all(cell.projects_linearly for (cell,) in stack.cells())
    return plain and stack.zoneout == 0 and not stack.residual and stack.engine != "autograd"


def feed(
    stack: Stack,
    attention: Attention,
    readout: nn.Linear,
    embedded: Tensor,
    memory: Memory,
    state: StackState,
    fed: Tensor,
    kept: Tensor,
) -> tuple[Tensor, StackState]:
    """Runs the equations above.

    Args:
        embedded: e, `(batch, time, features)`.
        memory: prepared.
        state, fed: h and o before the first step.
        kept: what dropout multiplies the outputs by, `(batch, time, output)`.

    Returns:
        o, `(batch, time, output)`, and the state after the last step.
    """
    cells = [cell for (cell,) in stack.cells()]
    ones = embedded.new_ones(*embedded.shape[:2], stack.output_size)
    between = [stack.dropout(ones).transpose(0, 1) for _ in cells[1:]]
    half = embedded.dtype == torch.float32 and type_of_products(readout.weight) == torch.bfloat16
    parts = _Parts(cells, attention, readout, memory.mask, kept.transpose(0, 1), between, half)
    assert memory.keys is not None
    carried = [tensor for (tensors,) in state for tensor in tensors]
    with torch.autocast(embedded.device.type, enabled=False):
        given = (embedded.transpose(0, 1), fed, memory.states, memory.keys.to(embedded.dtype))
        outputs, *last = _Feeding.apply(parts, *given, *carried, *parts.parameters())
    after = iter(last)
    return outputs.transpose(0, 1), tuple((tuple(next(after) for _ in range(cell.tensors)),) for cell in cells)


@dataclass(frozen=True)
class _Parts:
    """What the loop is made of; `between`: what dropout multiplies the outputs of all layers but the last by."""

    cells: list[Cell]
    attention: Attention
    readout: nn.Linear
    mask: Tensor
    kept: Tensor
    between: list[Tensor]
    half: bool

    def parameters(self) -> list[Tensor]:
        """In the order of `_Loop.gradients`."""
        found: list[Tensor] = []
        for cell in self.cells:
            found += [cell.weight_input, cell.bias, cell.weight_hidden, *cell.other_parameters()]
        if self.attention.score == "additive":
            found += [self.attention.query.weight, self.attention.query.bias, self.attention.weight]
        return [*found, self.readout.weight, self.readout.bias]


class _Feeding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: _Parts, *given: Tensor) -> Any:
        count = sum(cell.tensors for cell in parts.cells)
        embedded, fed, states, keys, *carried = given[: 4 + count]
        loop = _Loop(parts, embedded, fed, states, keys, carried)
        for t in range(len(embedded)):
            loop.forward(t)
        ctx.loop = loop
        return (loop.outputs[1:], *(tensor for steps in loop.layers for tensor in steps.last()))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_outputs: Tensor, *last: Tensor) -> Any:
        if ctx.loop is None:
            raise RuntimeError("input feeding goes back once: its gates have become gradients")
        loop: _Loop = ctx.loop
        ctx.loop = None
        loop.begin_backward(last)
        for t in reversed(range(len(into_outputs))):
            loop.backward(t, into_outputs[t])
        return (None, *loop.gradients())


class _Loop:
    """The memory of all steps.

    Attributes:
        outputs: o, before the first step and after every one, `(time + 1, batch, output)`.
        layers: of cells, the first layer first.
    """

    def __init__(
        self, parts: _Parts, embedded: Tensor, fed: Tensor, states: Tensor, keys: Tensor, carried: Sequence[Tensor]
    ) -> None:
        self._parts, self._embedded, self._states = parts, embedded.contiguous(), states
        steps, batch, features = embedded.shape
        output, joined = parts.readout.weight.shape
        self.outputs = states.new_empty(steps + 1, batch, output)
        self.outputs[0] = fed
        self._squashed = states.new_empty(steps, batch, output)  # tanh; on the way back, the gradient of its argument
        self._joined = states.new_empty(steps, batch, joined)  # [h; c]
        self._weights = states.new_empty(steps, batch, states.shape[1])
        self._read = [states.new_empty(steps, batch, cell.input_size) for cell in parts.cells[1:]]
        self._scores = (
            Additive(parts.attention, keys, steps, half=parts.half)
            if parts.attention.score == "additive"
            else ScaledProducts(keys)
        )
        first = parts.cells[0].weight_input.detach()
        self._of_embedded, of_fed = first[:, :features], first[:, features:]
        upper = [cell.weight_input.detach() for cell in parts.cells[1:]]
        self._rows = [of_fed, *upper, parts.readout.weight.detach()]
        self._into = self._products(turned=False)
        self.layers = self._make_layers(list(carried))

    def _products(self, *, turned: bool) -> list[Product]:
        """With what o_{t−1}, the outputs of lower layers, and [h; c] are multiplied."""
        steps, batch, _ = self._embedded.shape
        return [Product(row.t() if turned else row, batch, steps, self._parts.half) for row in self._rows]

    def _make_layers(self, carried: list[Tensor]) -> list[Steps]:
        layers: list[Steps] = []
        for cell in self._parts.cells:
            state, carried = tuple(carried[: cell.tensors]), carried[cell.tensors :]
            gates = self._states.new_empty(*self._embedded.shape[:2], cell.gates * cell.hidden_size)
            if not layers:
                flat = self._narrow(self._embedded.flatten(0, 1))
                projected = flat.new_empty(len(flat), gates.shape[-1]) if self._parts.half else gates.flatten(0, 1)
                linear(flat, self._of_embedded, cell.bias.detach(), projected)
                gates = projected.view(gates.shape).to(gates.dtype)
            layers.append(Steps(cell, gates, state, half=self._parts.half))
        return layers

    def _narrow(self, x: Tensor) -> Tensor:
        """In the type to multiply in."""
        return x.bfloat16() if self._parts.half else x

    def forward(self, t: int) -> None:
        """Makes o_t."""
        into_first, *into_upper, into_readout = self._into
        self.layers[0].gates[t].add_(into_first(self.outputs[t]))
        h = self.layers[0].forward(t)
        for steps, product, read, kept in zip(
            self.layers[1:], into_upper, self._read, self._parts.between, strict=True
        ):
            torch.mul(h, kept[t], out=read[t])
            torch.add(product(read[t]), steps.cell.bias, out=steps.gates[t])
            h = steps.forward(t)
        scores = self._scores.forward(t, h).masked_fill_(~self._parts.mask, float("-inf"))
        torch.softmax(scores, -1, out=self._weights[t])
        self._joined[t][:, : h.shape[1]] = h
        self._joined[t][:, h.shape[1] :] = torch.bmm(self._weights[t][:, None], self._states)[:, 0]
        squashed = torch.add(into_readout(self._joined[t]), self._parts.readout.bias, out=self._squashed[t]).tanh_()
        torch.mul(squashed, self._parts.kept[t], out=self.outputs[t + 1])

    def begin_backward(self, last: Sequence[Tensor]) -> None:
        """Takes ∂L/∂(state after the last step)."""
        self._into = self._products(turned=True)
        tensors = iter(last)
        self._into_states = [
            tuple(next(tensors).clone(memory_format=torch.contiguous_format) for _ in range(steps.cell.tensors))
            for steps in self.layers
        ]
        self._into_fed = torch.zeros_like(self.outputs[0])
        self._into_scores = torch.empty_like(self._weights)
        self._into_contexts = self._states.new_empty(*self._weights.shape[:2], self._states.shape[2])

    def backward(self, t: int, error: Tensor) -> None:
        """The derivative of `forward`, given ∂L/∂o_t without what goes through the step behind."""
        *into_lower, into_joined = self._into
        error, squashed = (error + self._into_fed).mul_(self._parts.kept[t]), self._squashed[t]
        tanh_backward(error, squashed, grad_input=squashed)
        joined, size = into_joined(squashed), self.layers[-1].cell.hidden_size
        self._into_contexts[t] = joined[:, size:]
        into_weights = torch.bmm(self._states, self._into_contexts[t][:, :, None])[:, :, 0]
        self._into_scores[t] = torch._softmax_backward_data(into_weights, self._weights[t], -1, error.dtype)
        into_h = self._scores.backward(t, self._into_scores[t]).add_(joined[:, :size])
        for depth in reversed(range(len(self.layers))):
            self._into_states[depth][0].add_(into_h)
            self._into_states[depth] = self.layers[depth].backward(t, self._into_states[depth])
            into_h = into_lower[depth](self.layers[depth].gates[t])
            if depth > 0:
                into_h = into_h * self._parts.between[depth - 1][t]
        self._into_fed = into_h

    def gradients(self) -> list[Tensor | None]:
        """Of everything that `_Feeding` was given, in its order."""
        first = self.layers[0].gates.flatten(0, 1)
        into_embedded = (self._narrow(first) @ self._of_embedded.to(self._narrow(first).dtype)).to(first.dtype)
        of_memory = torch.bmm(self._weights.permute(1, 2, 0), self._into_contexts.transpose(0, 1))
        into_keys, *of_scores = self._scores.gradients(self.layers[-1].outputs, self._into_scores)
        carried = [tensor for state in self._into_states for tensor in state]
        given = [into_embedded.view_as(self._embedded), self._into_fed, of_memory, into_keys, *carried]
        operands = [torch.cat([self._embedded, self.outputs[:-1]], dim=-1), *self._read]
        for steps, operand in zip(self.layers, operands, strict=True):
            given += [*self._of_linear(steps.gates, operand), *steps.gradients()]
        return [*given, *of_scores, *self._of_linear(self._squashed, self._joined)]

    def _of_linear(self, errors: Tensor, operand: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of a linear map's weight and bias, over all steps."""
        flat = errors.flatten(0, 1)
        weight = flat.new_empty(flat.shape[1], operand.shape[-1])
        weight_gradient(self._narrow(flat), operand.flatten(0, 1), weight)
        return weight, flat.sum(0)
