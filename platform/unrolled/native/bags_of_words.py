"""Bindings of `bags_of_words.c`: texts as bags of words."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.native import build


class _Texts(ctypes.Structure):
    """`struct texts` of bags_of_words.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "count", "most", "vocabulary", "size", "few"),
        *build.fields(ctypes.c_void_p, "tokens", "known", "words", "rows"),
    )


def bags(words: Tensor, texts: Tensor, known: Tensor) -> Tensor | None:
    """Sums of the vectors of known words over the square root of how many they are.

    Args:
        words: `(vocabulary, size)`, float32 on a CPU.
        texts: their tokens, `(…, most)`, padded with -1.
        known: `(vocabulary,)`, bool.

    Returns:
        `(…, size)`, zeros where no word is known; `None` where no compiled code can do it.
    """
    if not _fits(words):
        return None
    made: Tensor = _Bags.apply(words, texts.contiguous(), known.contiguous())
    return made


def text_scores(rows: Tensor, words: Tensor, texts: Tensor, known: Tensor) -> Tensor | None:
    """Products of a vector a row with the bags of its texts.

    Args:
        rows: `(rows, size)`.
        texts: their tokens, `(rows, few, most)`; others as of `bags`.

    Returns:
        `(rows, few)`, -inf where no word is known; `None` where no compiled code can do it.
    """
    if not _fits(words):
        return None
    scores: Tensor = _Scores.apply(rows.to(words.dtype).contiguous(), words, texts.contiguous(), known.contiguous())
    return scores


def _fits(words: Tensor) -> bool:
    fits = words.device.type == "cpu" and words.dtype == torch.float32 and words.is_contiguous()
    return fits and build.load() is not None


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, words: Tensor, texts: Tensor, known: Tensor) -> Tensor:
        made = words.new_empty(*texts.shape[:-1], words.shape[1])
        _run("bags", (words, texts, known), None, made)
        ctx.save_for_backward(words, texts, known)
        return made

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, errors: Tensor) -> Any:
        words, texts, known = ctx.saved_tensors
        into_words = torch.empty_like(words)
        _run("bags_back", (words, texts, known), None, errors.contiguous(), into_words)
        return into_words, None, None


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, words: Tensor, texts: Tensor, known: Tensor) -> Tensor:
        scores = rows.new_empty(texts.shape[:2])
        _run("text_scores", (words, texts, known), rows, scores)
        ctx.save_for_backward(rows, words, texts, known)
        return scores

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, errors: Tensor) -> Any:
        rows, words, texts, known = ctx.saved_tensors
        into_rows, into_words = torch.empty_like(rows), torch.empty_like(words)
        _run("text_scores_back", (words, texts, known), rows, errors.contiguous(), into_rows, into_words)
        return into_rows, into_words, None, None


def _run(name: str, given: tuple[Tensor, Tensor, Tensor], rows: Tensor | None, *tensors: Tensor) -> None:
    functions, (words, texts, known) = build.load(), given
    assert functions is not None
    *few, most = texts.shape
    told = _Texts(
        torch.get_num_threads(),
        math.prod(few),
        most,
        *words.shape,
        few[-1],
        *(tensor.data_ptr() for tensor in (texts, known, words)),
        None if rows is None else rows.data_ptr(),
    )
    getattr(functions, name)(ctypes.byref(told), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))
