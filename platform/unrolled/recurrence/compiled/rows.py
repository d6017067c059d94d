"""Work over long rows as compiled code: `rows.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence.compiled import library


class _Losses(ctypes.Structure):
    """`struct losses` of rows.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "threads", "rows", "columns"),
        ("smoothing", ctypes.c_float),
        *library.fields(ctypes.c_void_p, "bias", "target", "loss", "d_bias"),
    )


class _Drop(ctypes.Structure):
    """`struct drop` of rows.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "threads", "count"),
        *library.fields(ctypes.c_uint32, "seed", "more", "threshold"),
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
    functions = library.load()
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
        wide = library.scratch(4 * threads * len(bias))
        functions.losses_half(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()), ctypes.c_void_p(wide.data_ptr()))
    else:
        functions.losses_float(ctypes.byref(given), ctypes.c_void_p(logits.data_ptr()))
    return losses, into_bias.sum(0)


def log_sums(logits: Tensor) -> Tensor | None:
    """log Σ exp of every row `(rows,)` of float32 numbers on a CPU: -inf if all of a row is, NaN if any of it is NaN or
    +inf; `None` where no compiled code can do it."""
    functions = _reads(logits)
    if functions is None:
        return None
    sums = logits.new_empty(len(logits))
    functions.log_sums(*_shape(logits), *_pointers(logits, sums))
    return sums


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """The `count` largest float32 numbers of every row on a CPU, falling, and their places; of equals those that come
    first. Where fewer are above -inf, -inf at place 0 fills up. `None` where no compiled code can do it."""
    functions = _reads(logits)
    if functions is None:
        return None
    best = logits.new_empty(len(logits), count)
    places = torch.empty(len(logits), count, dtype=torch.long)
    functions.largest(*_shape(logits), ctypes.c_long(count), *_pointers(logits, best, places))
    return best, places


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor | None:
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
    return library.load() if fits else None


def _shape(matrix: Tensor) -> Iterator[ctypes.c_long]:
    return (ctypes.c_long(number) for number in (torch.get_num_threads(), *matrix.shape))


def _pointers(*tensors: Tensor) -> Iterator[ctypes.c_void_p]:
    return (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)


def drop(values: Tensor, share: float) -> Tensor | None:
    """Dropout of float32 or bfloat16 values on a CPU; `None` where no compiled code can do it.

    The numbers come from a seed of torch's generator and are drawn again on the way back: no mask is kept.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.bfloat16) or library.load() is None:
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
    functions = library.load()
    assert functions is not None
    values = values.contiguous()
    result = torch.empty_like(values)
    given = _Drop(torch.get_num_threads(), values.numel(), *seeds, round(share * 2**32), 1 / (1 - share))
    function = functions.dropout_float if values.dtype == torch.float32 else functions.dropout_half
    function(ctypes.byref(given), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (values, result)))
    return result
