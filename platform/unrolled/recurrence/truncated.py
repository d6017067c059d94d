"""Truncated back-propagation through time within one long scan (Williams & Peng 1990)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unrolled.recurrence import state as nest
from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.scan import scan


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
