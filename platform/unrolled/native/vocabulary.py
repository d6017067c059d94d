"""Bindings of `vocabulary.c` and `ranking.c`: cross-entropy, sampling and the largest logits of a vocabulary, and
dropout."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from unrolled.native import build


class _Losses(ctypes.Structure):
    """`struct losses` of vocabulary.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "rows", "columns"),
        ("smoothing", ctypes.c_float),
        *build.fields(ctypes.c_void_p, "bias", "target", "loss", "d_bias"),
    )


class _Dropout(ctypes.Structure):
    """`struct drop` of vocabulary.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "count"),
        *build.fields(ctypes.c_uint32, "seed", "second_seed", "threshold"),
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
        wide = build.scratch(4 * threads * len(bias))
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
    library = _library_for(logits)
    if library is None:
        return None
    uniforms, tokens = uniforms.contiguous(), torch.empty(len(logits), dtype=torch.long)
    library.sample_rows(*_shape(logits), ctypes.c_float(temperature), *build.pointers(uniforms, logits, tokens))
    return tokens


def _library_for(logits: Tensor) -> ctypes.CDLL | None:
    fits = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    return build.load() if fits else None


def _shape(matrix: Tensor) -> Iterator[ctypes.c_long]:
    return (ctypes.c_long(number) for number in (torch.get_num_threads(), *matrix.shape))


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
    library = build.load()
    assert library is not None
    values = values.contiguous()
    result = torch.empty_like(values)
    given = _Dropout(torch.get_num_threads(), values.numel(), *seeds, round(p * 2**32), 1 / (1 - p))
    function = library.dropout_float if values.dtype == torch.float32 else library.dropout_bf16
    function(ctypes.byref(given), *build.pointers(values, result))
    return result


Operands = Literal["float32", "bfloat16"]


class _Rank(ctypes.Structure):
    """`struct rank` of ranking.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "use_bf16", "threads", "rows", "depth", "columns", "count"),
        *build.fields(ctypes.c_void_p, "weights", "bias", "packed", "x", "excluded", "sums", "best", "indices"),
        *build.fields(ctypes.c_void_p, "logits", "scratch"),
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
        library = build.load()
        assert library is not None
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
        given.scratch = build.scratch(self._library.rank_rows(ctypes.byref(given))).data_ptr()
        self._library.rank_rows(ctypes.byref(given))
