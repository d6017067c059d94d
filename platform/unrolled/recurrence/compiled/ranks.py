"""Scores of a vocabulary, and the best of them, as compiled code: `rank.c`."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor

from unrolled.recurrence.compiled import library

Operands = Literal["float32", "bfloat16", "int8"]
KINDS: tuple[Operands, ...] = ("float32", "bfloat16", "int8")
"""What numbers are multiplied, in the order of rank.c."""


class _Rank(ctypes.Structure):
    """`struct rank` of rank.c."""

    _fields_ = (
        *library.fields(ctypes.c_long, "kind", "threads", "rows", "depth", "columns", "count"),
        *library.fields(ctypes.c_void_p, "weights", "bias", "packed", "x", "never", "sums", "best", "places"),
        *library.fields(ctypes.c_void_p, "logits", "scratch"),
    )


def knows(operands: Operands) -> bool:
    """Whether this processor has fast code for such products."""
    functions = library.load()
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
        functions = library.load()
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

    def best(self, x: Tensor, count: int, never: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the best of the vocabulary for every row.

        Args:
            x: `(rows, features)`, float32.
            count: up to the size of the vocabulary.
            never: `(vocabulary,)`, bool: what is not among the best; it counts in the sums all the same.

        Returns:
            log Σ exp of the logits `(rows,)`; the `count` largest, falling, and their places, `(rows, count)` both, as
            `largest` gives them.
        """
        sums, values = x.new_empty(len(x)), x.new_empty(len(x), count)
        places, never = torch.empty(len(x), count, dtype=torch.long), never.contiguous()
        self._run(x, count=count, never=never, sums=sums, best=values, places=places)
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
        given.scratch = library.scratch(self._functions.rank_rows(ctypes.byref(given))).data_ptr()
        self._functions.rank_rows(ctypes.byref(given))
