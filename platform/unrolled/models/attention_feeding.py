"""Input feeding and context feeding: attention inside the recurrence, with hand-written backward.

Input feeding over a whole window, with its derivative by hand.

Every step reads what the step before has seen (Luong et al. 2015, section 3.3), so attention and readout belong to the
recurrence:

    h_t = cell([e_t; o_{t−1}], h_{t−1})
    α_t = softmax(score(h_t, keys)),  c_t = Σ_p α_tp s_p
    o_t = dropout(tanh(R [h_t; c_t] + b))

A window whose rows end one after the other, cut into pieces that leave out the rows that have ended.

What attention saw, fed into the recurrence (Xu et al. 2015, "Show, attend and tell"): one step, and a whole window
with its derivative by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from unrolled.models.attention import Attention, AttentionFunction
from unrolled.models.decoder_loop import (
    StepwiseAttention,
    StepwiseStack,
    can_share,
    flat,
    kept_between,
    layer_parameters,
    look_parameters,
    multiplies_narrowly,
    nested,
    of_linear,
)
from unrolled.models.encoders import EncoderOutput, Rows
from unrolled.recurrence import Cell, Stack, StackState
from unrolled.recurrence.cell import tanh_backward
from unrolled.recurrence.matmul import PackedLinear
from unrolled.recurrence.state import index_rows


def feed(
    stack: Stack,
    attention: Attention,
    readout: nn.Linear,
    embedded: Tensor,
    memory: EncoderOutput,
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
    parts = _InputFeedingParts(cells, attention, readout, memory.mask, kept.transpose(0, 1), between, half)
    assert memory.keys is not None
    with torch.autocast(embedded.device.type, enabled=False):
        given = (embedded.transpose(0, 1), fed, memory.states, memory.keys.to(embedded.dtype))
        outputs, *last = _Feeding.apply(parts, *given, *flat(state), *parts.parameters())
    return outputs.transpose(0, 1), nested(cells, last)


@dataclass(frozen=True)
class _InputFeedingParts:
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
    def forward(ctx: Any, parts: _InputFeedingParts, *given: Tensor) -> Any:
        count = sum(cell.num_states for cell in parts.cells)
        embedded, fed, states, keys, *carried = given[: 4 + count]
        loop = _InputFeedingLoop(parts, embedded, fed, states, keys, carried)
        for t in range(len(embedded)):
            loop.forward(t)
        ctx.loop = loop
        return (loop.outputs[1:], *loop.layers.last())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_outputs: Tensor, *last: Tensor) -> Any:
        if ctx.loop is None:
            raise RuntimeError("input feeding goes back once: its gates have become gradients")
        loop: _InputFeedingLoop = ctx.loop
        ctx.loop = None
        loop.begin_backward(last)
        for t in reversed(range(len(into_outputs))):
            loop.backward(t, into_outputs[t])
        return (None, *loop.gradients())


class _InputFeedingLoop:
    """The memory of all steps.

    Attributes:
        outputs: o, before the first step and after every one, `(time + 1, batch, output)`.
    """

    def __init__(
        self,
        parts: _InputFeedingParts,
        embedded: Tensor,
        fed: Tensor,
        states: Tensor,
        keys: Tensor,
        carried: Sequence[Tensor],
    ) -> None:
        self._parts = parts
        steps, batch, _ = embedded.shape
        output, joined = parts.readout.weight.shape
        self.layers = StepwiseStack(parts.cells, parts.between, embedded, carried, parts.half)
        self._looks = StepwiseAttention(parts.attention, parts.mask, states, keys, steps, parts.half)
        self.outputs = states.new_empty(steps + 1, batch, output)
        self.outputs[0] = fed
        self._squashed = states.new_empty(steps, batch, output)  # tanh; on the way back, the gradient of its argument
        self._joined = states.new_empty(steps, batch, joined)  # [h; c]
        self._into_readout = PackedLinear(parts.readout.weight.detach(), batch, steps, parts.half)

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
        self._into_joined = PackedLinear(self._parts.readout.weight.detach().t(), batch, steps, self._parts.half)
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


CUT = 32
"""Steps of a row that take as long as one piece more, whose weights are packed and whose gradients are added anew."""


class WindowPiece(NamedTuple):
    """The steps from `start` until `end` of the first `rows`."""

    start: int
    end: int
    rows: int


def cut_ragged_window(lengths: list[int], steps: int) -> list[WindowPiece]:
    """Returns the pieces that cost least, one after the other, in which every row has all of its steps.

    Args:
        lengths: steps of every row. If they do not fall from `steps` on, one piece is all.
        steps: of the window.
    """
    if not steps or lengths[:1] != [steps] or any(before < after for before, after in pairwise(lengths)):
        return [WindowPiece(0, steps, len(lengths))]
    ends = sorted({length for length in lengths if length})
    alive = [(start, sum(length > start for length in lengths)) for start in (0, *ends)]
    best: list[tuple[int, list[WindowPiece]]] = [(0, [])]  # by end: up to there, what it costs and how it is cut
    for end in ends:
        ways = [
            (cost + rows * (end - start) + CUT, [*before, WindowPiece(start, end, rows)])
            for (cost, before), (start, rows) in zip(best, alive, strict=False)
        ]
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]


def total_steps(pieces: list[WindowPiece]) -> int:
    """Returns the steps of all rows that the pieces take."""
    return sum((end - start) * rows for start, end, rows in pieces)


class Run(NamedTuple):
    """A window.

    Attributes:
        hidden: states of the top layer, `(batch, time, hidden)`.
        contexts: ẑ, `(batch, time, features)`.
        weights: of attention, `(batch, time, positions)`.
        state: after the last step.
    """

    hidden: Tensor
    contexts: Tensor
    weights: Tensor
    state: StackState


class ContextFeeding(nn.Module):
    """The state before a step looks, and what it saw enters the step beside the token:

        α_t = softmax(score(h_{t−1}, keys)),  β_t = σ(w h_{t−1} + b),  ẑ_t = β_t Σ_p α_tp s_p
        h_t = cell([e_t; ẑ_t], h_{t−1})

    The gate β lets words that owe nothing to the picture ignore it (their section 4.2.1).

    Args:
        hidden: features of h.
        gated: else β = 1.
    """

    def __init__(self, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, 1) if gated else None

    def forward(
        self, look: AttentionFunction, hidden: Tensor, memory: EncoderOutput, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """`hidden` h_{t−1} `(rows, hidden)` → ẑ_t `(rows, memory_size)` and α_t `(rows, positions)`."""
        seen, weights = look(rows.pad(hidden), memory)
        context = rows.unpad(seen)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return context, rows.unpad(weights)

    def run(
        self,
        stack: Stack,
        attention: Attention,
        embedded: Tensor,
        memory: EncoderOutput,
        state: StackState,
        source_index: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> Run:
        """Runs the equations over a window, for a stack to which `by_hand.applies`.

        Args:
            embedded: e, `(batch, time, features)`.
            memory: prepared.
            state: before the first step.
            source_index: the row of the memory that each row of the batch looks at, `(batch,)`; `None`: its own.
            lengths: steps of every row. Where they fall and rows share a memory, steps behind a row's last are left out
                as far as that pays: what they would have given is zero, and the row's state stays as it was.
        """
        cells, half = [cell for (cell,) in stack.cells()], multiplies_narrowly(stack, embedded)
        between, (batch, steps, _) = kept_between(stack, embedded), embedded.shape
        assert memory.keys is not None
        with torch.autocast(embedded.device.type, enabled=False):
            seen, mask = [each.to(embedded.dtype).contiguous() for each in (memory.states, memory.keys)], memory.mask
            if source_index is not None and not can_share(attention, *seen):
                (*seen, mask), source_index = [index_rows(each, source_index) for each in (*seen, mask)], None
            parts = _ContextFeedingParts(cells, attention, self.gate, mask, source_index, between, half)
            pieces = (
                [WindowPiece(0, steps, batch)]
                if source_index is None or lengths is None
                else cut_ragged_window(lengths, steps)
            )
            carried, made = flat(state), []
            for piece in pieces:
                own, rows = parts.of(piece), slice(piece.rows)
                given = embedded[rows, piece.start : piece.end].transpose(0, 1)
                before = [tensor[rows] for tensor in carried]
                *run, last = own.run(given, seen, before)
                made.append([_with_rows(tensor, batch) for tensor in run])
                carried = [torch.cat([new, old[piece.rows :]]) for new, old in zip(last, carried, strict=True)]
        hidden, contexts, weights = (torch.cat(each).transpose(0, 1) for each in zip(*made, strict=True))
        return Run(hidden, contexts, weights, nested(cells, carried))


def _with_rows(made: Tensor, batch: int) -> Tensor:
    """`(time, rows, features)` with zeros for the rows up to `batch`."""
    return functional.pad(made, (0, 0, 0, batch - made.shape[1])) if made.shape[1] < batch else made


@dataclass(frozen=True)
class _ContextFeedingParts:
    """What the loop is made of."""

    cells: list[Cell]
    attention: Attention
    gate: nn.Linear | None
    mask: Tensor
    source_index: Tensor | None
    between: list[Tensor]
    half: bool

    def of(self, piece: WindowPiece) -> _ContextFeedingParts:
        """The same for a piece of the window."""
        between = [kept[piece.start : piece.end, : piece.rows] for kept in self.between]
        return replace(
            self, source_index=None if self.source_index is None else self.source_index[: piece.rows], between=between
        )

    def run(
        self, embedded: Tensor, seen: Sequence[Tensor], before: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Runs the loop.

        Args:
            embedded: `(time, batch, features)`.
            seen: states and keys of the memory.
            before: the state before the first step, `flat`.

        Returns:
            Hidden states, contexts, weights, `(time, batch, ·)`; and the state after the last step.
        """
        hidden, contexts, weights, *last = _ContextFeeding.apply(self, embedded, *seen, *before, *self.parameters())
        return hidden, contexts, weights, last

    def parameters(self) -> list[Tensor]:
        """In the order of `_Loop.gradients`."""
        own = [] if self.gate is None else [self.gate.weight, self.gate.bias]
        return [*layer_parameters(self.cells), *look_parameters(self.attention), *own]


class _ContextFeeding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: _ContextFeedingParts, *given: Tensor) -> Any:
        count = sum(cell.num_states for cell in parts.cells)
        embedded, states, keys, *carried = given[: 3 + count]
        loop = _ContextFeedingLoop(parts, embedded, states, keys, carried)
        for t in range(len(embedded)):
            loop.forward(t)
        ctx.loop = loop
        return (loop.layers.outputs, loop.fed, loop.looks.weights, *loop.layers.last())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *into: Tensor) -> Any:
        if ctx.loop is None:
            raise RuntimeError("context feeding goes back once: its gates have become gradients")
        loop: _ContextFeedingLoop = ctx.loop
        ctx.loop = None
        into_outputs, into_fed, into_weights, *last = into
        loop.begin_backward(last)
        for t in reversed(range(len(into_outputs))):
            loop.backward(t, into_outputs[t], into_fed[t], into_weights[t])
        return (None, *loop.gradients())


class _ContextFeedingLoop:
    """The memory of all steps.

    Attributes:
        fed: ẑ, `(time, batch, features)`.
    """

    def __init__(
        self, parts: _ContextFeedingParts, embedded: Tensor, states: Tensor, keys: Tensor, carried: Sequence[Tensor]
    ) -> None:
        steps, batch, _ = embedded.shape
        self._gate = parts.gate
        self.layers = StepwiseStack(parts.cells, parts.between, embedded, carried, parts.half)
        self.looks = StepwiseAttention(parts.attention, parts.mask, states, keys, steps, parts.half, parts.source_index)
        self._before = carried[-parts.cells[-1].num_states].detach().to(embedded.dtype)  # h of the top layer
        self.fed = states.new_empty(steps, batch, states.shape[2])
        if parts.gate is not None:
            self._seen = torch.empty_like(self.fed)
            self._open = states.new_empty(steps, batch, 1)  # β; on the way back, the gradient of its argument

    def _query(self, t: int) -> Tensor:
        return self._before if t == 0 else self.layers.outputs[t - 1]

    def forward(self, t: int) -> None:
        """Takes step t."""
        query = self._query(t)
        seen = self.looks.forward(t, query)
        if self._gate is None:
            self.fed[t] = seen
        else:
            self._seen[t] = seen
            torch.addmm(self._gate.bias, query, self._gate.weight.t(), out=self._open[t]).sigmoid_()
            torch.mul(self._open[t], seen, out=self.fed[t])
        self.layers.forward(t, self.fed[t])

    def begin_backward(self, last: Sequence[Tensor]) -> None:
        """Takes ∂L/∂(state after the last step)."""
        self.layers.begin_backward(last)
        self.looks.begin_backward()

    def backward(self, t: int, into_h: Tensor, into_fed: Tensor, into_weights: Tensor) -> None:
        """The derivative of `forward`, given those of what step t gave, without what goes through the step behind."""
        into_fed = self.layers.backward(t, into_h).add_(into_fed)
        if self._gate is None:
            self.layers.add_before(self.looks.backward(t, into_fed, into_weights))
            return
        opened = self._open[t]
        into_seen = into_fed * opened
        error = (into_fed * self._seen[t]).sum(-1, keepdim=True)
        torch.mul(error, opened * (1 - opened), out=self._open[t])
        into_query = self.looks.backward(t, into_seen, into_weights)
        self.layers.add_before(into_query.addmm_(self._open[t], self._gate.weight))

    def gradients(self) -> list[Tensor]:
        """Of everything that `_ContextFeeding` was given, in its order."""
        queries = torch.cat([self._before[None], self.layers.outputs[:-1]])
        into_embedded, carried, of_layers = self.layers.gradients(self.fed)
        into_states, into_keys, *of_scores = self.looks.gradients(queries)
        given = [into_embedded, into_states, into_keys, *carried, *of_layers, *of_scores]
        if self._gate is None:
            return given
        errors = self._open.flatten()
        return [*given, (errors @ queries.flatten(0, 1))[None], errors.sum()[None]]
