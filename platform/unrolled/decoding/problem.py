"""What every strategy is given, and the step they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from unrolled.decoding.interface import M, Searchable
from unrolled.errors import RunFailed
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class Problem(Generic[M]):
    """A model, the n sentences to decode with it, and the tokens with a meaning of their own.

    Args:
        memory: of n sentences.
        state: what the model starts from, tensors `(n, …)`.
        begin: the token fed first.
        end: the token that ends a hypothesis.
        forbidden: tokens never emitted, `(f,)`.
        limits: tokens at most for each sentence `(n,)`, the end token included.
    """

    model: Searchable[M]
    memory: M
    state: Nest
    begin: int
    end: int
    forbidden: Tensor
    limits: Tensor

    def step(self, tokens: Tensor, state: Nest, memory: M) -> tuple[Tensor, Nest]:
        """Returns log-probabilities `(rows, vocabulary)`, -inf where forbidden, and the model's new state."""
        log_probabilities, state = self.model.step(tokens, state, memory)
        if len(self.forbidden):
            log_probabilities = log_probabilities.index_fill(1, self.forbidden, -float("inf"))
        return log_probabilities, state


def check(best: Tensor, sentences: Tensor, step: int) -> None:
    """Refuses numbers that no search can order.

    Args:
        best: the largest log-probability found for each sentence `(n,)`; NaN counts as largest.
        sentences: their places in the batch `(n,)`.
        step: the step they were found at, from 1.

    Raises:
        RunFailed: one is NaN or +inf, or is -inf: no allowed token is possible.
    """
    usable = best.isfinite()
    if bool(usable.all()):
        return
    row = int((~usable).nonzero()[0])
    value, place = float(best[row]), f"at step {step} (sentence {int(sentences[row])} of the batch)"
    if value == -float("inf"):
        raise RunFailed(f"the model gave every allowed token probability zero {place}")
    raise RunFailed(f"the model gave {'+inf' if value > 0 else 'NaN'} as a log-probability {place}")
