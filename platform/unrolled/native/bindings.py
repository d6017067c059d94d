"""Bindings of the C files: scans, vocabularies, dropout and attention.

A function returns `None`, or its `*_supported` function False, where compiled code cannot do the work.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unrolled.native import build

if TYPE_CHECKING:
    from unrolled.recurrence.cell import Cell


def _fields(kind: type, *names: str) -> Iterator[tuple[str, type]]:
    """Returns fields of one type for a `ctypes.Structure`."""
    return ((name, kind) for name in names)


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    """Returns the tensors' addresses as arguments of a C function."""
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


_memory = threading.local()


def _scratch(size: int) -> Tensor:
    """Returns `size` bytes of scratch memory, reused per thread: new memory costs as much as a step."""
    bytes_: Tensor | None = getattr(_memory, "scratch", None)
    if bytes_ is None or len(bytes_) < size:
        bytes_ = _memory.scratch = torch.empty(size, dtype=torch.uint8)
    return bytes_


# Scans: scan.c


KINDS = ("rnn", "irnn", "lstm", "gru", "reset")
"""Kinds of steps, in the order of scan.c."""
GROUP = 32
"""Units that a thread computes at a time, as in scan.c; in bfloat16 the hidden size must be a multiple."""


class _Scan(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "cell", "gate_count"),
        ("blocks", ctypes.c_long * 3),
        *_fields(ctypes.c_long, "z_gates_candidate", "threads", "steps", "batch", "size", "reverse"),
        *_fields(ctypes.c_long, "errors_step", "errors_row", "count"),
        *_fields(ctypes.c_void_p, "gates", "saved", "h", "c", "valid", "weights", "extra", "errors"),
        *_fields(ctypes.c_void_p, "d_h", "d_c", "scratch"),
    )


def scan_supported(cell: Cell, *, bf16: bool) -> bool:
    """Whether a scan of this cell can run as compiled code: float32 on a CPU, with `bf16` products in bfloat16.

    A class must state its `native_kind` itself, because a subclass may have changed the step.
    """
    if cell.bias.dtype != torch.float32 or cell.bias.device.type != "cpu" or "native_kind" not in vars(type(cell)):
        return False
    if bf16 and cell.hidden_size % GROUP != 0:
        return False
    return build.amx_available() if bf16 else build.load() is not None


def run_scan(
    cell: Cell,
    gates: Tensor,
    states: list[Tensor],
    saved: list[Tensor],
    valid: Tensor | None,
    reverse: bool,
    grad_outputs: Tensor | None = None,
    gradient: tuple[Tensor, ...] = (),
) -> None:
    """Runs all steps of a scan, or with `grad_outputs` their derivative.

    Args:
        gates: projected inputs `(rows, num_gates · hidden)`, float32 or bfloat16; overwritten with what the derivative
            needs, and by the derivative with gradients.
        states: `(time + 1, batch, hidden)`; the first state is given, the others are filled.
        saved: `(rows, hidden)` in the type of the gates; filled, and by the derivative overwritten with gradients.
        valid: indices of the rows in `(time · batch)`, ascending; elsewhere the state is carried. `None`: all.
        grad_outputs: ∂L/∂outputs `(time, batch, hidden)`.
        gradient: ∂L/∂(last state); overwritten with that of the first.
    """
    library = _library()
    steps, batch, extra = len(states[0]) - 1, states[0].shape[1], cell.native_parameter()
    if grad_outputs is not None and grad_outputs.stride(2) != 1:
        grad_outputs = grad_outputs.contiguous()
    scan = _Scan(
        cell=KINDS.index(cell.native_kind),
        gate_count=cell.num_gates,
        blocks=(ctypes.c_long * 3)(*cell.recurrent_blocks),
        z_gates_candidate=int(cell.z_gates_candidate),
        threads=torch.get_num_threads(),
        steps=steps,
        batch=batch,
        size=cell.hidden_size,
        reverse=int(reverse),
        errors_step=0 if grad_outputs is None else grad_outputs.stride(0),
        errors_row=0 if grad_outputs is None else grad_outputs.stride(1),
        count=len(gates),
        gates=gates.data_ptr(),
        saved=saved[0].data_ptr() if saved else None,
        h=states[0].data_ptr(),
        c=states[1].data_ptr() if len(states) > 1 else None,
        valid=None if valid is None else valid.data_ptr(),
        weights=cell.weight_hidden.data_ptr(),
        extra=None if extra is None else extra.data_ptr(),
        errors=None if grad_outputs is None else grad_outputs.data_ptr(),
        d_h=gradient[0].data_ptr() if gradient else None,
        d_c=gradient[1].data_ptr() if len(gradient) > 1 else None,
    )
    function = library.scan_bf16 if gates.dtype == torch.bfloat16 else library.scan_float
    backward = int(grad_outputs is not None)
    scratch = _scratch(function(ctypes.byref(scan), backward))
    scan.scratch = scratch.data_ptr()
    function(ctypes.byref(scan), backward)


# Vocabularies and dropout: vocabulary.c and ranking.c


class _Losses(ctypes.Structure):
    """`struct losses` of vocabulary.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "threads", "rows", "columns"),
        ("smoothing", ctypes.c_float),
        *_fields(ctypes.c_void_p, "bias", "target", "loss", "d_bias"),
    )


class _Dropout(ctypes.Structure):
    """`struct drop` of vocabulary.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "threads", "count"),
        *_fields(ctypes.c_uint32, "seed", "second_seed", "threshold"),
        ("scale", ctypes.c_float),
    )


def cross_entropy(logits: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor] | None:
    """Cross-entropy of a softmax; overwrites the logits with their gradients.

    Args:
        logits: `(rows, vocabulary)` without their bias, float32 or bfloat16, contiguous.
        bias: `(vocabulary,)`, float32.
        targets: `(rows,)`.
        smoothing: see `VocabularyHead.loss`.

    Returns:
        The loss of every row and the gradient of the bias; `None` if no compiled code can do it.
    """
    library = build.load()
    bf16 = logits.dtype == torch.bfloat16
    if library is None or logits.device.type != "cpu" or bias.dtype != torch.float32:
        return None
    if not bf16 and logits.dtype != torch.float32:
        return None
    threads, losses = torch.get_num_threads(), bias.new_empty(len(logits))
    bias, targets = bias.contiguous(), targets.contiguous()
    grad_bias = bias.new_zeros(threads, len(bias))
    given = _Losses(
        threads,
        *logits.shape,
        smoothing,
        *(tensor.data_ptr() for tensor in (bias, targets, losses, grad_bias)),
    )
    if bf16:
        wide = _scratch(4 * threads * len(bias))
        library.losses_bf16(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()), ctypes.c_void_p(wide.data_ptr()))
    else:
        library.losses_float(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()))
    return losses, grad_bias.sum(0)


def sample_rows(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor | None:
    """Samples an entry of every row with weights exp(logit / temperature).

    Args:
        logits: `(rows, vocabulary)`, float32 on a CPU; a row must not be -inf throughout.
        uniforms: `(rows,)` of [0, 1), float64.

    Returns:
        The first entries `(rows,)` at which the cumulative weight exceeds these fractions of the total; `None` if no
        compiled code can do it.
    """
    library = build.load()
    fits = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    if library is None or not fits:
        return None
    uniforms, tokens = uniforms.contiguous(), torch.empty(len(logits), dtype=torch.long)
    library.sample_rows(
        *_longs(torch.get_num_threads(), *logits.shape),
        ctypes.c_float(temperature),
        *_pointers(uniforms, logits, tokens),
    )
    return tokens


def dropout(values: Tensor, p: float) -> Tensor | None:
    """Dropout of float32 or bfloat16 values on a CPU; `None` if no compiled code can do it.

    The random numbers depend on a seed from torch's generator and are computed again in the backward pass: no mask is
    stored.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.bfloat16) or build.load() is None:
        return None
    dropped: Tensor = _DropoutFunction.apply(values, p, torch.randint(2**31, (2,)).tolist())
    return dropped


class _DropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float, seeds: list[int]) -> Tensor:
        ctx.p, ctx.seeds = p, seeds
        return _dropout(values, p, seeds)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _dropout(grads[0], ctx.p, ctx.seeds), None, None


def _dropout(values: Tensor, p: float, seeds: list[int]) -> Tensor:
    library, values = _library(), values.contiguous()
    result = torch.empty_like(values)
    given = _Dropout(torch.get_num_threads(), values.numel(), *seeds, round(p * 2**32), 1 / (1 - p))
    function = library.dropout_float if values.dtype == torch.float32 else library.dropout_bf16
    function(ctypes.byref(given), *_pointers(values, result))
    return result


Operands = Literal["float32", "bfloat16"]


class _Rank(ctypes.Structure):
    """`struct rank` of ranking.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "use_bf16", "threads", "rows", "depth", "columns", "count"),
        *_fields(ctypes.c_void_p, "weights", "bias", "packed", "x", "excluded", "sums", "best", "indices"),
        *_fields(ctypes.c_void_p, "logits", "scratch"),
    )


def ranking_supported(operands: Operands) -> bool:
    """Whether there is compiled code for such products: bfloat16 takes a matrix unit."""
    return build.load() is not None if operands == "float32" else build.amx_available()


class Ranking:
    """The product with the output matrix of a vocabulary, packed once for many calls; requires `ranking_supported`.

    Args:
        weight: `(vocabulary, features)`, float32 on a CPU.
        bias: `(vocabulary,)`.
        operands: type that both sides of the product are rounded to; sums are float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor, operands: Operands) -> None:
        library = _library()
        self._library = library
        self._weight, self._bias = weight.detach().contiguous(), bias.detach().contiguous()
        columns, depth = weight.shape
        self._given = _Rank(
            use_bf16=int(operands == "bfloat16"),
            threads=torch.get_num_threads(),
            depth=depth,
            columns=columns,
            weights=self._weight.data_ptr(),
            bias=self._bias.data_ptr(),
        )
        self._packed = torch.empty(library.rank_pack(ctypes.byref(self._given)) + 64, dtype=torch.uint8)
        self._given.packed = self._packed.data_ptr() + -self._packed.data_ptr() % 64
        library.rank_pack(ctypes.byref(self._given))

    def topk(self, x: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the largest logits of every row.

        Args:
            x: `(rows, features)`, float32.
            count: up to the size of the vocabulary.
            excluded: `(vocabulary,)`, bool: entries left out of the largest, not of log Σ exp.

        Returns:
            log Σ exp of the logits `(rows,)`: -inf if all of a row is -inf, NaN if any is NaN or +inf. And the `count`
            largest in descending order with their indices, `(rows, count)` both: the first among equals; where fewer
            are above -inf, -inf at index 0.
        """
        sums, values = x.new_empty(len(x)), x.new_empty(len(x), count)
        indices, excluded = torch.empty(len(x), count, dtype=torch.long), excluded.contiguous()
        self._run(x, count=count, excluded=excluded, sums=sums, best=values, indices=indices)
        return sums, values, indices

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log Σ exp of the logits `(rows,)`, and the logits `(rows, vocabulary)`."""
        sums, logits = x.new_empty(len(x)), x.new_empty(len(x), len(self._bias))
        self._run(x, count=0, sums=sums, logits=logits)
        return sums, logits

    def _run(self, x: Tensor, count: int, **tensors: Tensor) -> None:
        assert x.dtype == torch.float32  # another type would be read past its end
        x, given = x.contiguous(), _Rank.from_buffer_copy(self._given)
        given.rows, given.count, given.x = len(x), count, x.data_ptr()
        for name, tensor in tensors.items():
            setattr(given, name, tensor.data_ptr())
        given.scratch = _scratch(self._library.rank_rows(ctypes.byref(given))).data_ptr()
        self._library.rank_rows(ctypes.byref(given))


# Attention of one query per row: attention.c. Several rows may read the same source (an encoder output):
# `source_index` `(batch,)` gives each row's source; `None`: row i reads source i.


class _Additive(ctypes.Structure):
    """`struct additive` of attention.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "threads", "batch", "sources", "positions", "features"),
        *_fields(ctypes.c_void_p, "source_index", "query", "keys", "vector"),
    )


class _Attention(ctypes.Structure):
    """`struct attention` of attention.c."""

    _fields_ = (
        *_fields(ctypes.c_long, "threads", "batch", "sources", "positions", "features"),
        *_fields(ctypes.c_void_p, "source_index", "masked", "states"),
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
    _library().exp_2x(*_longs(torch.get_num_threads(), values.numel()), *_pointers(values, out))
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
    _library().additive_scores(ctypes.byref(given), *_pointers(scores))
    return scores


def additive_backward_query(
    query: Tensor, keys: Tensor, vector: Tensor, grad_scores: Tensor, source_index: Tensor | None = None
) -> Tensor:
    """∂L/∂q of `additive_scores`."""
    grad_scores, grad_query = grad_scores.contiguous(), torch.empty_like(query)
    given = _additive(query, keys, vector, source_index)
    _library().additive_backward_query(ctypes.byref(given), *_pointers(grad_scores, grad_query))
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
        *_pointers(grad_scores),
        of_query,
        *_pointers(grad_keys, grad_vector),
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
    _library().attention_forward(ctypes.byref(given), *_pointers(weights, contexts))
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
    _library().attention_backward_scores(ctypes.byref(given), *_pointers(weights, grad_contexts, grad_scores))


def attention_backward_states(
    masked: Tensor, states: Tensor, weights: Tensor, grad_contexts: Tensor, source_index: Tensor | None = None
) -> Tensor:
    """Derivative of `attention_forward` with respect to the states, over all steps: of `weights` `(steps, batch,
    positions)` and `grad_contexts` `(steps, batch, features)`."""
    weights, grad_contexts = weights.contiguous(), grad_contexts.contiguous()
    grad_states = torch.empty_like(states)
    given = _attention(masked, states, weights.shape[1], source_index)
    pointers = _pointers(weights, grad_contexts, grad_states)
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
