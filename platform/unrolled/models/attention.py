"""Soft and hard attention over an encoder output.

Soft attention over a memory.

Scores of a query q against a state s, with v, W, U learned:

- `dot`:      qᵀ s / √d                   (Luong et al. 2015; scaled as Vaswani et al. 2017)
- `general`:  qᵀ W s / √d                 (Luong et al. 2015)
- `additive`: vᵀ tanh(U q + W s)          (Bahdanau et al. 2015)

The weights are their softmax over the positions, the context Σ_p weight_p · s_p.

Hard attention: every step looks at a single place (Xu et al. 2015, section 4.1).

In training the place s_t is drawn from the weights α_t. Nothing flows back through a draw, so what is minimised gets a
term whose gradient is that of the expected log-likelihood of the words y in the weights (REINFORCE, Williams 1992):

    − λ_r Σ_t (Σ_{k≥t} log p(y_k | …, s_≤k) − b_t) log α_t(s_t) − λ_e Σ_t H(α_t)

Only the words from t on depend on s_t. The baseline b_t is the mean of their log-likelihood over the other captions of
the batch, which are of like length; unlike the paper's moving average it needs no memory. Half of the captions, by
chance, see the mean Σ_p α_tp s_p instead, which teaches α by back-propagation. Without training the place is the
likeliest one.

One look a row at memories that rows share, with its derivative by hand: torch's operations would copy the memory for
every row, and keep the squashed sum of query and key of every position besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from unrolled import native
from unrolled.models.encoders import EncoderOutput
from unrolled.recurrence.matmul import matmul_dtype, weight_gradient

Score = Literal["dot", "general", "additive"]
AttentionFunction = Callable[[Tensor, EncoderOutput], tuple[Tensor, Tensor]]
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

    def forward(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Looks at the memory once for every query.

        Args:
            queries: `(batch, steps, query_size)`.
            memory: prepared with this attention's keys.

        Returns:
            Contexts `(batch, steps, memory_size)` and weights `(batch, steps, positions)`, which sum to 1.
        """
        weights = self.attention_weights(queries, memory)
        return weights @ memory.states, weights

    def attention_weights(self, queries: Tensor, memory: EncoderOutput) -> Tensor:
        """The weights alone."""
        assert memory.keys is not None
        scores = self._scores(queries, memory.keys)
        return scores.masked_fill(~memory.mask[:, None], -math.inf).softmax(-1)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.score == "additive":
            queries = self.query(queries)
            if not torch.is_grad_enabled() and queries.dtype == torch.float32 and native.attention_supported(keys):
                steps, keys = (native.exp_2x(query) for query in queries.unbind(1)), native.exp_2x(keys)
                return torch.stack([native.additive_scores(query, keys, self.weight) for query in steps], 1)
            mixed: Tensor = torch.tanh(queries[:, :, None] + keys[:, None])
            return mixed @ self.weight
        return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(1, 2)


EXPECTED = 0.5
"""Share of the captions that see the mean in training."""


class HardAttention(Attention):
    """Looks at the likeliest place; in training `Draws` does in its stead."""

    def forward(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """As `Attention`, but the weights are 1 at one place."""
        weights = self.attention_weights(queries, memory)
        chosen = functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights.dtype)
        return chosen @ memory.states, chosen


class AttentionSamples(NamedTuple):
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


class SampledAttention:
    """Hard attention over the steps of one window in training.

    Args:
        batch: captions.
    """

    def __init__(self, attention: HardAttention, batch: int, device: torch.device) -> None:
        self._attention = attention
        self._expected = torch.rand(batch, 1, device=device) < EXPECTED
        self._logs: list[Tensor] = []
        self._entropies: list[Tensor] = []

    def __call__(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Looks once for every query, those of the next steps: contexts of what is drawn, and the weights α."""
        weights = self._attention.attention_weights(queries, memory)
        places = torch.multinomial(weights.detach().flatten(0, 1), 1).view(weights.shape[:2])
        drawn = functional.one_hot(places, weights.shape[-1]).to(weights.dtype)
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        self._logs.append(logs.gather(2, places[..., None])[..., 0].masked_fill(self._expected, 0))
        self._entropies.append(-(weights * logs).sum(-1))
        return torch.where(self._expected[..., None], weights, drawn) @ memory.states, weights

    def choices(self) -> AttentionSamples:
        """What was drawn until now."""
        return AttentionSamples(torch.cat(self._logs, 1), torch.cat(self._entropies, 1))


def attend_shared(
    attention: Attention, queries: Tensor, memory: EncoderOutput, source_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Looks at a memory a row.

    Args:
        queries: `(batch, query_size)`.
        memory: a row a memory, without keys: these are made here.
        source_index: the memory that each query looks at, `(batch,)`.

    Returns:
        Contexts `(batch, memory_size)` and weights `(batch, positions)`, as of `Attention.forward`.
    """
    states = memory.states.float() if memory.states.dtype == torch.bfloat16 else memory.states  # what autocast made
    if attention.score != "additive" or not native.attention_supported(states):
        prepared = replace(memory, keys=attention.keys(memory.states))
        contexts, weights = attention(queries[:, None], prepared.select(source_index))
        return contexts[:, 0], weights[:, 0]
    mapped, hidden = attention.query(queries).to(states.dtype), (~memory.mask).contiguous()
    contexts, weights = _Look.apply(mapped, states, attention.key.weight, attention.weight, hidden, source_index)
    return contexts, weights


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mapped: Tensor, states: Tensor, matrix: Tensor, vector: Tensor, hidden: Tensor, source_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        operands, turned = (each.to(matmul_dtype(matrix)) for each in (states, matrix.t()))
        keys = (operands @ turned).to(states.dtype)
        mapped, keys = native.exp_2x(mapped), native.exp_2x(keys, out=keys)
        weights = native.additive_scores(mapped, keys, vector, source_index)
        contexts = native.attention_forward(hidden, states, weights, source_index)
        ctx.save_for_backward(mapped, keys, states, operands, matrix, vector, hidden, source_index, weights)
        return contexts, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_contexts: Tensor, into_weights: Tensor) -> Any:
        mapped, keys, states, operands, matrix, vector, hidden, source_index, weights = ctx.saved_tensors
        errors = into_weights.clone(memory_format=torch.contiguous_format)
        native.attention_backward_scores(hidden, states, weights, into_contexts, errors, source_index)
        into_states = native.attention_backward_states(hidden, states, weights[None], into_contexts[None], source_index)
        into_mapped, into_keys, into_vector = native.additive_backward(mapped, keys, vector, errors, source_index)
        rows, into_matrix = into_keys.flatten(0, 1).to(operands.dtype), torch.empty_like(matrix)
        weight_gradient(rows, operands.flatten(0, 1), into_matrix)
        if rows.dtype == into_states.dtype:
            into_states.flatten(0, 1).addmm_(rows, matrix)
        else:
            into_states.flatten(0, 1).add_(rows @ matrix.to(rows.dtype))
        return into_mapped, into_states, into_matrix, into_vector, None, None
