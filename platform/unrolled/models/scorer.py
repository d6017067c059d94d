"""A vocabulary head made ready for the many steps of a search."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from unrolled.recurrence import compiled

Precision = Literal["float32", "bfloat16", "int8"]
"""What the outputs and the matrix are rounded to before they are multiplied; `float32` leaves them as they are."""


class Scorer:
    """Scores of every token, and the best of them in the same pass.

    On CPUs with the instructions for it, compiled code keeps the matrix packed and no row's result depends on the rows
    beside it. Elsewhere torch does the same, with outputs in the head's own type where the precision is int8.

    Args:
        weight: `(vocabulary, features)`.
        bias: `(vocabulary,)`.
        precision: int8 gives every row of the matrix, and of the outputs, a unit of its own: its largest size / 127.

    Attributes:
        vocabulary, features: the matrix's sizes.
        dtype: of the outputs that it takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: Precision) -> None:
        (self.vocabulary, self.features), self.dtype = weight.shape, weight.dtype
        self._bias = bias
        packs = weight.dtype == torch.float32 and weight.device.type == "cpu" and compiled.knows(precision)
        self._ranking = compiled.Ranking(weight, bias, precision) if packs else None
        self._weight = weight if packs else _rounded(weight, precision)

    def best(self, outputs: Tensor, count: int, never: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks the vocabulary for every row.

        Args:
            outputs: `(rows, features)`.
            never: `(vocabulary,)`, True for what is not among the best; it counts in the sums all the same.

        Returns:
            What `log_sums` gives of the logits `(rows,)`, and what `best` does.
        """
        if self._ranking is not None:
            return self._ranking.best(outputs, count, never)
        logits = self._multiply(outputs)
        return log_sums(logits), *best(logits.masked_fill(never, -float("inf")), count)

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `log_sums` gives of the logits `(rows,)`, and the logits `(rows, vocabulary)`."""
        if self._ranking is not None:
            return self._ranking.logits(outputs)
        logits = self._multiply(outputs)
        return log_sums(logits), logits

    def _multiply(self, outputs: Tensor) -> Tensor:
        kind, weight = self._bias.dtype, self._weight
        return functional.linear(outputs.to(weight.dtype), weight).to(kind) + self._bias


def _rounded(weight: Tensor, precision: Precision) -> Tensor:
    if precision == "int8":
        unit = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
        return (weight / unit).round() * unit
    return weight.bfloat16() if precision == "bfloat16" else weight


def log_sums(logits: Tensor) -> Tensor:
    """Returns what makes log-probabilities of logits when it is subtracted, log Σ exp, `(rows,)`."""
    sums = compiled.log_sums(logits)
    return logits.logsumexp(1) if sums is None else sums


def best(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest logits of each row, falling, and their tokens, `(rows, count)` both."""
    found = compiled.largest(logits, count)
    if found is not None:
        return found
    if count == 1:  # the first of equals, which topk does not promise
        values, tokens = logits.max(1, keepdim=True)
        return values, tokens
    values, tokens = logits.topk(count)
    return values, tokens
