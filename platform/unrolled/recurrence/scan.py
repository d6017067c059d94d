"""Scans of a cell over time, in three engines that give the same numbers.

- `fused`: torch's own functions (cuDNN on a GPU), where they compute the cell's equations;
- `bptt`: hand-written back-propagation through time, for every cell and any mask;
- `autograd`: the equations step by step, differentiated by torch. The reference.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from unrolled import native
from unrolled.recurrence import state as nest
from unrolled.recurrence.bptt import bptt
from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.regularization import Zoneout

Engine = Literal["auto", "fused", "bptt", "autograd"]


def scan(
    cell: Cell,
    inputs: Tensor,
    state: State | None = None,
    mask: Tensor | None = None,
    *,
    engine: Engine = "auto",
    reverse: bool = False,
    zoneout: float = 0.0,
    static_input: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Runs `cell` over every step of `inputs`.

    Args:
        inputs: `(batch, time, features)`.
        state: before the first step, tensors `(batch, hidden)`; zeros if `None`.
        mask: `(batch, time)`, bool. Where it is False the state is carried through unchanged, so that padding changes
            nothing. `None`: all True.
        engine: `auto` selects the faster of `fused` and `bptt`: on a CPU with a compiler `bptt`, unless for an LSTM
            without padding and without a gradient; elsewhere `fused` wherever it applies.
        reverse: from the last step to the first; outputs stay at their inputs' positions.
        zoneout: probability of every value of the state to keep its previous value; see `Zoneout`.
        static_input: features after those of the inputs that are the same at every step, `(batch, features)`.

    Returns:
        The outputs h `(batch, time, hidden)` and the state after the last step.

    Raises:
        ValueError: sizes do not fit, or torch has no function for `fused`.
    """
    _check(cell, inputs, static_input, state, mask)
    first = cell.zeros(len(inputs)) if state is None else state
    if inputs.shape[1] == 0:
        return inputs.new_zeros(len(inputs), 0, cell.hidden_size), first
    lengths = None if mask is None else mask.sum(1)
    plain = cell.torch_function is not None and cell.gain_hidden is None and zoneout == 0
    fusible = plain and (mask is None or (lengths is not None and _right_padded(mask, lengths)))
    if engine == "fused" and not fusible:
        raise ValueError(
            f"engine 'fused' has no kernel for {type(cell).__name__} with this mask or these options: it wants masks "
            "that are True for the first steps (one at least) and False after, no layer normalisation and no zoneout; "
            "use engine 'auto', 'bptt' or 'autograd'"
        )
    fused = engine == "fused" or (engine == "auto" and fusible and not _bptt_is_faster(cell, inputs, mask))
    if static_input is not None and (fused or engine == "autograd" or not cell.projects_linearly):
        inputs = torch.cat([inputs, static_input[:, None].expand(-1, inputs.shape[1], -1)], dim=-1)
        static_input = None
    if fused:
        return _fused(cell, inputs, first, mask, lengths, reverse)
    drawn = Zoneout.draw(zoneout, inputs.shape[1], first, training=cell.training)
    if engine == "autograd":
        return _autograd(cell, inputs, first, mask, drawn, reverse)
    time_mask = None if mask is None else mask.t()
    options: dict[str, Any] = {"reverse": reverse, "static_input": static_input}
    outputs, last = bptt(cell, inputs.transpose(0, 1), first, time_mask, drawn, **options)
    return outputs.transpose(0, 1), last


def _bptt_is_faster(cell: Cell, inputs: Tensor, mask: Tensor | None) -> bool:
    """Whether `bptt` is faster than torch's own function, as measured by `jobs/benchmark.py recurrence`."""
    if inputs.device.type != "cpu":
        return False
    unpadded_lstm = cell.torch_function == "lstm" and (mask is None or bool(mask.all()))
    if native.scan_supported(cell, bf16=False):
        return torch.is_grad_enabled() or not unpadded_lstm
    return torch.is_grad_enabled() and not unpadded_lstm


def _check(cell: Cell, inputs: Tensor, static_input: Tensor | None, state: State | None, mask: Tensor | None) -> None:
    features = cell.input_size - (0 if static_input is None else static_input.shape[1])
    if inputs.ndim != 3 or inputs.shape[2] != features:
        raise ValueError(f"inputs are {tuple(inputs.shape)}; expected (batch, time, {features})")
    expected = (len(inputs), cell.hidden_size)
    for tensor in state or ():
        if tuple(tensor.shape) != expected:
            raise ValueError(f"a state tensor is {tuple(tensor.shape)}; expected (batch, hidden) = {expected}")
    if mask is not None and (mask.shape != inputs.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(
            f"the mask is {tuple(mask.shape)} of {mask.dtype}; expected (batch, time) = "
            f"{tuple(inputs.shape[:2])} of torch.bool"
        )


def _autograd(
    cell: Cell, inputs: Tensor, state: State, mask: Tensor | None, zoneout: Zoneout | None, reverse: bool
) -> tuple[Tensor, State]:
    projected = cell.project(inputs.transpose(0, 1)).unbind(0)
    masks = None if mask is None else mask.unbind(1)
    outputs: list[Tensor] = [projected[0]] * len(projected)
    for t in range(len(projected))[:: -1 if reverse else 1]:
        new = cell.step(projected[t], state)
        new = new if zoneout is None else zoneout.mix(t, new, state)
        state = new if masks is None else nest.where(masks[t], new, state)
        outputs[t] = state[0]
    return torch.stack(outputs, dim=1), state


def _right_padded(mask: Tensor, lengths: Tensor) -> bool:
    steps = torch.arange(mask.shape[1], device=mask.device)
    return bool((mask == (steps < lengths[:, None])).all() and (lengths > 0).all())


def _fused(
    cell: Cell, inputs: Tensor, state: State, mask: Tensor | None, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    ragged = lengths is not None and mask is not None and not bool(mask.all())
    if reverse:
        inputs = _flip(inputs, lengths if ragged else None)
    if not ragged:
        outputs, last = _call_torch(cell, inputs, state)
        return (outputs.flip(1) if reverse else outputs), last
    assert lengths is not None and mask is not None
    outputs, last = _call_torch_packed(cell, inputs, state, lengths)
    if reverse:
        outputs = _flip(outputs, lengths)
    # After a sequence's end its state is carried: the last one forward, the first one in reverse.
    carried = state[0] if reverse else last[0]
    return torch.where(mask[:, :, None], outputs, carried[:, None]), last


def _flip(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses the first `lengths[b]` steps of every row and leaves the rest."""
    if lengths is None:
        return values.flip(1)
    steps = torch.arange(values.shape[1], device=values.device)
    mirrored = lengths[:, None] - 1 - steps
    order = torch.where(mirrored >= 0, mirrored, steps)
    return values.gather(1, order[:, :, None].expand_as(values))


def _call_torch(cell: Cell, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    function = getattr(torch, str(cell.torch_function))
    layers = [tensor[None] for tensor in state]  # torch's functions have the layers first
    first = layers if cell.num_states > 1 else layers[0]
    # has_biases, num_layers, dropout, train, bidirectional, batch_first; without dropout, "train" decides whether the
    # function saves what a backward pass needs.
    train = torch.is_grad_enabled()
    outputs, *last = function(inputs, first, cell.torch_weights(), True, 1, 0.0, train, False, True)
    return outputs, tuple(tensor[0] for tensor in last)


def _call_torch_packed(cell: Cell, inputs: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    function = getattr(torch, str(cell.torch_function))
    assert packed.sorted_indices is not None and packed.unsorted_indices is not None
    layers = [tensor.index_select(0, packed.sorted_indices)[None] for tensor in state]
    first = layers if cell.num_states > 1 else layers[0]
    # data, batch_sizes, hidden, weights, has_biases, num_layers, dropout, train, bidirectional; "train" as above
    train = torch.is_grad_enabled()
    data, *last = function(packed.data, packed.batch_sizes, first, cell.torch_weights(), True, 1, 0.0, train, False)
    outputs, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=inputs.shape[1])
    return outputs, tuple(tensor[0].index_select(0, packed.unsorted_indices) for tensor in last)


def truncated_scan(
    cell: Cell,
    inputs: Tensor,
    state: State,
    mask: Tensor | None,
    truncate: int | None,
    *,
    reverse: bool,
    **options: Any,
) -> tuple[Tensor, State]:
    """`scan` with truncated back-propagation through time (Williams & Peng 1990), in windows of `truncate` steps that
    are counted from the first step in either direction.

    The state passes from window to window and is detached between them, except for rows without further steps: theirs
    is carried to the end, as padding must change nothing. A window saves only its inputs and its first state and is
    recomputed when its gradient is due, so that the activations of one window at a time are held. With `truncate`
    `None` or at least the number of steps it is `scan` itself.
    """
    steps = inputs.shape[1]
    if truncate is None or truncate >= steps:
        return scan(cell, inputs, state, mask, reverse=reverse, **options)
    windows = split_steps(steps, truncate)
    outputs: list[Tensor] = [inputs] * len(windows)
    order = range(len(windows))[:: -1 if reverse else 1]
    for index in order:
        window = windows[index]
        if index != order[0]:
            ahead = slice(0, window.stop) if reverse else slice(window.start, steps)
            state = _detach_rows(state, None if mask is None else mask[:, ahead].any(1))
        valid = None if mask is None else mask[:, window]
        outputs[index], state = _recomputed_scan(cell, inputs[:, window], valid, state, reverse=reverse, **options)
    return torch.cat(outputs, dim=1), state


def split_steps(steps: int, truncate: int | None) -> list[slice]:
    """Splits a sequence into successive windows of `truncate` steps (`None`: one window); the last may be shorter."""
    if truncate is None:
        return [slice(0, steps)]
    return [slice(start, min(start + truncate, steps)) for start in range(0, steps, truncate)]


def _detach_rows(state: State, rows: Tensor | None) -> State:
    """Detaches the state, or only the `rows` `(batch,)` of it."""
    detached: State = nest.detach(state)
    return detached if rows is None or bool(rows.all()) else nest.where(rows, detached, state)


def _recomputed_scan(
    cell: Cell, inputs: Tensor, mask: Tensor | None, state: State, **options: Any
) -> tuple[Tensor, State]:
    """A scan that is recomputed for its derivative, with the same random numbers."""

    def run(inputs: Tensor, *state: Tensor) -> tuple[Tensor, State]:
        return scan(cell, inputs, state, mask, **options)

    if not torch.is_grad_enabled():
        return run(inputs, *state)
    result: tuple[Tensor, State] = checkpoint(run, inputs, *state, use_reentrant=False)
    return result
