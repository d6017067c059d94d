"""The two passes over rows of logits that every search makes."""

from __future__ import annotations

from torch import Tensor

from unrolled.recurrence import compiled


def log_sums(logits: Tensor) -> Tensor:
    """Returns what makes log-probabilities of logits when it is subtracted, log Σ exp, `(rows,)`."""
    sums = compiled.log_sums(logits)
    return logits.logsumexp(1) if sums is None else sums


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest logits of each row, falling, and their tokens, `(rows, count)` both."""
    found = compiled.largest(logits, count)
    if found is not None:
        return found
    if count == 1:  # the first of equals, which topk does not promise
        values, tokens = logits.max(1, keepdim=True)
        return values, tokens
    values, tokens = logits.topk(count)
    return values, tokens
