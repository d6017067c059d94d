"""Building blocks of step-by-step decoders with hand-written backward: linear maps, stacked cells and attention.

They serve loops that do more between the steps than a scan. The projection of the tokens is one product before the
loop, and the gradients of all weights and of the encoder output are large products after it; the loop computes only
what depends on the step before.
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


def supports(stack: Stack) -> bool:
    """Whether `StepwiseStack` can run the stack."""
    plain = all(cell.projects_linearly for (cell,) in stack.cells())
    return plain and stack.zoneout == 0 and not stack.residual and stack.engine != "autograd"


def uses_bf16(stack: Stack, embedded: Tensor) -> bool:
    """Whether the products of the loop are computed in bfloat16."""
    ((cell,), *_) = stack.cells()
    return embedded.dtype == torch.float32 and matmul_dtype(cell.weight_input) == torch.bfloat16


def draw_layer_masks(stack: Stack, embedded: Tensor) -> list[Tensor]:
    """Draws the scaled dropout masks of the outputs of all layers but the last, `(time, batch, hidden)` each, for
    tokens `embedded` `(batch, time, features)`."""
    ones = embedded.new_ones(*embedded.shape[:2], stack.output_size)
    return [stack.dropout(ones).transpose(0, 1) for _ in stack.cells()[1:]]


def flatten_state(state: StackState) -> list[Tensor]:
    """Returns the tensors of a one-directional stack's state in a list."""
    return [tensor for (tensors,) in state for tensor in tensors]


def unflatten_state(cells: Sequence[Cell], tensors: Sequence[Tensor]) -> StackState:
    """The inverse of `flatten_state`."""
    each = iter(tensors)
    return tuple((tuple(next(each) for _ in range(cell.num_states)),) for cell in cells)


class StepLinear:
    """x ↦ x Wᵀ at every step of a loop, and its derivative in the loop backward.

    Args:
        weight: `(outputs, inputs)`.
        rows, steps: batch size and number of steps.
        bf16: multiply in bfloat16.
    """

    def __init__(self, weight: Tensor, rows: int, steps: int, bf16: bool) -> None:
        self._weight, self._shape = weight.detach(), (rows, steps, bf16)
        self._forward: PackedLinear | None = PackedLinear(self._weight, *self._shape)
        self._backward: PackedLinear | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`(rows, inputs)` → `(rows, outputs)`; the next call may overwrite it."""
        assert self._forward is not None
        return self._forward(x)

    def backward(self, grad: Tensor) -> Tensor:
        """∂L/∂(x Wᵀ) → ∂L/∂x; the next call may overwrite it. Ends the forward calls."""
        if self._backward is None:
            self._forward, self._backward = None, PackedLinear(self._weight.t(), *self._shape)
        return self._backward(grad)


def linear_gradients(grad: Tensor, operand: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    """Returns the gradients of a linear map's weight and bias over all steps, from ∂L/∂outputs and inputs, both
    `(time, batch, ·)`."""
    rows = grad.flatten(0, 1)
    weight = rows.new_empty(rows.shape[1], operand.shape[-1])
    weight_gradient(rows.bfloat16() if bf16 else rows, operand.flatten(0, 1), weight)
    return weight, rows.sum(0)


class StepwiseStack:
    """A stack whose lowest layer reads `[embedded; feedback]`, where the feedback of a step is known only when the step
    is taken.

    Args:
        layer_masks: see `draw_layer_masks`.
        embedded: `(time, batch, features)`.
        first: state before the first step, from `flatten_state`.
        bf16: multiply in bfloat16.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        layer_masks: Sequence[Tensor],
        embedded: Tensor,
        first: Sequence[Tensor],
        bf16: bool,
    ) -> None:
        self.cells, self._masks, self._bf16 = cells, layer_masks, bf16
        self.embedded = embedded.contiguous()
        steps, batch, features = embedded.shape
        lowest = cells[0].weight_input.detach()
        self._weight_embedded = lowest[:, :features]
        weights = [lowest[:, features:], *(cell.weight_input for cell in cells[1:])]
        self._projections = [StepLinear(weight, batch, steps, bf16) for weight in weights]
        self._inputs = [embedded.new_empty(steps, batch, cell.input_size) for cell in cells[1:]]
        self.steps = [
            Steps(cell, self._gates(cell, lowest=depth == 0), state, bf16=bf16)
            for depth, (cell, (state,)) in enumerate(zip(cells, unflatten_state(cells, first), strict=True))
        ]

    @staticmethod
    def parameters(cells: Sequence[Cell]) -> list[Tensor]:
        """Returns the parameters in the order of `gradients`."""
        return [
            parameter
            for cell in cells
            for parameter in (cell.weight_input, cell.bias, cell.weight_hidden, *cell.extra_parameters())
        ]

    def _gates(self, cell: Cell, *, lowest: bool) -> Tensor:
        """Memory of a layer's gates; of the lowest layer with the projected tokens."""
        gates = self.embedded.new_empty(*self.embedded.shape[:2], cell.num_gates * cell.hidden_size)
        if not lowest:
            return gates
        rows = self._operand(self.embedded.flatten(0, 1))
        projected = rows.new_empty(len(rows), gates.shape[-1]) if self._bf16 else gates.flatten(0, 1)
        linear(rows, self._weight_embedded, cell.bias.detach(), projected)
        return projected.view(gates.shape).to(gates.dtype)

    def _operand(self, x: Tensor) -> Tensor:
        """In the type to multiply in."""
        return x.bfloat16() if self._bf16 else x

    @property
    def outputs(self) -> Tensor:
        """h of the top layer, `(time, batch, hidden)`."""
        return self.steps[-1].outputs

    def last(self) -> list[Tensor]:
        """Returns the state after the last step, as of `flatten_state`."""
        return [tensor for steps in self.steps for tensor in steps.last()]

    def forward(self, t: int, feedback: Tensor) -> Tensor:
        """Takes step t; returns the top layer's output `(batch, hidden)`."""
        lowest, *upper = self._projections
        self.steps[0].gates[t].add_(lowest(feedback))
        h = self.steps[0].forward(t)
        for steps, projection, inputs, mask in zip(self.steps[1:], upper, self._inputs, self._masks, strict=True):
            torch.mul(h, mask[t], out=inputs[t])
            torch.add(projection(inputs[t]), steps.cell.bias, out=steps.gates[t])
            h = steps.forward(t)
        return h

    def begin_backward(self, grad_last: Sequence[Tensor]) -> None:
        """Sets ∂L/∂(state after the last step)."""
        copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in grad_last]
        self._grad_states = [state for (state,) in unflatten_state(self.cells, copies)]

    def backward(self, t: int, grad_h: Tensor) -> Tensor:
        """Derivative of `forward`: ∂L/∂h_t, without its part through step t + 1 → ∂L/∂feedback."""
        for depth in reversed(range(len(self.steps))):
            self._grad_states[depth][0].add_(grad_h)
            self._grad_states[depth] = self.steps[depth].backward(t, self._grad_states[depth])
            grad_h = self._projections[depth].backward(self.steps[depth].gates[t])
            if depth > 0:
                grad_h = grad_h * self._masks[depth - 1][t]
        return grad_h

    def add_grad_previous(self, grad_h: Tensor) -> None:
        """Adds to ∂L/∂h_{t−1} of the top layer, after the backward step t."""
        self._grad_states[-1][0].add_(grad_h)

    def gradients(self, feedback: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Returns the gradients of the embedded tokens, of the state before the first step, and of `parameters`, given
        the feedback of all steps, `(time, batch, features)`."""
        lowest = self._operand(self.steps[0].gates.flatten(0, 1))
        grad_embedded = (lowest @ self._weight_embedded.to(lowest.dtype)).to(self.embedded.dtype).view_as(self.embedded)
        grad_first = [tensor for state in self._grad_states for tensor in state]
        grads: list[Tensor] = []
        for steps, inputs in zip(
            self.steps, [torch.cat([self.embedded, feedback], dim=-1), *self._inputs], strict=True
        ):
            grads += [*linear_gradients(steps.gates, inputs, bf16=self._bf16), *steps.gradients()]
        return grad_embedded, grad_first, grads


class StepwiseAttention:
    """Attention with one query per step.

    Args:
        mask, states, keys: of an encoder output.
        bf16: multiply in bfloat16.
        source_index: row of the encoder output per batch row, `(batch,)`, where `supports_shared` holds; `None`: row i
            attends to row i.

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
        bf16: bool,
        source_index: Tensor | None = None,
    ) -> None:
        self._states, self._padding, self._source_index = states.contiguous(), (~mask).contiguous(), source_index
        self._native = native.attention_supported(self._states)
        batch = len(states) if source_index is None else len(source_index)
        self.weights = states.new_empty(steps, batch, states.shape[1])
        self._scores: _StepwiseScores = (
            _AdditiveScores(attention, keys, steps, bf16=bf16, source_index=source_index)
            if attention.score == "additive"
            else _DotScores(keys)
        )

    @staticmethod
    def parameters(attention: Attention) -> list[Tensor]:
        """Returns the parameters in the order of `gradients`, states and keys excluded."""
        additive = attention.score == "additive"
        return [attention.query.weight, attention.query.bias, attention.weight] if additive else []

    @staticmethod
    def supports_shared(attention: Attention, states: Tensor, keys: Tensor) -> bool:
        """Whether rows may share these states and keys."""
        supported = native.attention_supported(states) and native.attention_supported(keys)
        return attention.score == "additive" and supported

    def forward(self, t: int, query: Tensor) -> Tensor:
        """The query `(batch, query_size)` of step t → its context `(batch, features)`."""
        scores = self._scores.forward(t, query)
        if self._native:
            self.weights[t] = scores
            return native.attention_forward(self._padding, self._states, self.weights[t], self._source_index)
        scores.masked_fill_(self._padding, float("-inf"))
        torch.softmax(scores, -1, out=self.weights[t])
        return torch.bmm(self.weights[t][:, None], self._states)[:, 0]

    def begin_backward(self) -> None:
        """Allocates the gradients."""
        self._grad_scores = torch.empty_like(self.weights)
        self._grad_contexts = self._states.new_empty(*self.weights.shape[:2], self._states.shape[2])

    def backward(self, t: int, grad_context: Tensor, grad_weights: Tensor | None = None) -> Tensor:
        """∂L/∂context of step t, and ∂L/∂weights without its part through the context → ∂L/∂query."""
        self._grad_contexts[t] = grad_context
        if self._native:
            grad = self._grad_scores[t].zero_() if grad_weights is None else self._grad_scores[t].copy_(grad_weights)
            native.attention_backward_scores(
                self._padding, self._states, self.weights[t], grad_context, grad, self._source_index
            )
            return self._scores.backward(t, grad)
        grad = torch.bmm(self._states, self._grad_contexts[t][:, :, None])[:, :, 0]
        grad = grad if grad_weights is None else grad + grad_weights
        self._grad_scores[t] = torch._softmax_backward_data(grad, self.weights[t], -1, grad.dtype)
        return self._scores.backward(t, self._grad_scores[t])

    def gradients(self, queries: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of the states, of the keys and of `parameters`, given the queries of all steps."""
        if self._native:
            grad_states = native.attention_backward_states(
                self._padding, self._states, self.weights, self._grad_contexts, self._source_index
            )
        else:
            grad_states = torch.bmm(self.weights.permute(1, 2, 0), self._grad_contexts.transpose(0, 1))
        return grad_states, *self._scores.gradients(queries, self._grad_scores)


class _StepwiseScores(ABC):
    """Scores of one query per step against the keys `(batch, positions, features)`."""

    @abstractmethod
    def forward(self, t: int, query: Tensor) -> Tensor:
        """The query `(batch, query_size)` of step t → scores `(batch, positions)`."""

    @abstractmethod
    def backward(self, t: int, grad_scores: Tensor) -> Tensor:
        """∂L/∂scores of step t → ∂L/∂query."""

    @abstractmethod
    def gradients(self, queries: Tensor, grad_scores: Tensor) -> tuple[Tensor, ...]:
        """Gradients of keys and parameters, given queries `(time, batch, query_size)` and ∂L/∂scores of all steps."""


class _DotScores(_StepwiseScores):
    """qᵀ k / √d: of `dot` and `general`."""

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._scale = keys, 1 / math.sqrt(keys.shape[-1])

    def forward(self, t: int, query: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(self._keys, query[:, :, None])[:, :, 0].mul_(self._scale)

    def backward(self, t: int, grad_scores: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(grad_scores[:, None], self._keys)[:, 0].mul_(self._scale)

    def gradients(self, queries: Tensor, grad_scores: Tensor) -> tuple[Tensor, ...]:
        return (torch.bmm(grad_scores.permute(1, 2, 0), queries.transpose(0, 1)).mul_(self._scale),)


class _AdditiveScores(_StepwiseScores):
    """vᵀ tanh(U q + b + k); the tanh is recomputed in the backward pass, so that one step's is held at a time."""

    def __init__(
        self, attention: Attention, keys: Tensor, steps: int, *, bf16: bool, source_index: Tensor | None = None
    ) -> None:
        keys = keys.contiguous()
        self._bf16, self._native, self._source_index = bf16, native.attention_supported(keys), source_index
        self._keys = native.exp_2x(keys) if self._native else keys
        self._bias, self._vector = attention.query.bias, attention.weight.detach()
        batch = len(keys) if source_index is None else len(source_index)
        self._projection = StepLinear(attention.query.weight, batch, steps, bf16)
        self._projected = keys.new_empty(steps, batch, len(self._vector))  # U q + b, or its `exp_2x` as for the keys
        self._grad_projected = torch.empty_like(self._projected)
        if not self._native:
            self._grad_keys, self._grad_vector = torch.zeros_like(self._keys), torch.zeros_like(self._vector)

    def _tanh(self, t: int) -> Tensor:
        return (self._projected[t][:, None] + self._keys).tanh_()

    def forward(self, t: int, query: Tensor) -> Tensor:
        projected = torch.add(self._projection(query), self._bias, out=self._projected[t])
        if self._native:
            native.exp_2x(projected, out=projected)
            return native.additive_scores(projected, self._keys, self._vector, self._source_index)
        return self._tanh(t) @ self._vector

    def backward(self, t: int, grad_scores: Tensor) -> Tensor:
        if self._native:
            given = self._projected[t], self._keys, self._vector, grad_scores, self._source_index
            self._grad_projected[t] = native.additive_backward_query(*given)
            return self._projection.backward(self._grad_projected[t])
        activations = self._tanh(t)
        self._grad_vector += grad_scores.flatten() @ activations.flatten(0, 1)
        grad = activations.square_().neg_().add_(1).mul_(self._vector).mul_(grad_scores[:, :, None])
        self._grad_keys += grad
        torch.sum(grad, 1, out=self._grad_projected[t])
        return self._projection.backward(self._grad_projected[t])

    def gradients(self, queries: Tensor, grad_scores: Tensor) -> tuple[Tensor, ...]:
        if self._native:  # of all steps at once, so that the keys pass through the processor once
            given = self._projected, self._keys, self._vector, grad_scores, self._source_index
            grad_keys, grad_vector = native.additive_backward_keys(*given)
        else:
            grad_keys, grad_vector = self._grad_keys, self._grad_vector
        return grad_keys, *linear_gradients(self._grad_projected, queries, bf16=self._bf16), grad_vector
