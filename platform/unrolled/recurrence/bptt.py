"""Back-propagation through time by hand: one `autograd.Function` for every cell.

The projected inputs of a scan, of which a part may be the same at every step.

The real steps of a scan, one after the other, without the padding between them.

Back-propagation through time by hand: one autograd.Function for every cell.

Forward, one product projects the inputs of all steps; then every step overwrites its projected input by its gates.
Backward, from the last step to the first, a step overwrites its gates by their gradients. So a scan holds inputs,
states and gates once, and what remains is left to single large products after the loop: the gradients of all weights
and of the inputs. Compiled loops leave padding out of all of it: gates and inputs are then held for real steps alone.

Under `torch.autocast` with bfloat16, all products are of bfloat16 with sums in float32. States and what a step
computes are float32; gates are kept in bfloat16 between the passes.
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
from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.layer_norm import Normalization, NormalizedProduct, NormalizedProductBackward
from unrolled.recurrence.matmul import PackedLinear, linear, matmul_dtype, weight_gradient, weight_gradients
from unrolled.recurrence.regularization import Zoneout


def project_forward(
    cell: Cell, inputs: Tensor, constant: Tensor | None, places: Tensor | None, gates: Tensor
) -> tuple[Tensor, ...]:
    """`Cell.project_forward` of `[inputs; constant]`; the constant's share is a product a row of the batch, not a step.

    Args:
        inputs: `(rows, features)`.
        constant: `(batch, features)`, in the type of the inputs, of a cell that `projects_linearly`; `None`: none.
        places: where the rows stand in `(time · batch)`; `None`: everywhere.
        gates: `(rows, gates · hidden)`; is filled.
    """
    if constant is None:
        return cell.project_forward(inputs, gates)
    own, other = _projection_parts(cell.weight_input, inputs)
    share = gates.new_empty(len(constant), gates.shape[1])
    linear(constant, other, cell.bias, share)
    linear(inputs, own, None, gates)
    if places is None:
        gates.view(-1, *share.shape).add_(share)
    else:
        gates += share.index_select(0, places % len(share))
    return ()


def project_backward(
    cell: Cell,
    inputs: Tensor,
    constant: Tensor | None,
    places: Tensor | None,
    kept: Sequence[Tensor],
    errors: Tensor,
    into: Tensor,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The derivative of `project_forward`.

    Args:
        errors: ∂L/∂gates, `(rows, gates · hidden)`.
        into: is filled with ∂L/∂inputs; may be the memory of the inputs.

    Returns:
        ∂L/∂constant, and the gradients of `input_parameters`.
    """
    if constant is None:
        return None, cell.project_backward(inputs, kept, errors, into)
    own, other = _projection_parts(cell.weight_input, inputs)
    if places is None:
        summed = errors.view(-1, len(constant), errors.shape[1]).sum(0)
    else:
        wide = torch.zeros(len(constant), errors.shape[1], dtype=cell.bias.dtype, device=errors.device)
        summed = wide.index_add_(0, places % len(constant), errors.to(wide.dtype)).to(errors.dtype)
    into_weight = torch.empty_like(cell.weight_input)
    for rows, operand, part in zip(
        (errors, summed), (inputs, constant), _projection_parts(into_weight, inputs), strict=True
    ):
        weight_gradient(rows, operand, part)
    torch.mm(errors, own.to(errors.dtype), out=into)
    return summed @ other.to(summed.dtype), (into_weight, summed.sum(0).to(into_weight.dtype))


def _projection_parts(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of inputs and constant."""
    features = inputs.shape[1]
    return weight[:, :features], weight[:, features:]


def present(mask: Tensor | None) -> Tensor | None:
    """Where `mask` `(time, batch)` is True, as places in `(time · batch)`; `None` where it is so everywhere."""
    if mask is None or bool(mask.all()):
        return None
    return mask.flatten().nonzero()[:, 0]


def rows_of(values: Tensor, places: Tensor | None) -> Tensor:
    """`(time, batch, features)` → the rows at `places`, `(rows, features)`; all of them where that is `None`."""
    if places is None:
        return values.contiguous().flatten(0, 1)
    if values.is_contiguous():
        return values.flatten(0, 1).index_select(0, places)
    return values.transpose(0, 1).flatten(0, 1).index_select(0, _turned(places, *values.shape[:2]))


def filled(rows: Tensor, places: Tensor | None, steps: int, batch: int, *, turned: bool) -> Tensor:
    """Undoes `rows_of`, with zeros between the rows; `turned`: it lies in memory as `(batch, time, features)`."""
    if places is None:
        return rows.view(steps, batch, -1)
    shape = (batch, steps, rows.shape[1]) if turned else (steps, batch, rows.shape[1])
    whole = rows.new_zeros(shape)
    whole.flatten(0, 1).index_copy_(0, _turned(places, steps, batch) if turned else places, rows)
    return whole.transpose(0, 1) if turned else whole


def _turned(places: Tensor, steps: int, batch: int) -> Tensor:
    """The same places in `(batch · time)`."""
    return places % batch * steps + places // batch


def bptt(
    cell: Cell,
    inputs: Tensor,
    state: State,
    mask: Tensor | None,
    zoneout: Zoneout | None = None,
    *,
    reverse: bool = False,
    constant: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Runs `cell` over time.

    Args:
        inputs: `(time, batch, features)`.
        state: what the cell carries in.
        mask: `(time, batch)`, bool; the state is carried through where it is False. `None`: all True.
        zoneout: what is kept of the old state where the mask is True.
        reverse: from the last step to the first.
        constant: the last features of the input, `(batch, features)`, where they are the same at every step; of a cell
            that `projects_linearly`.

    Returns:
        The outputs `(time, batch, hidden)` and the state after the last step.
    """
    half = cell.bias.dtype == torch.float32 and matmul_dtype(cell.bias) == torch.bfloat16
    settings = _Settings(cell, half, mask, zoneout, reverse)
    gain = () if cell.gain_hidden is None else (cell.gain_hidden,)
    parameters = (*cell.input_parameters(), cell.weight_hidden, *gain, *cell.extra_parameters())
    with torch.autocast(inputs.device.type, enabled=False):
        outputs, *after = _BackPropagation.apply(settings, inputs, constant, *state, *parameters)
    return outputs, tuple(after)


@dataclass(frozen=True)
class _Settings:
    cell: Cell
    half: bool
    mask: Tensor | None
    zoneout: Zoneout | None
    reverse: bool

    @property
    def compiled(self) -> bool:
        """Whether the loops run as compiled code."""
        return self.plain and native.applies(self.cell, half=self.half)

    @property
    def plain(self) -> bool:
        """Whether the steps need nothing but the tensors that `_forward` and `_backward` are given."""
        return self.zoneout is None and self.cell.gain_hidden is None


class _BackPropagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: _Settings, inputs: Tensor, constant: Tensor | None, *given: Tensor) -> Any:
        cell = settings.cell
        (steps, batch, _), size, first = inputs.shape, cell.hidden_size, cell.bias
        places = present(settings.mask) if settings.compiled else None
        flat = rows_of(inputs, places).to(torch.bfloat16 if settings.half else first.dtype)
        held = flat.shape[:1] if settings.compiled else (steps, batch)
        gates = flat.new_empty(*held, cell.num_gates * size)
        constant = None if constant is None else constant.to(flat.dtype)
        kept = project_forward(cell, flat, constant, places, gates.view(-1, cell.num_gates * size))
        states = [first.new_empty(steps + 1, batch, size) for _ in range(cell.num_states)]
        # What the cell made, before zoneout; the state itself without.
        fresh = [first.new_empty(steps, batch, size) for _ in states] if settings.zoneout else []
        kind = gates.dtype if settings.compiled else first.dtype
        saved = [first.new_empty(*held, size, dtype=kind) for _ in range(cell.num_saved)]
        for buffer, state in zip(states, given, strict=False):
            buffer[-1 if settings.reverse else 0] = state
        normalizations = _normalizations(cell, steps, batch)
        memory = [gates, *states, *fresh, *saved]
        if settings.plain and cuda_graphs.applies(gates):
            _record_forward(settings, memory)
        elif settings.compiled:
            native.run(cell, gates, states, saved, places, settings.reverse)
        else:
            _forward(settings, normalizations, memory)
        ctx.save_for_backward(flat, constant, places, *memory, *kept)
        ctx.settings, ctx.normalizations, ctx.kind = settings, normalizations, inputs.dtype
        ctx.copied, ctx.turned = flat.data_ptr() != inputs.data_ptr(), not inputs.is_contiguous()
        outputs = states[0][:-1] if settings.reverse else states[0][1:]
        return (outputs, *(buffer[0 if settings.reverse else -1] for buffer in states))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_outputs: Tensor, *last: Tensor) -> Any:
        settings: _Settings = ctx.settings
        cell, normalizations = settings.cell, ctx.normalizations
        inputs, constant, places, *rest = ctx.saved_tensors  # raises where a first call has overwritten them
        count = 1 + cell.num_states * (2 if settings.zoneout else 1) + cell.num_saved
        memory, kept = rest[:count], rest[count:]
        gates, states, fresh, saved = _parts(settings, memory)
        gradient: State
        if settings.plain and cuda_graphs.applies(gates):
            gradient = _record_backward(settings, [gates, *saved], [*states, into_outputs, *last])
        elif settings.compiled:
            gradient = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in last)
            native.run(cell, gates, states, saved, places, settings.reverse, into_outputs, gradient)
        else:
            gradient = _backward(settings, normalizations, memory, into_outputs, *last)
        errors, *saved = (buffer.flatten(0, -2) for buffer in (gates, *saved))
        into_inputs = inputs if ctx.copied else torch.empty_like(inputs)  # a copy has served when its gradient is due
        into_constant, projecting = project_backward(cell, inputs, constant, places, kept, errors, into_inputs)
        flat = errors, *_around(settings, states, fresh, places), saved
        weights = _recurrent_gradients(cell, cell.weight_grad_operands(*flat), normalizations, gates.dtype)
        steps, batch, _ = into_outputs.shape
        into_inputs = filled(into_inputs.to(ctx.kind), places, steps, batch, turned=ctx.turned)
        into_constant = None if into_constant is None else into_constant.to(ctx.kind)
        return (None, into_inputs, into_constant, *gradient, *projecting, *weights, *cell.extra_gradients(*flat))


def _forward(settings: _Settings, normalizations: list[Normalization], memory: Sequence[Tensor]) -> State:
    """The loop over the steps; `memory` as `_parts` sorts it."""
    order, zoneout = _Order(settings, *_parts(settings, memory)), settings.zoneout
    hidden = _products(settings, memory[0], normalizations)
    for t in order.forward():
        for normalization in normalizations:
            normalization.t = t
        cell_memory = order.load(t), order.before[t], order.made[t], order.saved[t]
        settings.cell.step_forward(*cell_memory, hidden)
        order.store(t)
        if zoneout:
            zoneout.mix(t, order.made[t], order.before[t], order.after[t])
        if order.ragged[t]:
            for new, old in zip(order.after[t], order.before[t], strict=True):
                torch.where(order.masks[t], new, old, out=new)
    return ()


def _backward(
    settings: _Settings, normalizations: list[Normalization], memory: Sequence[Tensor], errors: Tensor, *last: Tensor
) -> State:
    """The loop back from the gradients of outputs and last state to that of the first."""
    order, zoneout = _Order(settings, *_parts(settings, memory)), settings.zoneout
    hidden = _products_backward(settings, memory[0], normalizations)
    into = errors.unbind(0)
    gradient: State = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in last)
    for t in order.backward():
        for normalization in normalizations:
            normalization.t = t
        gradient[0].add_(into[t])
        around: list[Tensor] = []
        if order.ragged[t]:
            around += [tensor.masked_fill(order.masks[t], 0) for tensor in gradient]
            gradient = tuple(tensor.mul_(order.masks[t]) for tensor in gradient)
        if zoneout:
            gradient, passed = zoneout.split(t, gradient)
            around += passed
        cell_memory = order.load(t), order.before[t], order.made[t], order.saved[t]
        gradient = settings.cell.step_backward(*cell_memory, gradient, hidden)
        order.store(t)
        for tensor, passed_by in zip(cycle(gradient), around, strict=False):
            tensor.add_(passed_by)
    return gradient


def _parts(settings: _Settings, memory: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Gates, states, what the cell made before zoneout, and what it left besides for its derivative."""
    tensors, count = iter(memory[1:]), settings.cell.num_states
    states = list(islice(tensors, count))
    return memory[0], states, list(islice(tensors, count if settings.zoneout else 0)), list(tensors)


def _record_forward(settings: _Settings, memory: Sequence[Tensor]) -> None:
    masks = [] if settings.mask is None else [settings.mask]

    def work(memory: Sequence[Tensor], masks: Sequence[Tensor]) -> State:
        return _forward(replace(settings, mask=masks[0] if masks else None), [], memory)

    cuda_graphs.run(settings.cell, ("forward", settings.half, settings.reverse), work, memory, masks)


def _record_backward(settings: _Settings, written: Sequence[Tensor], read: Sequence[Tensor]) -> State:
    """`written`: gates and what else is overwritten; `read`: states, then gradients. What has been given out as outputs
    stays untouched."""
    count, masks = settings.cell.num_states, [] if settings.mask is None else [settings.mask]

    def work(written: Sequence[Tensor], read: Sequence[Tensor]) -> State:
        mask, given = (read[0], read[1:]) if masks else (None, read)
        memory = [written[0], *given[:count], *written[1:]]
        return _backward(replace(settings, mask=mask), [], memory, *given[count:])

    key = ("backward", settings.half, settings.reverse)
    return tuple(cuda_graphs.run(settings.cell, key, work, written, [*masks, *read]))


def _normalizations(cell: Cell, steps: int, batch: int) -> list[Normalization]:
    if cell.gain_hidden is None:
        return []
    return [Normalization(cell.gain_hidden.detach()[rows], steps, batch) for rows in cell.rows()]


def _products(settings: _Settings, gates: Tensor, normalizations: list[Normalization]) -> list[PackedLinear]:
    weights = [settings.cell.weight_hidden.detach()[rows] for rows in settings.cell.rows()]
    shape = gates.shape[1], gates.shape[0], settings.half
    if not normalizations:
        return [PackedLinear(weight, *shape) for weight in weights]
    return [NormalizedProduct(weight, *shape, each) for weight, each in zip(weights, normalizations, strict=True)]


def _products_backward(settings: _Settings, gates: Tensor, normalizations: list[Normalization]) -> list[PackedLinear]:
    turned = [settings.cell.weight_hidden.detach()[rows].t() for rows in settings.cell.rows()]
    shape = gates.shape[1], gates.shape[0], settings.half
    if not normalizations:
        return [PackedLinear(weight, *shape) for weight in turned]
    return [
        NormalizedProductBackward(weight, *shape, each) for weight, each in zip(turned, normalizations, strict=True)
    ]


def _around(
    settings: _Settings, states: list[Tensor], fresh: list[Tensor], places: Tensor | None
) -> tuple[State, State]:
    """The states before every step and what the cell made of them, tensors `(rows, hidden)`."""
    early, late = ([buffer[place] for buffer in states] for place in (slice(None, -1), slice(1, None)))
    before, after = (late, early) if settings.reverse else (early, late)
    return tuple(rows_of(buffer, places) for buffer in before), tuple(rows_of(each, places) for each in fresh or after)


def _recurrent_gradients(
    cell: Cell, pairs: list[tuple[Tensor, Tensor]], normalizations: list[Normalization], kind: torch.dtype
) -> list[Tensor]:
    """Of the recurrent weights, and of the gain where there is one."""
    if normalizations:  # between the weights and what they gave stands the normalisation
        operands = dict(
            zip(accumulate((errors.shape[1] for errors, _ in pairs), initial=0), (x for _, x in pairs), strict=False)
        )
        pairs = [
            (each.normal.flatten(0, 1), operands[rows.start])
            for rows, each in zip(cell.rows(), normalizations, strict=True)
        ]
    weights = torch.empty_like(cell.weight_hidden)
    weight_gradients(pairs, kind, weights)
    return [weights, torch.cat([each.into_gain for each in normalizations])] if normalizations else [weights]


class _Order:
    """The steps of a scan and the views of their memory, whichever way it runs; made at once, as that is cheaper.

    Attributes:
        before, after: the states around every step.
        made: what the cell makes of the one before; the one after, if there is no zoneout.
    """

    def __init__(
        self, settings: _Settings, gates: Tensor, states: list[Tensor], fresh: list[Tensor], saved: list[Tensor]
    ) -> None:
        size, self._reverse, self._steps = settings.cell.hidden_size, settings.reverse, len(gates)
        self._stored = gates.unbind(0)
        self._work = None if gates.dtype == states[0].dtype else states[0].new_empty(gates.shape[1:])
        buffers = gates if self._work is None else self._work[None]
        spans = [buffers[:, :, low * size : high * size] for low, high in settings.cell.gate_slices]
        self._gates = _by_step(spans, len(buffers))
        rows = _by_step(states, self._steps + 1)
        self.before, self.after = (rows[1:], rows[:-1]) if self._reverse else (rows[:-1], rows[1:])
        self.made = _by_step(fresh, self._steps) if fresh else self.after
        self.saved = _by_step(saved, self._steps)
        mask = settings.mask
        self.masks = () if mask is None else mask.unsqueeze(-1).unbind(0)
        if mask is None or (settings.plain and cuda_graphs.applies(gates)):  # a graph is recorded for any mask
            self.ragged = [mask is not None] * self._steps
        else:  # only steps with padding pay for it
            self.ragged = (~mask.all(1)).tolist()

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
