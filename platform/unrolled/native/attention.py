"""Bindings of `attention.c`: attention of one query per row.

Several rows may read the same source (an encoder output): `source_index` `(batch,)` gives each row's source; `None`:
row i reads source i.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from unrolled.native import build


class _Additive(ctypes.Structure):
    """`struct additive` of attention.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "batch", "sources", "positions", "features"),
        *build.fields(ctypes.c_void_p, "source_index", "query", "keys", "vector"),
    )


class _Attention(ctypes.Structure):
    """`struct attention` of attention.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "batch", "sources", "positions", "features"),
        *build.fields(ctypes.c_void_p, "source_index", "masked", "states"),
    )


def attention_supported(values: Tensor) -> bool:
    """Whether compiled code can attend to such keys or states: float32 on a CPU, contiguous."""
    fits = values.device.type == "cpu" and values.dtype == torch.float32 and values.is_contiguous()
    return fits and build.load() is not None


def exp_2x(values: Tensor, out: Tensor | None = None) -> Tensor:
    """e^2x of float32 values on a CPU, the form in which `additive_scores` takes queries and keys; requires a compiler.

    Args:
        out: memory of the result, may be the values; `None`: new memory.
    """
    values = values.contiguous()
    out = torch.empty_like(values) if out is None else out
    _library().exp_2x(*_longs(torch.get_num_threads(), values.numel()), *build.pointers(values, out))
    return out


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor, source_index: Tensor | None = None) -> Tensor:
    """vᵀ tanh(q + k), `(batch, positions)`.

    Args:
        query: `exp_2x` of q `(batch, features)`.
        keys: `exp_2x` of k `(sources, positions, features)`.
        vector: v `(features,)`.
    """
    scores = keys.new_empty(len(query), keys.shape[1])
    given = _additive(query, keys, vector, source_index)
    _library().additive_scores(ctypes.byref(given), *build.pointers(scores))
    return scores


def additive_backward_query(
    query: Tensor, keys: Tensor, vector: Tensor, grad_scores: Tensor, source_index: Tensor | None = None
) -> Tensor:
    """∂L/∂q of `additive_scores`."""
    grad_scores, grad_query = grad_scores.contiguous(), torch.empty_like(query)
    given = _additive(query, keys, vector, source_index)
    _library().additive_backward_query(ctypes.byref(given), *build.pointers(grad_scores, grad_query))
    return grad_query


def additive_backward_keys(
    queries: Tensor, keys: Tensor, vector: Tensor, grad_scores: Tensor, source_index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """∂L/∂k and ∂L/∂v of `additive_scores` over all steps: of `queries` `(steps, batch, features)` and `grad_scores`
    `(steps, batch, positions)`."""
    return _additive_backward_keys(queries, keys, vector, grad_scores, source_index, None)


def additive_backward(
    query: Tensor, keys: Tensor, vector: Tensor, grad_scores: Tensor, source_index: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂q, ∂L/∂k and ∂L/∂v of `additive_scores`."""
    grad_query = torch.empty_like(query)
    of_keys = _additive_backward_keys(query[None], keys, vector, grad_scores[None], source_index, grad_query)
    return grad_query, *of_keys


def _additive_backward_keys(
    queries: Tensor,
    keys: Tensor,
    vector: Tensor,
    grad_scores: Tensor,
    source_index: Tensor | None,
    grad_query: Tensor | None,
) -> tuple[Tensor, Tensor]:
    assert queries.is_contiguous()
    grad_scores, grad_keys, grad_vector = grad_scores.contiguous(), torch.empty_like(keys), torch.empty_like(vector)
    given = _additive(queries[0], keys, vector, source_index)
    of_query = ctypes.c_void_p(None if grad_query is None else grad_query.data_ptr())
    _library().additive_backward_keys(
        ctypes.byref(given),
        *_longs(len(queries)),
        *build.pointers(grad_scores),
        of_query,
        *build.pointers(grad_keys, grad_vector),
    )
    return grad_keys, grad_vector


def attention_forward(masked: Tensor, states: Tensor, weights: Tensor, source_index: Tensor | None = None) -> Tensor:
    """Replaces scores by weights in place; returns the contexts Σ_p weight_p · state_p `(batch, features)`.

    Args:
        masked: `(sources, positions)`, bool, True on padding.
        states: `(sources, positions, features)`.
        weights: `(batch, positions)`, the scores.
    """
    assert weights.is_contiguous()
    contexts = states.new_empty(len(weights), states.shape[2])
    given = _attention(masked, states, len(weights), source_index)
    _library().attention_forward(ctypes.byref(given), *build.pointers(weights, contexts))
    return contexts


def attention_backward_scores(
    masked: Tensor,
    states: Tensor,
    weights: Tensor,
    grad_contexts: Tensor,
    grad_scores: Tensor,
    source_index: Tensor | None = None,
) -> None:
    """Derivative of `attention_forward` with respect to the scores.

    Args:
        grad_contexts: `(batch, features)`.
        grad_scores: `(batch, positions)`; contains ∂L/∂weights without its part through the contexts, and is
            overwritten with ∂L/∂scores.
    """
    assert grad_scores.is_contiguous()
    grad_contexts = grad_contexts.contiguous()
    given = _attention(masked, states, len(weights), source_index)
    _library().attention_backward_scores(ctypes.byref(given), *build.pointers(weights, grad_contexts, grad_scores))


def attention_backward_states(
    masked: Tensor, states: Tensor, weights: Tensor, grad_contexts: Tensor, source_index: Tensor | None = None
) -> Tensor:
    """Derivative of `attention_forward` with respect to the states, over all steps: of `weights` `(steps, batch,
    positions)` and `grad_contexts` `(steps, batch, features)`."""
    weights, grad_contexts = weights.contiguous(), grad_contexts.contiguous()
    grad_states = torch.empty_like(states)
    given = _attention(masked, states, weights.shape[1], source_index)
    pointers = build.pointers(weights, grad_contexts, grad_states)
    _library().attention_backward_states(ctypes.byref(given), *_longs(len(weights)), *pointers)
    return grad_states


def _additive(query: Tensor, keys: Tensor, vector: Tensor, source_index: Tensor | None) -> _Additive:
    assert query.is_contiguous() and keys.is_contiguous() and vector.is_contiguous()
    pointers = _index_pointer(source_index), *(tensor.data_ptr() for tensor in (query, keys, vector))
    return _Additive(torch.get_num_threads(), len(query), *keys.shape, *pointers)


def _attention(masked: Tensor, states: Tensor, batch: int, source_index: Tensor | None) -> _Attention:
    pointers = _index_pointer(source_index), *(tensor.data_ptr() for tensor in (masked, states))
    return _Attention(torch.get_num_threads(), batch, *states.shape, *pointers)


def _index_pointer(index: Tensor | None) -> int | None:
    assert index is None or (index.is_contiguous() and index.dtype == torch.int64)
    return None if index is None else index.data_ptr()


def _library() -> ctypes.CDLL:
    library = build.load()
    assert library is not None
    return library


def _longs(*numbers: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(number) for number in numbers]
