"""State of a recurrent network: a nest of tensors whose first dimension is the batch.

A nest is a tensor, `None`, or a tuple of nests. The rest of the package handles states through these functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Nest = Any
"""A tensor `(batch, …)`, `None`, or a tuple of nests."""


def map(function: Callable[..., Tensor], *nests: Nest) -> Nest:
    """Applies `function` to the tensors at the same position of every nest; `None` stays `None`."""
    first = nests[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*nests)
    return tuple(map(function, *parts) for parts in zip(*nests, strict=True))


def detach(nest: Nest) -> Nest:
    """Detaches the state from the graph: truncated back-propagation through time at a window's boundary."""
    return map(torch.Tensor.detach, nest)


def select(nest: Nest, rows: Tensor) -> Nest:
    """Selects the batch rows `rows` `(n,)`, in that order and with repetition, from every tensor."""
    return map(lambda tensor: index_rows(tensor, rows), nest)


def index_rows(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]` by `index_select`, which is faster, unless the derivative is needed on a GPU: there it would sum
    repeated rows in an undefined order."""
    return values[rows] if values.requires_grad and values.device.type != "cpu" else values.index_select(0, rows)


def where(condition: Tensor, new: Nest, old: Nest) -> Nest:
    """Selects `new` in the rows where `condition` `(batch,)` is True, `old` elsewhere."""
    return map(lambda a, b: torch.where(condition.unsqueeze(-1), a, b), new, old)
