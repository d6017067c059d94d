"""State that a model carries from batch to batch, joined for a checkpoint and dealt out to any number of workers.

Worker r of n holds the rows r, r + n, r + 2n, … of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest


def to_cpu(state: Nest) -> Nest:
    """Moves the state to where it can be sent and saved."""
    return nest.map(Tensor.cpu, state)


def joined(parts: Sequence[Nest]) -> Nest:
    """Returns the state of the global batch, rows in order, from the workers' parts in the order of ranks."""
    held = [part for part in parts if part is not None]  # with fewer rows than workers, the last ones hold none
    return nest.map(_interleaved, *held) if held else None


def _interleaved(*parts: Tensor) -> Tensor:
    rows = sum(map(len, parts))
    whole = parts[0].new_empty(rows, *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def part(state: Nest, rank: int, size: int, device: torch.device) -> Nest:
    """Returns the rows of worker `rank` of `size`; `None` where it has none."""
    mine = nest.map(lambda rows: rows[rank::size].to(device), state)
    return None if _empty(mine) else mine


def _empty(state: Nest) -> bool:
    while isinstance(state, tuple):
        state = state[0]
    return state is None or len(state) == 0
