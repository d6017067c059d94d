"""Bindings of `attention.c`: attention of one query per row."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.native import build


class _Additive(ctypes.Structure):
    """`struct additive` of attention.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "batch", "memories", "positions", "features"),
        *build.fields(ctypes.c_void_p, "owners", "query", "keys", "vector"),
    )


class _Look(ctypes.Structure):
    """`struct look` of attention.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "batch", "memories", "positions", "features"),
        *build.fields(ctypes.c_void_p, "owners", "hidden", "states"),
    )


def can_look(memory: Tensor) -> bool:
    """Whether compiled code knows such keys or states: float32 on a CPU, one after the other."""
    fits = memory.device.type == "cpu" and memory.dtype == torch.float32 and memory.is_contiguous()
    return fits and build.load() is not None


def powers(values: Tensor, into: Tensor | None = None) -> Tensor:
    """e^2x of float32 values on a CPU, by which `additive_scores` knows queries and keys; there must be a compiler.

    Args:
        into: to fill and return, may be the values; `None`: new memory.
    """
    functions, values = build.load(), values.contiguous()
    assert functions is not None
    into = torch.empty_like(values) if into is None else into
    functions.powers(*map(ctypes.c_long, (torch.get_num_threads(), values.numel())), *_pointers(values, into))
    return into


def squashed(values: Tensor, last: Tensor) -> Tensor | None:
    """tanh of `values` `(memories, positions, features)`, with `last` `(features,)` behind every memory's positions;
    `None` where no compiled code can do it."""
    if values.device.type != "cpu" or not values.dtype == last.dtype == torch.float32 or build.load() is None:
        return None
    states: Tensor = _Squashed.apply(values.contiguous(), last.contiguous())
    return states


class _Squashed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, last: Tensor) -> Tensor:
        functions, (memories, positions, features) = build.load(), values.shape
        assert functions is not None
        states = values.new_empty(memories, positions + 1, features)
        ctx.sizes = torch.get_num_threads(), memories, positions, features
        functions.squashed(*map(ctypes.c_long, ctx.sizes), *_pointers(values, last, states))
        ctx.save_for_backward(states)
        return states

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, errors: Tensor) -> Any:
        functions, (states,), errors = build.load(), ctx.saved_tensors, errors.contiguous()
        assert functions is not None
        into = errors.new_empty(ctx.sizes[1:])
        functions.squashed_back(*map(ctypes.c_long, ctx.sizes), *_pointers(states, errors, into))
        return into, errors[:, -1].sum(0)


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor, owners: Tensor | None = None) -> Tensor:
    """vᵀ tanh(q + k), `(batch, positions)`.

    Args:
        query: `powers` of q `(batch, features)`.
        keys: `powers` of k `(memories, positions, features)`.
        vector: v `(features,)`.
        owners: the memory that each row looks at, `(batch,)`; `None`: a row a memory.
    """
    functions, given = build.load(), _additive(query, keys, vector, owners)
    assert functions is not None
    scores = keys.new_empty(len(query), keys.shape[1])
    functions.additive_scores(ctypes.byref(given), *_pointers(scores))
    return scores


def additive_queries(
    query: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, owners: Tensor | None = None
) -> Tensor:
    """The derivative of `additive_scores` of q, given that of the scores, `errors`."""
    functions, given = build.load(), _additive(query, keys, vector, owners)
    assert functions is not None
    errors, into_query = errors.contiguous(), torch.empty_like(query)
    functions.additive_queries(ctypes.byref(given), *_pointers(errors, into_query))
    return into_query


def additive_keys(
    queries: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, owners: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The derivative of k and of v, over all steps: of `queries` `(steps, batch, features)` and `errors`
    `(steps, batch, positions)`."""
    return _additive_keys(queries, keys, vector, errors, owners, None)


def additive_back(
    query: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, owners: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`additive_queries` and `additive_keys` of one step."""
    into_query = torch.empty_like(query)
    return into_query, *_additive_keys(query[None], keys, vector, errors[None], owners, into_query)


def _additive_keys(
    queries: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, owners: Tensor | None, into_query: Tensor | None
) -> tuple[Tensor, Tensor]:
    functions, given = build.load(), _additive(queries[0], keys, vector, owners)
    assert functions is not None and queries.is_contiguous()
    errors, into_keys, into_vector = errors.contiguous(), torch.empty_like(keys), torch.empty_like(vector)
    into = ctypes.c_void_p(None if into_query is None else into_query.data_ptr())
    steps, found = ctypes.c_long(len(queries)), _pointers(into_keys, into_vector)
    functions.additive_keys(ctypes.byref(given), steps, *_pointers(errors), into, *found)
    return into_keys, into_vector


def look(hidden: Tensor, states: Tensor, weights: Tensor, owners: Tensor | None = None) -> Tensor:
    """Turns scores into weights, in place; returns the contexts Σ_p weight_p · state_p `(batch, features)`.

    Args:
        hidden: `(memories, positions)`, True where nothing may be seen.
        states: `(memories, positions, features)` that `can_look` allows.
        weights: `(batch, positions)`, which holds scores.
        owners: as of `additive_scores`.
    """
    functions, given = build.load(), _look(hidden, states, len(weights), owners)
    assert functions is not None and weights.is_contiguous()
    contexts = states.new_empty(len(weights), states.shape[2])
    functions.look(ctypes.byref(given), *_pointers(weights, contexts))
    return contexts


def look_back(
    hidden: Tensor, states: Tensor, weights: Tensor, into: Tensor, errors: Tensor, owners: Tensor | None = None
) -> None:
    """The derivative of `look`, without that of the states.

    Args:
        into: that of the contexts, `(batch, features)`.
        errors: `(batch, positions)`; holds that of the weights without what goes through the contexts, and is given
            that of the scores.
    """
    functions, given = build.load(), _look(hidden, states, len(weights), owners)
    assert functions is not None and errors.is_contiguous()
    into = into.contiguous()
    functions.look_back(ctypes.byref(given), *_pointers(weights, into, errors))


def seen_back(hidden: Tensor, states: Tensor, weights: Tensor, into: Tensor, owners: Tensor | None = None) -> Tensor:
    """The derivative of the states that `look` leaves, over all steps, given `weights` `(steps, batch, positions)` and
    that of the contexts, `into` `(steps, batch, features)`."""
    functions, given = build.load(), _look(hidden, states, weights.shape[1], owners)
    assert functions is not None
    weights, into, into_states = weights.contiguous(), into.contiguous(), torch.empty_like(states)
    functions.seen_back(ctypes.byref(given), ctypes.c_long(len(weights)), *_pointers(weights, into, into_states))
    return into_states


def _additive(query: Tensor, keys: Tensor, vector: Tensor, owners: Tensor | None) -> _Additive:
    assert query.is_contiguous() and keys.is_contiguous() and vector.is_contiguous()
    pointers = _owners(owners), *(tensor.data_ptr() for tensor in (query, keys, vector))
    return _Additive(torch.get_num_threads(), len(query), *keys.shape, *pointers)


def _look(hidden: Tensor, states: Tensor, batch: int, owners: Tensor | None) -> _Look:
    pointers = _owners(owners), *(tensor.data_ptr() for tensor in (hidden, states))
    return _Look(torch.get_num_threads(), batch, *states.shape, *pointers)


def _owners(owners: Tensor | None) -> int | None:
    assert owners is None or (owners.is_contiguous() and owners.dtype == torch.int64)
    return None if owners is None else owners.data_ptr()


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
