"""Attention of one query a row as compiled code: `looks.c`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unrolled.recurrence.compiled import library


class _Additive(ctypes.Structure):
    """`struct additive` of looks.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "threads", "batch", "positions", "features"),
        *library.fields(ctypes.c_void_p, "query", "keys", "vector"),
    )


class _Look(ctypes.Structure):
    """`struct look` of looks.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "threads", "batch", "positions", "features"),
        *library.fields(ctypes.c_void_p, "hidden", "states"),
    )


def can_look(memory: Tensor) -> bool:
    """Whether compiled code knows such keys or states: float32 on a CPU, one after the other."""
    fits = memory.device.type == "cpu" and memory.dtype == torch.float32 and memory.is_contiguous()
    return fits and library.load() is not None


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """vᵀ tanh(q + k), `(batch, positions)`, of a query `(batch, features)`, keys `(batch, positions, features)` that
    `can_look` allows and v `(features,)`."""
    functions, given = library.load(), _given(query, keys, vector)
    assert functions is not None
    scores = keys.new_empty(keys.shape[:2])
    functions.additive_scores(ctypes.byref(given), *_pointers(scores))
    return scores


def additive_errors(query: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, into_keys: Tensor) -> list[Tensor]:
    """The derivative of `additive_scores`: of the query and of v, given that of the scores, `errors`; that of the keys
    is added to `into_keys`."""
    functions, given = library.load(), _given(query, keys, vector)
    assert functions is not None
    errors = errors.contiguous()
    into_query, into_vector = torch.empty_like(query), vector.new_zeros(torch.get_num_threads(), len(vector))
    functions.additive_errors(ctypes.byref(given), *_pointers(errors, into_query, into_keys, into_vector))
    return [into_query, into_vector.sum(0)]


def look(hidden: Tensor, states: Tensor, weights: Tensor) -> Tensor:
    """Turns scores into weights, in place; returns the contexts Σ_p weight_p · state_p `(batch, features)`.

    Args:
        hidden: `(batch, positions)`, True where nothing may be seen.
        states: `(batch, positions, features)` that `can_look` allows.
        weights: `(batch, positions)`, which holds scores.
    """
    functions, given = library.load(), _look(hidden, states)
    assert functions is not None and weights.is_contiguous()
    contexts = states.new_empty(len(states), states.shape[2])
    functions.look(ctypes.byref(given), *_pointers(weights, contexts))
    return contexts


def look_back(hidden: Tensor, states: Tensor, weights: Tensor, into: Tensor, errors: Tensor) -> None:
    """The derivative of `look`.

    Args:
        into: that of the contexts, `(batch, features)`.
        errors: `(batch, positions)`; holds that of the weights without what goes through the contexts, and is given
            that of the scores.
    """
    functions, given = library.load(), _look(hidden, states)
    assert functions is not None and errors.is_contiguous()
    into = into.contiguous()
    functions.look_back(ctypes.byref(given), *_pointers(weights, into, errors))


def _look(hidden: Tensor, states: Tensor) -> _Look:
    pointers = (tensor.data_ptr() for tensor in (hidden, states))
    return _Look(torch.get_num_threads(), *states.shape, *pointers)


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _given(query: Tensor, keys: Tensor, vector: Tensor) -> _Additive:
    assert query.is_contiguous() and vector.is_contiguous()
    pointers = (tensor.data_ptr() for tensor in (query, keys, vector))
    return _Additive(torch.get_num_threads(), *keys.shape, *pointers)
