"""Additive scores as compiled code: `additive.c`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unrolled.recurrence.compiled import library


class _Additive(ctypes.Structure):
    """`struct additive` of additive.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "threads", "batch", "positions", "features"),
        *library.fields(ctypes.c_void_p, "query", "keys", "vector"),
    )


def can_score(keys: Tensor) -> bool:
    """Whether compiled code knows such keys: float32 on a CPU, one after the other."""
    fits = keys.device.type == "cpu" and keys.dtype == torch.float32 and keys.is_contiguous()
    return fits and library.load() is not None


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """vᵀ tanh(q + k), `(batch, positions)`, of a query `(batch, features)`, keys `(batch, positions, features)` that
    `can_score` allows and v `(features,)`."""
    functions, given = library.load(), _given(query, keys, vector)
    assert functions is not None
    scores = keys.new_empty(keys.shape[:2])
    functions.additive_scores(ctypes.byref(given), ctypes.c_void_p(scores.data_ptr()))
    return scores


def additive_errors(query: Tensor, keys: Tensor, vector: Tensor, errors: Tensor, into_keys: Tensor) -> list[Tensor]:
    """The derivative of `additive_scores`, given that of the scores `errors`: of the query and of v; that of the keys is
    added to `into_keys`."""
    functions, given = library.load(), _given(query, keys, vector)
    assert functions is not None
    errors = errors.contiguous()
    into_query, into_vector = torch.empty_like(query), vector.new_zeros(torch.get_num_threads(), len(vector))
    filled = (errors, into_query, into_keys, into_vector)
    functions.additive_errors(ctypes.byref(given), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in filled))
    return [into_query, into_vector.sum(0)]


def _given(query: Tensor, keys: Tensor, vector: Tensor) -> _Additive:
    assert query.is_contiguous() and vector.is_contiguous()
    pointers = (tensor.data_ptr() for tensor in (query, keys, vector))
    return _Additive(torch.get_num_threads(), *keys.shape, *pointers)
