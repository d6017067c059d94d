"""Hard attention: every step looks at a single place (Xu et al. 2015, section 4.1).

In training the place s_t is drawn from the weights α_t. Nothing flows back through a draw, so what is minimised gets a
term whose gradient is that of the expected log-likelihood of the words y in the weights (REINFORCE, Williams 1992):

    − λ_r Σ_t (Σ_{k≥t} log p(y_k | …, s_≤k) − b_t) log α_t(s_t) − λ_e Σ_t H(α_t)

Only the words from t on depend on s_t. The baseline b_t is the mean of their log-likelihood over the other captions of
the batch, which are of like length; unlike the paper's moving average it needs no memory. Half of the captions, by
chance, see the mean Σ_p α_tp s_p instead, which teaches α by back-propagation. Without training the place is the
likeliest one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory

EXPECTED = 0.5
"""Share of the captions that see the mean in training."""


class HardAttention(Attention):
    """Looks at the likeliest place; in training `Draws` does in its stead."""

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """As `Attention`, but the weights are 1 at one place."""
        weights = self.weigh(queries, memory)
        chosen = functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights.dtype)
        return chosen @ memory.states, chosen


class Choices(NamedTuple):
    """What was drawn in a window.

    Attributes:
        logs: log α_t(s_t), `(batch, time)`; 0 where a caption saw the mean.
        entropies: of α_t, `(batch, time)`.
    """

    logs: Tensor
    entropies: Tensor

    def loss(self, likelihoods: Tensor, mask: Tensor, reward: float, entropy: float) -> Tensor:
        """The term above, summed over the batch.

        Args:
            likelihoods: log p of every word, `(batch, time)`, 0 where `mask` is False; constants.
            mask: `(batch, time)`, False on padding.
            reward, entropy: λ_r and λ_e.
        """
        ahead = likelihoods.flip(1).cumsum(1).flip(1)
        others = (ahead.sum(0) - ahead) / max(1, len(ahead) - 1)
        learned = reward * (ahead - others) * self.logs + entropy * self.entropies
        return -learned[mask].sum()


class Draws:
    """Hard attention over the steps of one window in training.

    Args:
        batch: captions.
    """

    def __init__(self, attention: HardAttention, batch: int, device: torch.device) -> None:
        self._attention = attention
        self._expected = torch.rand(batch, 1, device=device) < EXPECTED
        self._logs: list[Tensor] = []
        self._entropies: list[Tensor] = []

    def __call__(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Looks once for every query, those of the next steps: contexts of what is drawn, and the weights α."""
        weights = self._attention.weigh(queries, memory)
        places = torch.multinomial(weights.detach().flatten(0, 1), 1).view(weights.shape[:2])
        drawn = functional.one_hot(places, weights.shape[-1]).to(weights.dtype)
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        self._logs.append(logs.gather(2, places[..., None])[..., 0].masked_fill(self._expected, 0))
        self._entropies.append(-(weights * logs).sum(-1))
        return torch.where(self._expected[..., None], weights, drawn) @ memory.states, weights

    def choices(self) -> Choices:
        """What was drawn until now."""
        return Choices(torch.cat(self._logs, 1), torch.cat(self._entropies, 1))
