"""Soft attention over a memory.

Scores of a query q against a state s, with v, W, U learned:

- `dot`:      qᵀ s / √d                   (Luong et al. 2015; scaled as Vaswani et al. 2017)
- `general`:  qᵀ W s / √d                 (Luong et al. 2015)
- `additive`: vᵀ tanh(U q + W s)          (Bahdanau et al. 2015)

The weights are their softmax over the positions, the context Σ_p weight_p · s_p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from unrolled.models.memory import Memory
from unrolled.recurrence import compiled

Score = Literal["dot", "general", "additive"]
Look = Callable[[Tensor, Memory], tuple[Tensor, Tensor]]
"""Looks at a memory, as `Attention.forward` does."""


class Attention(nn.Module):
    """Args: `query_size` and `memory_size` are the features of the decoder's and the memory's states."""

    def __init__(self, score: Score, query_size: int, memory_size: int) -> None:
        super().__init__()
        if score == "dot" and query_size != memory_size:
            raise ValueError(f"score 'dot' compares equal sizes, not {query_size} with {memory_size}")
        self.score = score
        self.key = nn.Identity() if score == "dot" else nn.Linear(memory_size, query_size, bias=False)
        if score == "additive":
            self.query = nn.Linear(query_size, query_size)
            self.weight = nn.Parameter(torch.empty(query_size).uniform_(-1, 1) / math.sqrt(query_size))

    def keys(self, states: Tensor) -> Tensor:
        """The share of the score that depends on the memory alone: `(batch, positions, features)`."""
        keys: Tensor = self.key(states)
        return keys

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Looks at the memory once for every query.

        Args:
            queries: `(batch, steps, query_size)`.
            memory: prepared with this attention's keys.

        Returns:
            Contexts `(batch, steps, memory_size)` and weights `(batch, steps, positions)`, which sum to 1.
        """
        weights = self.weigh(queries, memory)
        return weights @ memory.states, weights

    def weigh(self, queries: Tensor, memory: Memory) -> Tensor:
        """The weights alone."""
        assert memory.keys is not None
        scores = self._scores(queries, memory.keys)
        return scores.masked_fill(~memory.mask[:, None], -math.inf).softmax(-1)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.score == "additive":
            queries = self.query(queries)
            if not torch.is_grad_enabled() and queries.dtype == torch.float32 and compiled.can_look(keys):
                steps, keys = (compiled.powers(query) for query in queries.unbind(1)), compiled.powers(keys)
                return torch.stack([compiled.additive_scores(query, keys, self.weight) for query in steps], 1)
            mixed: Tensor = torch.tanh(queries[:, :, None] + keys[:, None])
            return mixed @ self.weight
        return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(1, 2)
