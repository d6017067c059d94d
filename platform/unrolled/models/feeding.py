"""Input feeding over a whole window, with its derivative by hand.

Every step reads what the step before has seen (Luong et al. 2015, section 3.3), so attention and readout belong to the
recurrence:

    h_t = cell([e_t; o_{t−1}], h_{t−1})
    α_t = softmax(score(h_t, keys)),  c_t = Σ_p α_tp s_p
    o_t = dropout(tanh(R [h_t; c_t] + b))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unrolled.models.attention import Attention
from unrolled.models.by_hand import (
    Layers,
    Looks,
    flat,
    kept_between,
    layer_parameters,
    look_parameters,
    multiplies_narrowly,
    nested,
    of_linear,
)
from unrolled.models.memory import Memory
from unrolled.recurrence import Cell, Stack, StackState
from unrolled.recurrence.cell import tanh_backward
from unrolled.recurrence.product import Product


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
    """Runs the equations above, for a stack to which `by_hand.applies`.

    Args:
        embedded: e, `(batch, time, features)`.
        memory: prepared.
        state, fed: h and o before the first step.
        kept: what dropout multiplies the outputs by, `(batch, time, output)`.

    Returns:
        o, `(batch, time, output)`, and the state after the last step.
    """
    cells = [cell for (cell,) in stack.cells()]
    half = multiplies_narrowly(stack, embedded)
    between = kept_between(stack, embedded)
    parts = _Parts(cells, attention, readout, memory.mask, kept.transpose(0, 1), between, half)
    assert memory.keys is not None
    with torch.autocast(embedded.device.type, enabled=False):
        given = (embedded.transpose(0, 1), fed, memory.states, memory.keys.to(embedded.dtype))
        outputs, *last = _Feeding.apply(parts, *given, *flat(state), *parts.parameters())
    return outputs.transpose(0, 1), nested(cells, last)


@dataclass(frozen=True)
class _Parts:
    """What the loop is made of."""

    cells: list[Cell]
    attention: Attention
    readout: nn.Linear
    mask: Tensor
    kept: Tensor
    between: list[Tensor]
    half: bool

    def parameters(self) -> list[Tensor]:
        """In the order of `_Loop.gradients`."""
        own = [self.readout.weight, self.readout.bias]
        return [*layer_parameters(self.cells), *look_parameters(self.attention), *own]


class _Feeding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: _Parts, *given: Tensor) -> Any:
        count = sum(cell.tensors for cell in parts.cells)
        embedded, fed, states, keys, *carried = given[: 4 + count]
        loop = _Loop(parts, embedded, fed, states, keys, carried)
        for t in range(len(embedded)):
            loop.forward(t)
        ctx.loop = loop
        return (loop.outputs[1:], *loop.layers.last())

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
    """

    def __init__(
        self, parts: _Parts, embedded: Tensor, fed: Tensor, states: Tensor, keys: Tensor, carried: Sequence[Tensor]
    ) -> None:
        self._parts = parts
        steps, batch, _ = embedded.shape
        output, joined = parts.readout.weight.shape
        self.layers = Layers(parts.cells, parts.between, embedded, carried, parts.half)
        self._looks = Looks(parts.attention, parts.mask, states, keys, steps, parts.half)
        self.outputs = states.new_empty(steps + 1, batch, output)
        self.outputs[0] = fed
        self._squashed = states.new_empty(steps, batch, output)  # tanh; on the way back, the gradient of its argument
        self._joined = states.new_empty(steps, batch, joined)  # [h; c]
        self._into_readout = Product(parts.readout.weight.detach(), batch, steps, parts.half)

    def forward(self, t: int) -> None:
        """Makes o_t."""
        h = self.layers.forward(t, self.outputs[t])
        self._joined[t][:, : h.shape[1]] = h
        self._joined[t][:, h.shape[1] :] = self._looks.forward(t, h)
        squashed = self._into_readout(self._joined[t])
        squashed = torch.add(squashed, self._parts.readout.bias, out=self._squashed[t]).tanh_()
        torch.mul(squashed, self._parts.kept[t], out=self.outputs[t + 1])

    def begin_backward(self, last: Sequence[Tensor]) -> None:
        """Takes ∂L/∂(state after the last step)."""
        self.layers.begin_backward(last)
        self._looks.begin_backward()
        steps, batch, _ = self._joined.shape
        self._into_joined = Product(self._parts.readout.weight.detach().t(), batch, steps, self._parts.half)
        self._into_fed = torch.zeros_like(self.outputs[0])

    def backward(self, t: int, error: Tensor) -> None:
        """The derivative of `forward`, given ∂L/∂o_t without what goes through the step behind."""
        error, squashed = (error + self._into_fed).mul_(self._parts.kept[t]), self._squashed[t]
        tanh_backward(error, squashed, grad_input=squashed)
        joined, size = self._into_joined(squashed), self.layers.outputs.shape[-1]
        into_h = self._looks.backward(t, joined[:, size:]).add_(joined[:, :size])
        self._into_fed = self.layers.backward(t, into_h)

    def gradients(self) -> list[Tensor | None]:
        """Of everything that `_Feeding` was given, in its order."""
        into_embedded, carried, of_layers = self.layers.gradients(self.outputs[:-1])
        into_states, into_keys, *of_scores = self._looks.gradients(self.layers.outputs)
        of_readout = of_linear(self._squashed, self._joined, half=self._parts.half)
        return [into_embedded, self._into_fed, into_states, into_keys, *carried, *of_layers, *of_scores, *of_readout]
