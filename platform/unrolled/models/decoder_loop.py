"""Shared parts of step-by-step decoders: stacked cells and attention, with hand-written backward.

The scores of `Attention` one step at a time, with their derivatives by hand, for `feeding`.

What loops share in which more happens between the steps than a scan knows of, with their derivatives by hand.

The share of the tokens is one product before the loop, and the gradients of all weights and of the memory are large
products after it; a loop keeps what only a step can know.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled import native
from unrolled.models.attention import Attention
from unrolled.recurrence import Cell, Stack, StackState, Steps
from unrolled.recurrence.matmul import PackedLinear, linear, matmul_dtype, weight_gradient


class StepwiseScores(ABC):
    """How every step's query is compared with the keys `(batch, positions, features)`."""

    @abstractmethod
    def forward(self, t: int, query: Tensor) -> Tensor:
        """The query `(batch, query)` of step t → scores `(batch, positions)`."""

    @abstractmethod
    def backward(self, t: int, errors: Tensor) -> Tensor:
        """∂L/∂scores of step t → ∂L/∂query."""

    @abstractmethod
    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        """Of the keys and of the parameters, from the queries `(time, batch, query)` and ∂L/∂scores of all steps."""


class ScaledProducts(StepwiseScores):
    """qᵀ k / √d: of `dot` and `general`."""

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._scale = keys, 1 / math.sqrt(keys.shape[-1])

    def forward(self, t: int, query: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(self._keys, query[:, :, None])[:, :, 0].mul_(self._scale)

    def backward(self, t: int, errors: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(errors[:, None], self._keys)[:, 0].mul_(self._scale)

    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        return (torch.bmm(errors.permute(1, 2, 0), queries.transpose(0, 1)).mul_(self._scale),)


class Additive(StepwiseScores):
    """vᵀ tanh(U q + b + k); the tanh is computed again on the way back, so that one step's is held at a time."""

    def __init__(
        self, attention: Attention, keys: Tensor, steps: int, *, half: bool, source_index: Tensor | None = None
    ) -> None:
        keys = keys.contiguous()
        self._half, self._fast = half, native.attention_supported(keys)
        self._keys = native.exp_2x(keys) if self._fast else keys
        self._owners, self._map, self._vector = source_index, attention.query, attention.weight.detach()
        batch = len(keys) if source_index is None else len(source_index)
        weight, shape = self._map.weight.detach(), (batch, steps, half)
        self._into, self._back = PackedLinear(weight, *shape), PackedLinear(weight.t(), *shape)
        self._mapped = keys.new_empty(steps, batch, len(weight))  # U q + b, or its powers where the keys are such
        self._into_mapped = torch.empty_like(self._mapped)
        if not self._fast:
            self._into_keys, self._into_vector = torch.zeros_like(self._keys), torch.zeros_like(self._vector)

    def _squashed(self, t: int) -> Tensor:
        return (self._mapped[t][:, None] + self._keys).tanh_()

    def forward(self, t: int, query: Tensor) -> Tensor:
        torch.add(self._into(query), self._map.bias, out=self._mapped[t])
        if self._fast:
            native.exp_2x(self._mapped[t], out=self._mapped[t])
            return native.additive_scores(self._mapped[t], self._keys, self._vector, self._owners)
        return self._squashed(t) @ self._vector

    def backward(self, t: int, errors: Tensor) -> Tensor:
        if self._fast:
            given = self._mapped[t], self._keys, self._vector, errors, self._owners
            self._into_mapped[t] = native.additive_backward_query(*given)
            return self._back(self._into_mapped[t])
        squashed = self._squashed(t)
        self._into_vector += errors.flatten() @ squashed.flatten(0, 1)
        into = squashed.square_().neg_().add_(1).mul_(self._vector).mul_(errors[:, :, None])
        self._into_keys += into
        torch.sum(into, 1, out=self._into_mapped[t])
        return self._back(self._into_mapped[t])

    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        if self._fast:  # of all steps at once, so that the keys pass through the processor once
            given = self._mapped, self._keys, self._vector, errors, self._owners
            into_keys, into_vector = native.additive_backward_keys(*given)
        else:
            into_keys, into_vector = self._into_keys, self._into_vector
        weight, mapped = torch.empty_like(self._map.weight), self._into_mapped.flatten(0, 1)
        weight_gradient(mapped.bfloat16() if self._half else mapped, queries.flatten(0, 1), weight)
        return into_keys, weight, mapped.sum(0), into_vector


def applies(stack: Stack) -> bool:
    """Whether `Layers` knows all that the stack does between the steps."""
    plain = all(cell.projects_linearly for (cell,) in stack.cells())
    return plain and stack.zoneout == 0 and not stack.residual and stack.engine != "autograd"


def multiplies_narrowly(stack: Stack, embedded: Tensor) -> bool:
    """Whether the products of the loop are in bfloat16."""
    ((cell,), *_) = stack.cells()
    return embedded.dtype == torch.float32 and matmul_dtype(cell.weight_input) == torch.bfloat16


def kept_between(stack: Stack, embedded: Tensor) -> list[Tensor]:
    """What dropout multiplies the outputs of all layers but the last by, `(time, batch, hidden)` each, for tokens
    `embedded` `(batch, time, features)`."""
    ones = embedded.new_ones(*embedded.shape[:2], stack.output_size)
    return [stack.dropout(ones).transpose(0, 1) for _ in stack.cells()[1:]]


def flat(state: StackState) -> list[Tensor]:
    """The tensors of a one-directional stack's state in a row."""
    return [tensor for (tensors,) in state for tensor in tensors]


def nested(cells: Sequence[Cell], tensors: Sequence[Tensor]) -> StackState:
    """Undoes `flat`."""
    each = iter(tensors)
    return tuple((tuple(next(each) for _ in range(cell.num_states)),) for cell in cells)


def layer_parameters(cells: Sequence[Cell]) -> list[Tensor]:
    """In the order of `Layers.gradients`."""
    return [
        parameter
        for cell in cells
        for parameter in (cell.weight_input, cell.bias, cell.weight_hidden, *cell.extra_parameters())
    ]


def look_parameters(attention: Attention) -> list[Tensor]:
    """In the order of `Looks.gradients`, states and keys aside."""
    additive = attention.score == "additive"
    return [attention.query.weight, attention.query.bias, attention.weight] if additive else []


class StepwiseStack:
    """A stack whose lowest layer reads `[embedded; fed]`, where each step's `fed` is known only when it is taken.

    Args:
        between: see `kept_between`.
        embedded: `(time, batch, features)`.
        carried: the state before the first step, `flat`.
        half: multiply in bfloat16.
    """

    def __init__(
        self, cells: Sequence[Cell], between: Sequence[Tensor], embedded: Tensor, carried: Sequence[Tensor], half: bool
    ) -> None:
        self.cells, self._between, self._half = cells, between, half
        self.embedded = embedded.contiguous()
        steps, batch, features = embedded.shape
        first = cells[0].weight_input.detach()
        self._of_embedded, of_fed = first[:, :features], first[:, features:]
        self._rows = [of_fed, *(cell.weight_input.detach() for cell in cells[1:])]
        self._into = self._products(turned=False)
        self._read = [embedded.new_empty(steps, batch, cell.input_size) for cell in cells[1:]]
        self.steps = self._make_steps(list(carried))

    def _products(self, *, turned: bool) -> list[PackedLinear]:
        """With what `fed` and the outputs of lower layers are multiplied."""
        steps, batch, _ = self.embedded.shape
        return [PackedLinear(row.t() if turned else row, batch, steps, self._half) for row in self._rows]

    def _make_steps(self, carried: list[Tensor]) -> list[Steps]:
        made: list[Steps] = []
        for cell in self.cells:
            state, carried = tuple(carried[: cell.num_states]), carried[cell.num_states :]
            gates = self.embedded.new_empty(*self.embedded.shape[:2], cell.num_gates * cell.hidden_size)
            if not made:
                rows = self._narrow(self.embedded.flatten(0, 1))
                projected = rows.new_empty(len(rows), gates.shape[-1]) if self._half else gates.flatten(0, 1)
                linear(rows, self._of_embedded, cell.bias.detach(), projected)
                gates = projected.view(gates.shape).to(gates.dtype)
            made.append(Steps(cell, gates, state, bf16=self._half))
        return made

    def _narrow(self, x: Tensor) -> Tensor:
        """In the type to multiply in."""
        return x.bfloat16() if self._half else x

    @property
    def outputs(self) -> Tensor:
        """h of the top layer, `(time, batch, hidden)`."""
        return self.steps[-1].outputs

    def last(self) -> list[Tensor]:
        """The state after the last step, `flat`."""
        return [tensor for steps in self.steps for tensor in steps.last()]

    def forward(self, t: int, fed: Tensor) -> Tensor:
        """Takes step t; returns the top layer's output `(batch, hidden)`."""
        into_first, *into_upper = self._into
        self.steps[0].gates[t].add_(into_first(fed))
        h = self.steps[0].forward(t)
        for steps, product, read, kept in zip(self.steps[1:], into_upper, self._read, self._between, strict=True):
            torch.mul(h, kept[t], out=read[t])
            torch.add(product(read[t]), steps.cell.bias, out=steps.gates[t])
            h = steps.forward(t)
        return h

    def begin_backward(self, last: Sequence[Tensor]) -> None:
        """Takes ∂L/∂(state after the last step)."""
        self._into = self._products(turned=True)
        copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in last]
        self._into_states = [state for (state,) in nested(self.cells, copies)]

    def backward(self, t: int, into_h: Tensor) -> Tensor:
        """The derivative of `forward`, given ∂L/∂h_t without what goes through the step behind; returns ∂L/∂fed."""
        for depth in reversed(range(len(self.steps))):
            self._into_states[depth][0].add_(into_h)
            self._into_states[depth] = self.steps[depth].backward(t, self._into_states[depth])
            into_h = self._into[depth](self.steps[depth].gates[t])
            if depth > 0:
                into_h = into_h * self._between[depth - 1][t]
        return into_h

    def add_before(self, into_h: Tensor) -> None:
        """Adds to ∂L/∂(the top layer's h before the step that went back last)."""
        self._into_states[-1][0].add_(into_h)

    def gradients(self, fed: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Of the embedded tokens, of the state before the first step, and of `layer_parameters`.

        Args:
            fed: to all steps, `(time, batch, features)`.
        """
        first = self._narrow(self.steps[0].gates.flatten(0, 1))
        into_embedded = (first @ self._of_embedded.to(first.dtype)).to(self.embedded.dtype).view_as(self.embedded)
        carried = [tensor for state in self._into_states for tensor in state]
        given: list[Tensor] = []
        for steps, operand in zip(self.steps, [torch.cat([self.embedded, fed], dim=-1), *self._read], strict=True):
            given += [*of_linear(steps.gates, operand, half=self._half), *steps.gradients()]
        return into_embedded, carried, given


def can_share(attention: Attention, states: Tensor, keys: Tensor) -> bool:
    """Whether `Looks` knows rows that share a memory with these states and keys."""
    return attention.score == "additive" and native.attention_supported(states) and native.attention_supported(keys)


class StepwiseAttention:
    """Attention, one query a step.

    Args:
        mask, states, keys: of a prepared memory.
        half: multiply in bfloat16.
        source_index: the memory that each row of the batch reads, `(batch,)`, where `can_share`; `None`: one each.

    Attributes:
        weights: of every step, `(time, batch, positions)`.
    """

    def __init__(
        self,
        attention: Attention,
        mask: Tensor,
        states: Tensor,
        keys: Tensor,
        steps: int,
        half: bool,
        source_index: Tensor | None = None,
    ) -> None:
        self._states, self._hidden, self._owners = states.contiguous(), (~mask).contiguous(), source_index
        self._fast = native.attention_supported(self._states)
        batch = len(states) if source_index is None else len(source_index)
        self.weights = states.new_empty(steps, batch, states.shape[1])
        additive = attention.score == "additive"
        self._scores = (
            Additive(attention, keys, steps, half=half, source_index=source_index) if additive else ScaledProducts(keys)
        )

    def forward(self, t: int, query: Tensor) -> Tensor:
        """The query `(batch, query)` of step t → its context `(batch, features)`."""
        scores = self._scores.forward(t, query)
        if self._fast:
            self.weights[t] = scores
            return native.attention_forward(self._hidden, self._states, self.weights[t], self._owners)
        scores.masked_fill_(self._hidden, float("-inf"))
        torch.softmax(scores, -1, out=self.weights[t])
        return torch.bmm(self.weights[t][:, None], self._states)[:, 0]

    def begin_backward(self) -> None:
        """Makes room."""
        self._into_scores = torch.empty_like(self.weights)
        self._into_contexts = self._states.new_empty(*self.weights.shape[:2], self._states.shape[2])

    def backward(self, t: int, into_context: Tensor, into_weights: Tensor | None = None) -> Tensor:
        """∂L/∂context of step t, and ∂L/∂weights without what goes through it → ∂L/∂query."""
        self._into_contexts[t] = into_context
        if self._fast:
            errors = self._into_scores[t].zero_() if into_weights is None else self._into_scores[t].copy_(into_weights)
            given = self._hidden, self._states, self.weights[t], into_context, errors, self._owners
            native.attention_backward_scores(*given)
            return self._scores.backward(t, errors)
        through = torch.bmm(self._states, self._into_contexts[t][:, :, None])[:, :, 0]
        through = through if into_weights is None else through + into_weights
        self._into_scores[t] = torch._softmax_backward_data(through, self.weights[t], -1, through.dtype)
        return self._scores.backward(t, self._into_scores[t])

    def gradients(self, queries: Tensor) -> tuple[Tensor, ...]:
        """Of the memory's states and keys, and of `look_parameters`, from the queries of all steps."""
        if self._fast:
            given = self._hidden, self._states, self.weights, self._into_contexts, self._owners
            of_memory = native.attention_backward_states(*given)
        else:
            of_memory = torch.bmm(self.weights.permute(1, 2, 0), self._into_contexts.transpose(0, 1))
        return of_memory, *self._scores.gradients(queries, self._into_scores)


def of_linear(errors: Tensor, operand: Tensor, *, half: bool) -> tuple[Tensor, Tensor]:
    """The gradients of a linear map's weight and bias, over all steps."""
    rows = errors.flatten(0, 1)
    weight = rows.new_empty(rows.shape[1], operand.shape[-1])
    weight_gradient(rows.bfloat16() if half else rows, operand.flatten(0, 1), weight)
    return weight, rows.sum(0)
