"""A cell over time, in three engines that give the same numbers.

A cell over time. Three engines give the same numbers:

- `fused`: torch's own kernels (cuDNN on a GPU), where they hold the cell's equations;
- `bptt`: back-propagation through time by hand, for every cell and any mask;
- `autograd`: the equations step by step, differentiated by torch. The reference.

Truncated back-propagation through time within one long scan (Williams & Peng 1990).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    constant: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Runs `cell` over every step of `inputs`.

    Args:
        inputs: `(batch, time, features)`.
        state: what the cell carries in, tensors `(batch, hidden)`; zeros if `None`.
        mask: `(batch, time)`, bool. Where it is False the state is carried through unchanged, so padding
            changes nothing. `None` stands for all True.
        engine: `auto` takes the faster one of `fused` and `bptt`: on a CPU with a compiler `bptt`, unless for an LSTM
            without padding and without a gradient; elsewhere `fused` wherever it applies.
        reverse: from the last step to the first; outputs stay at their inputs' places.
        zoneout: share of the state that every step leaves as it was, drawn anew while the cell trains; see `Zoneout`.
        constant: features behind those of the inputs that are the same at every step, `(batch, features)`.

    Returns:
        The outputs h `(batch, time, hidden)` and the state after the last step.

    Raises:
        ValueError: sizes do not fit, or `fused` is asked for where torch has no such kernel.
    """
    _check(cell, inputs, constant, state, mask)
    carried = cell.zeros(len(inputs)) if state is None else state
    if inputs.shape[1] == 0:
        return inputs.new_zeros(len(inputs), 0, cell.hidden_size), carried
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
    if constant is not None and (fused or engine == "autograd" or not cell.projects_linearly):
        inputs, constant = torch.cat([inputs, constant[:, None].expand(-1, inputs.shape[1], -1)], dim=-1), None
    if fused:
        return _fused(cell, inputs, carried, mask, lengths, reverse)
    keep = Zoneout.draw(zoneout, inputs.shape[1], carried, training=cell.training)
    if engine == "autograd":
        return _autograd(cell, inputs, carried, mask, keep, reverse)
    turned = None if mask is None else mask.t()
    outputs, after = bptt(cell, inputs.transpose(0, 1), carried, turned, keep, reverse=reverse, constant=constant)
    return outputs.transpose(0, 1), after


def _bptt_is_faster(cell: Cell, inputs: Tensor, mask: Tensor | None) -> bool:
    """Whether `bptt` beats torch's own kernel, as measured by `jobs/benchmark.py recurrence`."""
    if inputs.device.type != "cpu":
        return False
    unpadded_lstm = cell.torch_function == "lstm" and (mask is None or bool(mask.all()))
    if native.applies(cell, half=False):
        return torch.is_grad_enabled() or not unpadded_lstm
    return torch.is_grad_enabled() and not unpadded_lstm


def _check(cell: Cell, inputs: Tensor, constant: Tensor | None, state: State | None, mask: Tensor | None) -> None:
    features = cell.input_size - (0 if constant is None else constant.shape[1])
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
    keep = None if mask is None else mask.unbind(1)
    steps: Iterable[int] = range(len(projected))
    outputs: list[Tensor] = [projected[0]] * len(projected)
    for t in reversed(list(steps)) if reverse else steps:
        after = cell.step(projected[t], state)
        after = after if zoneout is None else zoneout.mixed(t, after, state)
        state = after if keep is None else nest.where(keep[t], after, state)
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
        outputs, after = _kernel(cell, inputs, state)
        return (outputs.flip(1) if reverse else outputs), after
    assert lengths is not None and mask is not None
    outputs, after = _packed_kernel(cell, inputs, state, lengths)
    if reverse:
        outputs = _flip(outputs, lengths)
    # Behind a sequence's end its state is carried: the last one forward, the first one in reverse.
    carried = state[0] if reverse else after[0]
    return torch.where(mask[:, :, None], outputs, carried[:, None]), after


def _flip(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses the first `lengths[b]` steps of every row and leaves what lies behind them."""
    if lengths is None:
        return values.flip(1)
    steps = torch.arange(values.shape[1], device=values.device)
    mirrored = lengths[:, None] - 1 - steps
    order = torch.where(mirrored >= 0, mirrored, steps)
    return values.gather(1, order[:, :, None].expand_as(values))


def _kernel(cell: Cell, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    function = getattr(torch, str(cell.torch_function))
    layers = [tensor[None] for tensor in state]  # torch's kernels count layers first
    carried = layers if cell.num_states > 1 else layers[0]
    # has_biases, num_layers, dropout, train, bidirectional, batch_first; without dropout, "train" says whether the
    # kernel keeps what a backward pass needs.
    goes_back = torch.is_grad_enabled()
    outputs, *after = function(inputs, carried, cell.torch_weights(), True, 1, 0.0, goes_back, False, True)
    return outputs, tuple(tensor[0] for tensor in after)


def _packed_kernel(cell: Cell, inputs: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    function = getattr(torch, str(cell.torch_function))
    assert packed.sorted_indices is not None and packed.unsorted_indices is not None
    layers = [tensor.index_select(0, packed.sorted_indices)[None] for tensor in state]
    carried = layers if cell.num_states > 1 else layers[0]
    # data, batch_sizes, hidden, weights, has_biases, num_layers, dropout, train, bidirectional; "train" as above
    goes_back = torch.is_grad_enabled()
    data, *after = function(
        packed.data, packed.batch_sizes, carried, cell.torch_weights(), True, 1, 0.0, goes_back, False
    )
    outputs, _ = pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=inputs.shape[1])
    return outputs, tuple(tensor[0].index_select(0, packed.unsorted_indices) for tensor in after)


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
    """`scan` in windows of `truncate` steps, counted from the first step whichever way it runs.

    The state goes on from window to window and is cut from the graph between them, but for rows that have no step left:
    theirs is carried to the end, as padding must change nothing. A window keeps its inputs and its
    first state alone and is run again when its gradient is due, so that what a step leaves for its derivative is held
    for one window at a time. With `truncate` `None` or no less than the steps it is `scan` itself.
    """
    steps = inputs.shape[1]
    if truncate is None or truncate >= steps:
        return scan(cell, inputs, state, mask, reverse=reverse, **options)
    windows = list(zip(torch.split(inputs, truncate, 1), _split(mask, truncate, steps), strict=True))
    outputs: list[Tensor] = [inputs] * len(windows)
    order = range(len(windows) - 1, -1, -1) if reverse else range(len(windows))
    for place in order:
        if place != order[0]:
            edge = place * truncate
            ahead = None if mask is None else (mask[:, : edge + truncate] if reverse else mask[:, edge:]).any(1)
            state = _cut(state, ahead)
        outputs[place], state = _again(cell, *windows[place], state, reverse=reverse, **options)
    return torch.cat(outputs, dim=1), state


def _cut(state: State, rows: Tensor | None) -> State:
    """Detaches the state, or only the `rows` `(batch,)` of it."""
    cut: State = nest.detach(state)
    return cut if rows is None or bool(rows.all()) else nest.where(rows, cut, state)


def _split(mask: Tensor | None, truncate: int, steps: int) -> Sequence[Tensor | None]:
    return [None] * -(-steps // truncate) if mask is None else torch.split(mask, truncate, 1)


def _again(cell: Cell, inputs: Tensor, mask: Tensor | None, state: State, **options: Any) -> tuple[Tensor, State]:
    """A scan that is run again for its derivative, with the same random numbers."""

    def run(inputs: Tensor, *state: Tensor) -> tuple[Tensor, State]:
        return scan(cell, inputs, state, mask, **options)

    if not torch.is_grad_enabled():
        return run(inputs, *state)
    result: tuple[Tensor, State] = checkpoint(run, inputs, *state, use_reentrant=False)
    return result
