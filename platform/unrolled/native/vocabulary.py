"""Bindings of `vocabulary.c`: losses, drawing, dropout and ranking over long rows.

Work over long rows as compiled code: `vocabulary.c`.

Scores of a vocabulary, and the best of them, as compiled code: `ranking.c`.
"""

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


class _Drop(ctypes.Structure):
    """`struct drop` of vocabulary.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "count"),
        *build.fields(ctypes.c_uint32, "seed", "more", "threshold"),
        ("scale", ctypes.c_float),
    )


def cross_entropy(logits: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor] | None:
    """Turns logits into the gradient of their loss, in place.

    Args:
        logits: `(rows, vocabulary)` without their bias, float32 or bfloat16, contiguous.
        bias: `(vocabulary,)`, float32.
        targets: `(rows,)`.
        smoothing: see `VocabularyHead.loss`.

    Returns:
        The loss of every row and the gradient of the bias; `None` where no compiled code can do it.
    """
    functions = build.load()
    narrow = logits.dtype == torch.bfloat16
    if functions is None or logits.device.type != "cpu" or bias.dtype != torch.float32:
        return None
    if not narrow and logits.dtype != torch.float32:
        return None
    threads, losses = torch.get_num_threads(), bias.new_empty(len(logits))
    bias, targets = bias.contiguous(), targets.contiguous()
    into_bias = bias.new_zeros(threads, len(bias))
    given = _Losses(
        threads,
        *logits.shape,
        smoothing,
        *(tensor.data_ptr() for tensor in (bias, targets, losses, into_bias)),
    )
    if narrow:
        wide = build.scratch(4 * threads * len(bias))
        functions.losses_half(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()), ctypes.c_void_p(wide.data_ptr()))
    else:
        functions.losses_float(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()))
    return losses, into_bias.sum(0)


def logsumexp(logits: Tensor) -> Tensor | None:
    """log Σ exp of every row `(rows,)` of float32 numbers on a CPU: -inf if all of a row is, NaN if any of it is NaN or
    +inf; `None` where no compiled code can do it."""
    functions = _reads(logits)
    if functions is None:
        return None
    sums = logits.new_empty(len(logits))
    functions.log_sums(*_shape(logits), *_pointers(logits, sums))
    return sums


def topk(logits: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """The `count` largest float32 numbers of every row on a CPU, falling, and their places; of equals those that come
    first. Where fewer are above -inf, -inf at place 0 fills up. `None` where no compiled code can do it."""
    functions = _reads(logits)
    if functions is None:
        return None
    best = logits.new_empty(len(logits), count)
    places = torch.empty(len(logits), count, dtype=torch.long)
    functions.largest(*_shape(logits), ctypes.c_long(count), *_pointers(logits, best, places))
    return best, places


def sample_rows(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor | None:
    """Draws an entry of every row by weights exp(logit / temperature).

    Args:
        logits: `(rows, vocabulary)`, float32 on a CPU; of a row not all may be -inf.
        uniforms: `(rows,)` of [0, 1), float64.

    Returns:
        The entries `(rows,)` at which the running sum of the weights passes these shares of their sum; `None` where no
        compiled code can do it.
    """
    functions = _reads(logits)
    if functions is None:
        return None
    uniforms, tokens = uniforms.contiguous(), torch.empty(len(logits), dtype=torch.long)
    functions.draw(*_shape(logits), ctypes.c_float(temperature), *_pointers(uniforms, logits, tokens))
    return tokens


def _reads(logits: Tensor) -> ctypes.CDLL | None:
    fits = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    return build.load() if fits else None


def _shape(matrix: Tensor) -> Iterator[ctypes.c_long]:
    return (ctypes.c_long(number) for number in (torch.get_num_threads(), *matrix.shape))


def _pointers(*tensors: Tensor) -> Iterator[ctypes.c_void_p]:
    return (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)


def dropout(values: Tensor, share: float) -> Tensor | None:
    """Dropout of float32 or bfloat16 values on a CPU; `None` where no compiled code can do it.

    The numbers come from a seed of torch's generator and are drawn again on the way back: no mask is kept.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.bfloat16) or build.load() is None:
        return None
    dropped: Tensor = _Dropped.apply(values, share, torch.randint(2**31, (2,)).tolist())
    return dropped


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float, seeds: list[int]) -> Tensor:
        ctx.share, ctx.seeds = share, seeds
        return _dropped(values, share, seeds)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        return _dropped(errors[0], ctx.share, ctx.seeds), None, None


def _dropped(values: Tensor, share: float, seeds: list[int]) -> Tensor:
    functions = build.load()
    assert functions is not None
    values = values.contiguous()
    result = torch.empty_like(values)
    given = _Drop(torch.get_num_threads(), values.numel(), *seeds, round(share * 2**32), 1 / (1 - share))
    function = functions.dropout_float if values.dtype == torch.float32 else functions.dropout_half
    function(ctypes.byref(given), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (values, result)))
    return result


Operands = Literal["float32", "bfloat16", "int8"]
KINDS: tuple[Operands, ...] = ("float32", "bfloat16", "int8")
"""What numbers are multiplied, in the order of ranking.c."""


class _Rank(ctypes.Structure):
    """`struct rank` of ranking.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "kind", "threads", "rows", "depth", "columns", "count"),
        *build.fields(ctypes.c_void_p, "weights", "bias", "packed", "x", "excluded", "sums", "best", "places"),
        *build.fields(ctypes.c_void_p, "logits", "scratch"),
    )


def ranking_supported(operands: Operands) -> bool:
    """Whether this processor has fast code for such products."""
    functions = build.load()
    return functions is not None and bool(functions.rank_knows(ctypes.c_long(KINDS.index(operands))))


class Ranking:
    """The product with the output matrix of a vocabulary, packed once for many calls. Ask `knows` first.

    Args:
        weight: `(vocabulary, features)`, float32 on a CPU.
        bias: `(vocabulary,)`.
        operands: what both sides of the product are rounded to; sums are of float32, or exact for int8, where every
            row of both has a unit of its own.
    """

    def __init__(self, weight: Tensor, bias: Tensor, operands: Operands) -> None:
        functions = build.load()
        assert functions is not None
        self._functions = functions
        self._weight, self._bias = weight.detach().contiguous(), bias.detach().contiguous()
        columns, depth = weight.shape
        self._given = _Rank(
            kind=KINDS.index(operands),
            threads=torch.get_num_threads(),
            depth=depth,
            columns=columns,
            weights=self._weight.data_ptr(),
            bias=self._bias.data_ptr(),
        )
        self._packed = torch.empty(functions.rank_pack(ctypes.byref(self._given)) + 64, dtype=torch.uint8)
        self._given.packed = self._packed.data_ptr() + -self._packed.data_ptr() % 64
        functions.rank_pack(ctypes.byref(self._given))

    def topk(self, x: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the best of the vocabulary for every row.

        Args:
            x: `(rows, features)`, float32.
            count: up to the size of the vocabulary.
            excluded: `(vocabulary,)`, bool: what is not among the best; it counts in the sums all the same.

        Returns:
            log Σ exp of the logits `(rows,)`; the `count` largest, falling, and their places, `(rows, count)` both, as
            `largest` gives them.
        """
        sums, values = x.new_empty(len(x)), x.new_empty(len(x), count)
        places, excluded = torch.empty(len(x), count, dtype=torch.long), excluded.contiguous()
        self._run(x, count=count, excluded=excluded, sums=sums, best=values, places=places)
        return sums, values, places

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log Σ exp of the logits `(rows,)`, and the logits `(rows, vocabulary)`."""
        sums, logits = x.new_empty(len(x)), x.new_empty(len(x), len(self._bias))
        self._run(x, count=0, sums=sums, logits=logits)
        return sums, logits

    def _run(self, x: Tensor, count: int, **tensors: Tensor) -> None:
        assert x.dtype == torch.float32  # others would be read past their end
        x, given = x.contiguous(), _Rank.from_buffer_copy(self._given)
        given.rows, given.count, given.x = len(x), count, x.data_ptr()
        for name, tensor in tensors.items():
            setattr(given, name, tensor.data_ptr())
        given.scratch = build.scratch(self._functions.rank_rows(ctypes.byref(given))).data_ptr()
        self._functions.rank_rows(ctypes.byref(given))
