"""Back-propagation through time by hand: one autograd.Function for every cell.

Forward, one product projects the inputs of all steps; then every step overwrites its projected input with its gates.
Backward, from the last step to the first, a step overwrites its gates with their gradients. A scan therefore holds
inputs, states and gates once, and the gradients of all weights and of the inputs are single large products after the
loop. Compiled loops skip padding altogether: gates and inputs are then held for real steps alone.

Under `torch.autocast` with bfloat16, all products are of bfloat16 with sums in float32. States and element-wise
computations are float32; gates are stored in bfloat16 between the passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled import native
from unrolled.recurrence import cuda_graphs
from unrolled.recurrence.cell import Cell, State, StepBuffers
from unrolled.recurrence.layer_norm import NormalizationBuffers, NormalizedLinear, NormalizedLinearBackward
from unrolled.recurrence.matmul import PackedLinear, linear, matmul_dtype, weight_gradient, weight_gradients
from unrolled.recurrence.regularization import Zoneout


def bptt(
    cell: Cell,
    inputs: Tensor,
    state: State,
    mask: Tensor | None,
    zoneout: Zoneout | None = None,
    *,
    reverse: bool = False,
    static_input: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Runs `cell` over time.

    Args:
        inputs: `(time, batch, features)`.
        state: before the first step.
        mask: `(time, batch)`, bool; the state is carried through where it is False. `None`: all True.
        zoneout: applied where the mask is True.
        reverse: from the last step to the first.
        static_input: the last features of the input, `(batch, features)`, if they are the same at every step; only for
            a cell that `projects_linearly`.

    Returns:
        The outputs `(time, batch, hidden)` and the state after the last step.
    """
    bf16 = cell.bias.dtype == torch.float32 and matmul_dtype(cell.bias) == torch.bfloat16
    settings = _Settings(cell, bf16, mask, zoneout, reverse)
    gain = () if cell.gain_hidden is None else (cell.gain_hidden,)
    parameters = (*cell.input_parameters(), cell.weight_hidden, *gain, *cell.extra_parameters())
    with torch.autocast(inputs.device.type, enabled=False):
        outputs, *after = _BPTT.apply(settings, inputs, static_input, *state, *parameters)
    return outputs, tuple(after)


@dataclass(frozen=True)
class _Settings:
    cell: Cell
    bf16: bool
    mask: Tensor | None
    zoneout: Zoneout | None
    reverse: bool

    @property
    def native(self) -> bool:
        """Whether the loops run as compiled code."""
        return self.plain and native.scan_supported(self.cell, bf16=self.bf16)

    def uses_graph(self, gates: Tensor) -> bool:
        """Whether the loops are recorded as CUDA graphs."""
        return self.plain and (gates.is_cuda or cuda_graphs.on_any_device)

    @property
    def plain(self) -> bool:
        """Whether the steps need no tensors besides those of `_forward` and `_backward`."""
        return self.zoneout is None and self.cell.gain_hidden is None


class _BPTT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: _Settings, inputs: Tensor, static_input: Tensor | None, *given: Tensor) -> Any:
        cell = settings.cell
        (steps, batch, _), size, like = inputs.shape, cell.hidden_size, cell.bias
        use_native = settings.native
        valid = valid_indices(settings.mask) if use_native else None
        flat = flatten_valid(inputs, valid).to(torch.bfloat16 if settings.bf16 else like.dtype)
        held = flat.shape[:1] if use_native else (steps, batch)
        gates = flat.new_empty(*held, cell.num_gates * size)
        static_input = None if static_input is None else static_input.to(flat.dtype)
        projection = project_forward(cell, flat, static_input, valid, gates.view(-1, cell.num_gates * size))
        states = [like.new_empty(steps + 1, batch, size) for _ in range(cell.num_states)]
        # The cell's new states before zoneout; without zoneout, they are the states themselves.
        proposed = [like.new_empty(steps, batch, size) for _ in states] if settings.zoneout else []
        dtype = gates.dtype if use_native else like.dtype
        saved = [like.new_empty(*held, size, dtype=dtype) for _ in range(cell.num_saved)]
        for buffer, state in zip(states, given, strict=False):
            buffer[-1 if settings.reverse else 0] = state
        normalizations = _normalization_buffers(cell, steps, batch)
        memory = [gates, *states, *proposed, *saved]
        if settings.uses_graph(gates):
            _graph_forward(settings, memory)
        elif use_native:
            native.run_scan(cell, gates, states, saved, valid, settings.reverse)
        else:
            _forward(settings, normalizations, memory)
        ctx.save_for_backward(flat, static_input, valid, *memory, *projection)
        ctx.settings, ctx.normalizations, ctx.dtype = settings, normalizations, inputs.dtype
        ctx.copied, ctx.batch_first = flat.data_ptr() != inputs.data_ptr(), not inputs.is_contiguous()
        outputs = states[0][:-1] if settings.reverse else states[0][1:]
        return (outputs, *(buffer[0 if settings.reverse else -1] for buffer in states))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_outputs: Tensor, *grad_last: Tensor) -> Any:
        settings: _Settings = ctx.settings
        cell, normalizations = settings.cell, ctx.normalizations
        inputs, static_input, valid, *rest = ctx.saved_tensors  # raises if a first call has overwritten them
        count = 1 + cell.num_states * (2 if settings.zoneout else 1) + cell.num_saved
        memory, projection = rest[:count], rest[count:]
        gates, states, proposed, saved = _split_memory(settings, memory)
        gradient: State
        if settings.uses_graph(gates):
            gradient = _graph_backward(settings, [gates, *saved], [*states, grad_outputs, *grad_last])
        elif settings.native:
            gradient = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in grad_last)
            native.run_scan(cell, gates, states, saved, valid, settings.reverse, grad_outputs, gradient)
        else:
            gradient = _backward(settings, normalizations, memory, grad_outputs, *grad_last)
        grad_gates, *saved = (buffer.flatten(0, -2) for buffer in (gates, *saved))
        grad_inputs = inputs if ctx.copied else torch.empty_like(inputs)  # a copy is no longer needed
        grad_static, of_projection = project_backward(
            cell, inputs, static_input, valid, projection, grad_gates, grad_inputs
        )
        all_steps = StepBuffers(cell.slice_gates(grad_gates), *_flat_states(settings, states, proposed, valid), saved)
        of_weights = _recurrent_gradients(cell, cell.weight_grad_operands(all_steps), normalizations, gates.dtype)
        steps, batch, _ = grad_outputs.shape
        grad_inputs = unflatten_valid(grad_inputs.to(ctx.dtype), valid, steps, batch, batch_first=ctx.batch_first)
        grad_static = None if grad_static is None else grad_static.to(ctx.dtype)
        extra = cell.extra_gradients(all_steps)
        return (None, grad_inputs, grad_static, *gradient, *of_projection, *of_weights, *extra)


def _forward(settings: _Settings, normalizations: list[NormalizationBuffers], memory: Sequence[Tensor]) -> State:
    """The loop over the steps; `memory` as `_split_memory` sorts it."""
    zoneout, loop = settings.zoneout, _Loop(settings, *_split_memory(settings, memory))
    recurrent = _recurrent_products(settings, memory[0], normalizations, transposed=False)
    for t in loop.order(backward=False):
        for normalization in normalizations:
            normalization.t = t
        settings.cell.step_forward(loop.load(t, recurrent))
        loop.store(t)
        if zoneout:
            for buffer, value in zip(loop.after[t], zoneout.mix(t, loop.proposed[t], loop.before[t]), strict=True):
                buffer.copy_(value)
        if loop.ragged[t]:
            for new, old in zip(loop.after[t], loop.before[t], strict=True):
                torch.where(loop.masks[t], new, old, out=new)
    return ()


def _backward(
    settings: _Settings,
    normalizations: list[NormalizationBuffers],
    memory: Sequence[Tensor],
    grad_outputs: Tensor,
    *grad_last: Tensor,
) -> State:
    """The loop from the gradients of outputs and last state back to the gradient of the first state."""
    zoneout, loop = settings.zoneout, _Loop(settings, *_split_memory(settings, memory))
    recurrent = _recurrent_products(settings, memory[0], normalizations, transposed=True)
    grad_step = grad_outputs.unbind(0)
    gradient: State = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in grad_last)
    for t in loop.order(backward=True):
        for normalization in normalizations:
            normalization.t = t
        gradient[0].add_(grad_step[t])
        bypass: list[Tensor] = []  # gradients of the old state that do not pass through the cell
        if loop.ragged[t]:
            bypass += [tensor.masked_fill(loop.masks[t], 0) for tensor in gradient]
            gradient = tuple(tensor.mul_(loop.masks[t]) for tensor in gradient)
        if zoneout:
            gradient, of_old = zoneout.backward(t, gradient)
            bypass += of_old
        gradient = settings.cell.step_backward(loop.load(t, recurrent), gradient)
        loop.store(t)
        for tensor, passed_by in zip(cycle(gradient), bypass, strict=False):
            tensor.add_(passed_by)
    return gradient


class _Loop:
    """Steps of a scan in either direction, and the views of their memory, which are cheaper to create all at once.

    Attributes:
        before, after: states around every step.
        proposed: the cell's new states before zoneout; `after` without zoneout.
        masks, ragged: per step, the mask `(batch, 1)`, and whether the step has padding.
    """

    def __init__(
        self, settings: _Settings, gates: Tensor, states: list[Tensor], proposed: list[Tensor], saved: list[Tensor]
    ) -> None:
        self._reverse, self._steps = settings.reverse, len(gates)
        self._stored = gates.unbind(0)
        self._work = None if gates.dtype == states[0].dtype else states[0].new_empty(gates.shape[1:])
        buffer = gates if self._work is None else self._work[None]
        self._gates = _by_step(settings.cell.slice_gates(buffer), len(buffer))
        by_step = _by_step(states, self._steps + 1)
        self.before, self.after = (by_step[1:], by_step[:-1]) if self._reverse else (by_step[:-1], by_step[1:])
        self.proposed = _by_step(proposed, self._steps) if proposed else self.after
        self._saved = _by_step(saved, self._steps)
        mask = settings.mask
        self.masks = () if mask is None else mask.unsqueeze(-1).unbind(0)
        if mask is None or settings.uses_graph(gates):  # a graph is recorded for any mask
            self.ragged = [mask is not None] * self._steps
        else:
            self.ragged = (~mask.all(1)).tolist()

    def load(self, t: int, recurrent: Sequence[PackedLinear]) -> StepBuffers:
        """Returns the memory of a step, its gates converted to the type to compute in."""
        if self._work is not None:
            self._work.copy_(self._stored[t])
        gates = self._gates[t if self._work is None else 0]
        return StepBuffers(gates, self.before[t], self.proposed[t], self._saved[t], recurrent)

    def store(self, t: int) -> None:
        """Converts the gates of the step that was loaded back to the type to store them in."""
        if self._work is not None:
            self._stored[t].copy_(self._work)

    def order(self, *, backward: bool) -> range:
        """Returns the steps in the order in which a pass takes them."""
        return range(self._steps)[:: 1 if self._reverse == backward else -1]


def _by_step(buffers: Sequence[Tensor], steps: int) -> list[tuple[Tensor, ...]]:
    """Returns, per step, its part of each buffer `(steps, …)`."""
    return list(zip(*(buffer.unbind(0) for buffer in buffers), strict=True)) or [()] * steps


def _split_memory(
    settings: _Settings, memory: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Gates, states, states before zoneout, and the tensors that the cell saves for its derivative."""
    tensors, count = iter(memory[1:]), settings.cell.num_states
    states = list(islice(tensors, count))
    return memory[0], states, list(islice(tensors, count if settings.zoneout else 0)), list(tensors)


def _graph_forward(settings: _Settings, memory: Sequence[Tensor]) -> None:
    masks = [] if settings.mask is None else [settings.mask]

    def work(memory: Sequence[Tensor], masks: Sequence[Tensor]) -> State:
        return _forward(replace(settings, mask=masks[0] if masks else None), [], memory)

    cuda_graphs.run(settings.cell, ("forward", settings.bf16, settings.reverse), work, memory, masks)


def _graph_backward(settings: _Settings, written: Sequence[Tensor], read: Sequence[Tensor]) -> State:
    """`written`: gates and the other tensors that are overwritten; `read`: states, then gradients. Tensors that were
    returned as outputs stay unchanged."""
    count, masks = settings.cell.num_states, [] if settings.mask is None else [settings.mask]

    def work(written: Sequence[Tensor], read: Sequence[Tensor]) -> State:
        mask, given = (read[0], read[1:]) if masks else (None, read)
        memory = [written[0], *given[:count], *written[1:]]
        return _backward(replace(settings, mask=mask), [], memory, *given[count:])

    key = ("backward", settings.bf16, settings.reverse)
    return tuple(cuda_graphs.run(settings.cell, key, work, written, [*masks, *read]))


def _normalization_buffers(cell: Cell, steps: int, batch: int) -> list[NormalizationBuffers]:
    if cell.gain_hidden is None:
        return []
    return [NormalizationBuffers(cell.gain_hidden.detach()[rows], steps, batch) for rows in cell.recurrent_rows()]


def _recurrent_products(
    settings: _Settings, gates: Tensor, normalizations: list[NormalizationBuffers], *, transposed: bool
) -> list[PackedLinear]:
    """Products with each block of the recurrent weights; with `transposed`, those of the derivative."""
    cell, (steps, batch, _) = settings.cell, gates.shape
    if not normalizations:
        return cell.recurrent_products(batch, steps, bf16=settings.bf16, transposed=transposed)
    kind = NormalizedLinearBackward if transposed else NormalizedLinear
    weights = [cell.weight_hidden.detach()[rows] for rows in cell.recurrent_rows()]
    pairs = zip([weight.t() if transposed else weight for weight in weights], normalizations, strict=True)
    return [kind(weight, batch, steps, settings.bf16, buffers) for weight, buffers in pairs]


def _flat_states(
    settings: _Settings, states: list[Tensor], proposed: list[Tensor], valid: Tensor | None
) -> tuple[State, State]:
    """The states before every step and the cell's new states, tensors `(rows, hidden)`."""
    early, late = ([buffer[steps] for buffer in states] for steps in (slice(None, -1), slice(1, None)))
    before, after = (late, early) if settings.reverse else (early, late)
    return tuple(flatten_valid(x, valid) for x in before), tuple(flatten_valid(x, valid) for x in proposed or after)


def _recurrent_gradients(
    cell: Cell,
    operands: list[tuple[Tensor, Tensor]],
    normalizations: list[NormalizationBuffers],
    dtype: torch.dtype,
) -> list[Tensor]:
    """Gradients of the recurrent weights, and of the gain if there is one."""
    if normalizations:  # replaces the gradients of the normalised products by those of the products themselves
        starts = accumulate((grad.shape[1] for grad, _ in operands), initial=0)
        operand_at = dict(zip(starts, (x for _, x in operands), strict=False))
        operands = [
            (buffers.normalized.flatten(0, 1), operand_at[rows.start])
            for rows, buffers in zip(cell.recurrent_rows(), normalizations, strict=True)
        ]
    grad_weight = torch.empty_like(cell.weight_hidden)
    weight_gradients(operands, dtype, grad_weight)
    gain = [torch.cat([buffers.grad_gain for buffers in normalizations])] if normalizations else []
    return [grad_weight, *gain]


def project_forward(
    cell: Cell, inputs: Tensor, static_input: Tensor | None, valid: Tensor | None, gates: Tensor
) -> tuple[Tensor, ...]:
    """`Cell.project_forward` of `[inputs; static_input]`; the static part is one product per batch row, not per step.

    Args:
        inputs: `(rows, features)`.
        static_input: `(batch, features)`, in the type of the inputs, for a cell that `projects_linearly`; or `None`.
        valid: indices of the rows in `(time · batch)`; `None`: all of them.
        gates: `(rows, num_gates · hidden)`; is filled.
    """
    if static_input is None:
        return cell.project_forward(inputs, gates)
    weight, static_weight = _split_weight(cell.weight_input, inputs)
    static = gates.new_empty(len(static_input), gates.shape[1])
    linear(static_input, static_weight, cell.bias, static)
    linear(inputs, weight, None, gates)
    if valid is None:
        gates.view(-1, *static.shape).add_(static)
    else:
        gates += static.index_select(0, valid % len(static))
    return ()


def project_backward(
    cell: Cell,
    inputs: Tensor,
    static_input: Tensor | None,
    valid: Tensor | None,
    saved: Sequence[Tensor],
    grad_gates: Tensor,
    grad_inputs: Tensor,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Derivative of `project_forward`.

    Args:
        grad_gates: ∂L/∂gates, `(rows, num_gates · hidden)`.
        grad_inputs: is filled with ∂L/∂inputs; may be the memory of the inputs.

    Returns:
        ∂L/∂static_input, and the gradients of `input_parameters`.
    """
    if static_input is None:
        return None, cell.project_backward(inputs, saved, grad_gates, grad_inputs)
    weight, static_weight = _split_weight(cell.weight_input, inputs)
    if valid is None:
        summed = grad_gates.view(-1, len(static_input), grad_gates.shape[1]).sum(0)
    else:
        wide = torch.zeros(len(static_input), grad_gates.shape[1], dtype=cell.bias.dtype, device=grad_gates.device)
        summed = wide.index_add_(0, valid % len(static_input), grad_gates.to(wide.dtype)).to(grad_gates.dtype)
    grad_weight = torch.empty_like(cell.weight_input)
    grad_parts = _split_weight(grad_weight, inputs)
    weight_gradient(grad_gates, inputs, grad_parts[0])
    weight_gradient(summed, static_input, grad_parts[1])
    torch.mm(grad_gates, weight.to(grad_gates.dtype), out=grad_inputs)
    return summed @ static_weight.to(summed.dtype), (grad_weight, summed.sum(0).to(grad_weight.dtype))


def _split_weight(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The columns that multiply the inputs, and those of the static input."""
    features = inputs.shape[1]
    return weight[:, :features], weight[:, features:]


def valid_indices(mask: Tensor | None) -> Tensor | None:
    """Returns the indices in `(time · batch)` at which `mask` `(time, batch)` is True; `None` if it is everywhere."""
    if mask is None or bool(mask.all()):
        return None
    return mask.flatten().nonzero()[:, 0]


def flatten_valid(values: Tensor, valid: Tensor | None) -> Tensor:
    """`(time, batch, features)` → the rows at the indices `valid`, `(rows, features)`; all of them for `None`."""
    if valid is None:
        return values.contiguous().flatten(0, 1)
    if values.is_contiguous():
        return values.flatten(0, 1).index_select(0, valid)
    return values.transpose(0, 1).flatten(0, 1).index_select(0, _batch_first_indices(valid, *values.shape[:2]))


def unflatten_valid(rows: Tensor, valid: Tensor | None, steps: int, batch: int, *, batch_first: bool) -> Tensor:
    """The inverse of `flatten_valid`, with zeros elsewhere; `batch_first`: in memory as `(batch, time, features)`."""
    if valid is None:
        return rows.view(steps, batch, -1)
    shape = (batch, steps, rows.shape[1]) if batch_first else (steps, batch, rows.shape[1])
    whole = rows.new_zeros(shape)
    whole.flatten(0, 1).index_copy_(0, _batch_first_indices(valid, steps, batch) if batch_first else valid, rows)
    return whole.transpose(0, 1) if batch_first else whole


def _batch_first_indices(valid: Tensor, steps: int, batch: int) -> Tensor:
    """The same indices in `(batch · time)`."""
    return valid % batch * steps + valid // batch
