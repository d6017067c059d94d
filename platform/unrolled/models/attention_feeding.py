"""Input feeding and context feeding: attention inside the recurrence, with hand-written backward.

Input feeding (Luong et al. 2015, section 3.3): every step reads the attentional vector of the step before,

    h_t = cell([e_t; o_{t−1}], h_{t−1})
    α_t = softmax(score(h_t, keys)),  c_t = Σ_p α_tp s_p
    o_t = dropout(tanh(R [h_t; c_t] + b))

Context feeding (Xu et al. 2015, "Show, attend and tell"): the state before a step attends, and the context enters the
step with the token,

    α_t = softmax(score(h_{t−1}, keys)),  β_t = σ(w h_{t−1} + b),  ẑ_t = β_t Σ_p α_tp s_p
    h_t = cell([e_t; ẑ_t], h_{t−1})

The gate β lets words that do not depend on the picture ignore it (their section 4.2.1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    StepLinear,
    StepwiseAttention,
    StepwiseStack,
    draw_layer_masks,
    flatten_state,
    linear_gradients,
    unflatten_state,
    uses_bf16,
)
from unrolled.models.encoders import EncoderOutput, Rows
from unrolled.recurrence import Cell, Stack, StackState
from unrolled.recurrence.cell import tanh_backward
from unrolled.recurrence.state import index_rows


def feed_inputs(
    stack: Stack,
    attention: Attention,
    readout: nn.Linear,
    embedded: Tensor,
    memory: EncoderOutput,
    state: StackState,
    first_output: Tensor,
    output_masks: Tensor,
) -> tuple[Tensor, StackState]:
    """Runs input feeding over a window, for a stack that `decoder_loop.supports`.

    Args:
        embedded: e, `(batch, time, features)`.
        memory: with keys.
        state, first_output: h and o before the first step.
        output_masks: scaled dropout masks of the outputs, `(batch, time, output)`.

    Returns:
        o, `(batch, time, output)`, and the state after the last step.
    """
    settings = _InputFeedingSettings(
        [cell for (cell,) in stack.cells()],
        attention,
        memory.mask,
        draw_layer_masks(stack, embedded),
        uses_bf16(stack, embedded),
        readout=readout,
        output_masks=output_masks.transpose(0, 1),
    )
    assert memory.keys is not None
    with torch.autocast(embedded.device.type, enabled=False):
        keys, first = memory.keys.to(embedded.dtype), [*flatten_state(state), first_output]
        outputs, *last = _run(_InputFeedingLoop, settings, embedded.transpose(0, 1), memory.states, keys, first)
    return outputs.transpose(0, 1), unflatten_state(settings.cells, last)


class ContextFeedingOutput(NamedTuple):
    """Result of context feeding over a window.

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
    """Context feeding, one step or a whole window, from states of `hidden` features; β = 1 unless `gated`."""

    def __init__(self, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, 1) if gated else None

    def forward(
        self, attend: AttentionFunction, hidden: Tensor, memory: EncoderOutput, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """`hidden` h_{t−1} `(rows, hidden)` → ẑ_t `(rows, memory_size)` and α_t `(rows, positions)`."""
        contexts, weights = attend(rows.pad(hidden), memory)
        context = rows.unpad(contexts)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return context, rows.unpad(weights)

    def run_window(
        self,
        stack: Stack,
        attention: Attention,
        embedded: Tensor,
        memory: EncoderOutput,
        state: StackState,
        source_index: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> ContextFeedingOutput:
        """Runs a window, for a stack that `decoder_loop.supports`.

        Args:
            embedded: e, `(batch, time, features)`.
            memory: with keys.
            state: before the first step.
            source_index: row of the memory that each row of the batch attends to, `(batch,)`; `None`: row i to row i.
            lengths: steps of every row. If they descend and rows share a memory, steps after a row's last are skipped
                as far as that is faster: their results are zero, and the row's state stays as it was.
        """
        cells, (batch, steps, _) = [cell for (cell,) in stack.cells()], embedded.shape
        bf16, layer_masks = uses_bf16(stack, embedded), draw_layer_masks(stack, embedded)
        assert memory.keys is not None
        with torch.autocast(embedded.device.type, enabled=False):
            states, keys = (each.to(embedded.dtype).contiguous() for each in (memory.states, memory.keys))
            mask = memory.mask
            if source_index is not None and not StepwiseAttention.supports_shared(attention, states, keys):
                states, keys, mask = (index_rows(each, source_index) for each in (states, keys, mask))
                source_index = None
            settings = _ContextFeedingSettings(cells, attention, mask, layer_masks, bf16, source_index, self.gate)
            pieces = [WindowPiece(0, steps, batch)]
            if source_index is not None and lengths is not None:
                pieces = cut_ragged_window(lengths, steps)
            first, results = flatten_state(state), []
            for piece in pieces:
                tokens = embedded[: piece.rows, piece.start : piece.end].transpose(0, 1)
                before = [tensor[: piece.rows] for tensor in first]
                hidden, contexts, weights, *last = _run(
                    _ContextFeedingLoop, settings.restrict(piece), tokens, states, keys, before
                )
                results.append([_pad_rows(tensor, batch) for tensor in (hidden, contexts, weights)])
                first = [torch.cat([new, old[piece.rows :]]) for new, old in zip(last, first, strict=True)]
        hidden, contexts, weights = (torch.cat(each).transpose(0, 1) for each in zip(*results, strict=True))
        return ContextFeedingOutput(hidden, contexts, weights, unflatten_state(cells, first))


def _pad_rows(values: Tensor, batch: int) -> Tensor:
    """`(time, rows, features)` with zeros for the rows up to `batch`."""
    return functional.pad(values, (0, 0, 0, batch - values.shape[1])) if values.shape[1] < batch else values


PIECE_COST = 32
"""Row steps that take as long as one more piece, for which weights are packed and gradients added again."""


class WindowPiece(NamedTuple):
    """The steps from `start` until `end` of the first `rows`."""

    start: int
    end: int
    rows: int


def cut_ragged_window(lengths: list[int], steps: int) -> list[WindowPiece]:
    """Cuts a window whose rows end at different steps into successive pieces that leave out rows that have ended.

    Args:
        lengths: steps of every row. If they do not descend from `steps`, the window is one piece.
        steps: of the window.

    Returns:
        The pieces of least cost that contain all steps of every row.
    """
    if not steps or lengths[:1] != [steps] or any(before < after for before, after in pairwise(lengths)):
        return [WindowPiece(0, steps, len(lengths))]
    ends = sorted({length for length in lengths if length})
    active = [(start, sum(length > start for length in lengths)) for start in (0, *ends)]
    best: list[tuple[int, list[WindowPiece]]] = [(0, [])]  # per end: least cost up to there, and its pieces
    for end in ends:
        options = [
            (cost + rows * (end - start) + PIECE_COST, [*before, WindowPiece(start, end, rows)])
            for (cost, before), (start, rows) in zip(best, active, strict=False)
        ]
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def total_steps(pieces: list[WindowPiece]) -> int:
    """Returns the steps of all rows in the pieces."""
    return sum((end - start) * rows for start, end, rows in pieces)


@dataclass(frozen=True)
class _Settings:
    """Modules and constants of a loop."""

    cells: list[Cell]
    attention: Attention
    mask: Tensor
    layer_masks: list[Tensor]
    bf16: bool
    source_index: Tensor | None = None

    def parameters(self) -> list[Tensor]:
        """Parameters in the order of `_Loop.gradients`."""
        return [*StepwiseStack.parameters(self.cells), *StepwiseAttention.parameters(self.attention)]


class _Loop(ABC):
    """Memory and steps of a loop.

    Args:
        embedded: `(time, batch, features)`.
        states, keys: of the encoder output.
        first: state before the first step, as of `flatten_state`.
    """

    def __init__(
        self, settings: _Settings, embedded: Tensor, states: Tensor, keys: Tensor, first: Sequence[Tensor]
    ) -> None:
        self.length, bf16 = len(embedded), settings.bf16
        self.layers = StepwiseStack(settings.cells, settings.layer_masks, embedded, first, bf16)
        self.attention = StepwiseAttention(
            settings.attention, settings.mask, states, keys, self.length, bf16, settings.source_index
        )

    @abstractmethod
    def forward(self, t: int) -> None:
        """Takes step t."""

    @abstractmethod
    def results(self) -> tuple[Tensor, ...]:
        """Returns the results of all steps, `(time, batch, ·)` each."""

    def begin_backward(self, grad_last: Sequence[Tensor]) -> None:
        """Sets ∂L/∂(state after the last step)."""
        self.layers.begin_backward(grad_last)
        self.attention.begin_backward()

    @abstractmethod
    def backward(self, t: int, *grad_results: Tensor) -> None:
        """Derivative of `forward`: gradients of the results of step t, without their parts through step t + 1."""

    @abstractmethod
    def gradients(self) -> list[Tensor | None]:
        """Returns the gradients of embedded, states, keys, `first` and the parameters."""


def _run(
    kind: type[_Loop], settings: _Settings, embedded: Tensor, states: Tensor, keys: Tensor, first: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Runs a loop; returns its results and the state after the last step."""
    given = (embedded, states, keys, *first, *settings.parameters())
    returned: tuple[Tensor, ...] = _LoopFunction.apply(kind, settings, len(first), *given)
    return returned


class _LoopFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kind: type[_Loop], settings: _Settings, count: int, *given: Tensor) -> Any:
        embedded, states, keys, *first = given[: 3 + count]
        loop = kind(settings, embedded, states, keys, first)
        for t in range(loop.length):
            loop.forward(t)
        ctx.loop = loop
        return (*loop.results(), *loop.layers.last())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> Any:
        loop: _Loop | None = ctx.loop
        if loop is None:
            raise RuntimeError("attention feeding can run backward once: it overwrites its gates with gradients")
        ctx.loop = None
        count = len(loop.results())
        loop.begin_backward(grads[count:])
        for t in reversed(range(loop.length)):
            loop.backward(t, *(grad[t] for grad in grads[:count]))
        return (None, None, None, *loop.gradients())


@dataclass(frozen=True, kw_only=True)
class _InputFeedingSettings(_Settings):
    readout: nn.Linear
    output_masks: Tensor

    def parameters(self) -> list[Tensor]:
        return [*super().parameters(), self.readout.weight, self.readout.bias]


class _InputFeedingLoop(_Loop):
    """Input feeding; `first` ends with the output before the first step, with which `outputs`
    `(time + 1, batch, output)` begins."""

    def __init__(
        self, settings: _InputFeedingSettings, embedded: Tensor, states: Tensor, keys: Tensor, first: Sequence[Tensor]
    ) -> None:
        *state, first_output = first
        super().__init__(settings, embedded, states, keys, state)
        self._readout, self._masks, self._bf16 = settings.readout, settings.output_masks, settings.bf16
        steps, batch, _ = embedded.shape
        output, joined = self._readout.weight.shape
        self.outputs = states.new_empty(steps + 1, batch, output)
        self.outputs[0] = first_output
        self._tanh = states.new_empty(steps, batch, output)  # in the backward pass, the gradient of its argument
        self._joined = states.new_empty(steps, batch, joined)  # [h; c]
        self._projection = StepLinear(self._readout.weight, batch, steps, self._bf16)
        self._grad_output = torch.zeros_like(self.outputs[0])  # ∂L/∂o_{t−1} through step t

    def forward(self, t: int) -> None:
        h = self.layers.forward(t, self.outputs[t])
        self._joined[t][:, : h.shape[1]] = h
        self._joined[t][:, h.shape[1] :] = self.attention.forward(t, h)
        activations = self._projection(self._joined[t])
        activations = torch.add(activations, self._readout.bias, out=self._tanh[t]).tanh_()
        torch.mul(activations, self._masks[t], out=self.outputs[t + 1])

    def results(self) -> tuple[Tensor, ...]:
        return (self.outputs[1:],)

    def backward(self, t: int, *grad_results: Tensor) -> None:
        (grad_output,), tanh = grad_results, self._tanh[t]
        grad = (grad_output + self._grad_output).mul_(self._masks[t])
        tanh_backward(grad, tanh, grad_input=tanh)
        grad_joined, size = self._projection.backward(tanh), self.layers.outputs.shape[-1]
        grad_h = self.attention.backward(t, grad_joined[:, size:]).add_(grad_joined[:, :size])
        self._grad_output = self.layers.backward(t, grad_h)

    def gradients(self) -> list[Tensor | None]:
        grad_embedded, grad_first, of_layers = self.layers.gradients(self.outputs[:-1])
        grad_states, grad_keys, *of_attention = self.attention.gradients(self.layers.outputs)
        of_readout = linear_gradients(self._tanh, self._joined, bf16=self._bf16)
        parameters = [*of_layers, *of_attention, *of_readout]
        return [grad_embedded, grad_states, grad_keys, *grad_first, self._grad_output, *parameters]


@dataclass(frozen=True)
class _ContextFeedingSettings(_Settings):
    gate: nn.Linear | None = None

    def restrict(self, piece: WindowPiece) -> _ContextFeedingSettings:
        """Returns the settings of a piece of the window."""
        masks = [mask[piece.start : piece.end, : piece.rows] for mask in self.layer_masks]
        index = None if self.source_index is None else self.source_index[: piece.rows]
        return replace(self, source_index=index, layer_masks=masks)

    def parameters(self) -> list[Tensor]:
        return [*super().parameters(), *([] if self.gate is None else [self.gate.weight, self.gate.bias])]


class _ContextFeedingLoop(_Loop):
    """Context feeding; `contexts`: ẑ, `(time, batch, features)`."""

    def __init__(
        self, settings: _ContextFeedingSettings, embedded: Tensor, states: Tensor, keys: Tensor, first: Sequence[Tensor]
    ) -> None:
        super().__init__(settings, embedded, states, keys, first)
        steps, batch, _ = embedded.shape
        self._gate = settings.gate
        self._first = first[-settings.cells[-1].num_states].detach().to(embedded.dtype)  # h of the top layer
        self.contexts = states.new_empty(steps, batch, states.shape[2])
        if self._gate is not None:
            self._ungated = torch.empty_like(self.contexts)
            self._beta = states.new_empty(steps, batch, 1)  # in the backward pass, the gradient of its argument

    def _query(self, t: int) -> Tensor:
        return self._first if t == 0 else self.layers.outputs[t - 1]

    def forward(self, t: int) -> None:
        query = self._query(t)
        context = self.attention.forward(t, query)
        if self._gate is None:
            self.contexts[t] = context
        else:
            self._ungated[t] = context
            torch.addmm(self._gate.bias, query, self._gate.weight.t(), out=self._beta[t]).sigmoid_()
            torch.mul(self._beta[t], context, out=self.contexts[t])
        self.layers.forward(t, self.contexts[t])

    def results(self) -> tuple[Tensor, ...]:
        return self.layers.outputs, self.contexts, self.attention.weights

    def backward(self, t: int, *grad_results: Tensor) -> None:
        grad_h, grad_context, grad_weights = grad_results
        grad_context = self.layers.backward(t, grad_h).add_(grad_context)
        if self._gate is None:
            self.layers.add_grad_previous(self.attention.backward(t, grad_context, grad_weights))
            return
        beta = self._beta[t]
        grad_ungated = grad_context * beta
        grad_beta = (grad_context * self._ungated[t]).sum(-1, keepdim=True)
        torch.mul(grad_beta, beta * (1 - beta), out=self._beta[t])
        grad_query = self.attention.backward(t, grad_ungated, grad_weights)
        self.layers.add_grad_previous(grad_query.addmm_(self._beta[t], self._gate.weight))

    def gradients(self) -> list[Tensor | None]:
        queries = torch.cat([self._first[None], self.layers.outputs[:-1]])
        grad_embedded, grad_first, of_layers = self.layers.gradients(self.contexts)
        grad_states, grad_keys, *of_attention = self.attention.gradients(queries)
        gate = []
        if self._gate is not None:
            grad_beta = self._beta.flatten()
            gate = [(grad_beta @ queries.flatten(0, 1))[None], grad_beta.sum()[None]]
        return [grad_embedded, grad_states, grad_keys, *grad_first, *of_layers, *of_attention, *gate]
