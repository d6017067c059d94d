"""What a hypothesis is worth, and the most that it can come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Worth:
    """The score of a hypothesis Y for an input X, log p(Y | X) / lp(|Y|) + β cp(X; Y) (Wu et al. 2016, eq. 14).

    Attributes:
        length_penalty: α of lp(l) = ((5 + l) / 6)^α; "average" stands for lp(l) = l.
        coverage_penalty: β.
    """

    length_penalty: float | Literal["average"]
    coverage_penalty: float

    def divisor(self, length: Tensor | int) -> Tensor:
        """Returns lp of lengths."""
        long = torch.as_tensor(length, dtype=torch.float64)
        return long if self.length_penalty == "average" else ((5 + long) / 6) ** self.length_penalty

    def score(self, sums: Tensor, length: int, coverage: Tensor | None) -> Tensor:
        """Scores hypotheses of one length.

        Args:
            sums: of log-probabilities.
            length: of all, the end token included.
            coverage: cp of each, or `None` if β is 0.
        """
        scores = sums / self.divisor(length).to(sums.device)
        return scores if coverage is None else scores + self.coverage_penalty * coverage

    def bound(self, sums: Tensor, limits: Tensor) -> Tensor:
        """Returns what no continuation of a hypothesis can exceed.

        A continuation of length l has a sum s' ≤ s, as log-probabilities are at most 0, and so is s. lp is positive and
        rises with l, so s' / lp(l) ≤ s / lp(l) ≤ s / lp(L) for every l up to the limit L. And cp ≤ 0, as the logarithm
        of at most 1. Hence s / lp(L) bounds the score at every allowed length.

        It rises with s alone among the hypotheses of a sentence. So those that cannot win are the worst of its beam,
        and what moves into their places at a later step had an even lower sum: it cannot win either. Dropping them
        therefore changes nothing of what the search finds.

        Args:
            sums: `(sentences, …)`.
            limits: `(sentences,)`.
        """
        return sums / self.divisor(limits).view(-1, *[1] * (sums.dim() - 1))


def coverage(attended: Tensor, mask: Tensor) -> Tensor:
    """Returns cp, Σ_i log min(Σ_j p_ij, 1) (Wu et al. 2016, eq. 14), `(rows,)`.

    Args:
        attended: Σ_j p_ij `(rows, positions)`.
        mask: False on padding, `(rows, positions)`.
    """
    # The least float32 stands for what rounding has made 0: no hypothesis is impossible for where it looked.
    return attended.double().clamp(torch.finfo(torch.float32).tiny, 1).log().masked_fill(~mask, 0).sum(1)
