"""Soft and hard attention over an encoder output.

Scores of a query q against a state s, with v, W, U learned:

- `dot`:      qᵀ s / √d                   (Luong et al. 2015; scaled as Vaswani et al. 2017)
- `general`:  qᵀ W s / √d                 (Luong et al. 2015)
- `additive`: vᵀ tanh(U q + W s)          (Bahdanau et al. 2015)

The weights are their softmax over the positions, the context is Σ_p weight_p · s_p.

Hard attention reads a single position per step (Xu et al. 2015, section 4.1): in training one sampled from the weights
α_t, else the most likely one. As a sample has no derivative, the loss gets a term whose gradient is that of the
expected log-likelihood of the words y with respect to the weights (REINFORCE, Williams 1992):

    − λ_r Σ_t (Σ_{k≥t} log p(y_k | …, s_≤k) − b_t) log α_t(s_t) − λ_e Σ_t H(α_t)

where s_t is the sampled position; only the words from t on depend on it. The baseline b_t is the mean of their
log-likelihood over the other captions of the batch, which are of similar length; unlike the paper's moving average it
needs no state. A random half of the captions reads the mean Σ_p α_tp s_p instead, which trains α by back-propagation.
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
"""A function of queries and memory like `Attention.forward`."""


class Attention(nn.Module):
    """Soft attention.

    Args:
        query_size, memory_size: features of the decoder's and of the encoder output's states.

    Raises:
        ValueError: `dot` with sizes that differ.
    """

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
        """Computes the part of the score that depends on the states alone: `(batch, positions, features)`."""
        keys: Tensor = self.key(states)
        return keys

    def forward(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Attends once per query, `(batch, steps, query_size)`, to a memory with the keys of this attention; returns
        contexts `(batch, steps, memory_size)` and weights `(batch, steps, positions)`, which sum to 1."""
        weights = self.attention_weights(queries, memory)
        return weights @ memory.states, weights

    def attention_weights(self, queries: Tensor, memory: EncoderOutput) -> Tensor:
        """Computes the weights alone, `(batch, steps, positions)`."""
        assert memory.keys is not None
        scores = self._scores(queries, memory.keys)
        return scores.masked_fill(~memory.mask[:, None], -math.inf).softmax(-1)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.score == "additive":
            queries = self.query(queries)
            if not torch.is_grad_enabled() and queries.dtype == torch.float32 and native.attention_supported(keys):
                steps, keys = (native.exp_2x(query) for query in queries.unbind(1)), native.exp_2x(keys)
                return torch.stack([native.additive_scores(query, keys, self.weight) for query in steps], 1)
            activations: Tensor = torch.tanh(queries[:, :, None] + keys[:, None])
            return activations @ self.weight
        return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(1, 2)


SOFT_FRACTION = 0.5
"""Probability of a caption to read the mean in training."""


class HardAttention(Attention):
    """Attention to the most likely position; in training `SampledAttention` takes its place."""

    def forward(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """As `Attention`, but the weight is 1 at one position."""
        weights = self.attention_weights(queries, memory)
        one_hot = functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights.dtype)
        return one_hot @ memory.states, one_hot


class AttentionSamples(NamedTuple):
    """Positions sampled in a window.

    Attributes:
        log_probs: log α_t(s_t), `(batch, time)`; 0 for captions that read the mean.
        entropies: of α_t, `(batch, time)`.
    """

    log_probs: Tensor
    entropies: Tensor

    def loss(self, likelihoods: Tensor, mask: Tensor, reward: float, entropy: float) -> Tensor:
        """Computes the REINFORCE term (see the module), summed over the batch.

        Args:
            likelihoods: log p of every word, `(batch, time)`, 0 where `mask` is False; constants.
            mask: `(batch, time)`, False on padding.
            reward, entropy: λ_r and λ_e.
        """
        returns = likelihoods.flip(1).cumsum(1).flip(1)
        baseline = (returns.sum(0) - returns) / max(1, len(returns) - 1)
        objective = reward * (returns - baseline) * self.log_probs + entropy * self.entropies
        return -objective[mask].sum()


class SampledAttention:
    """Hard attention over the steps of one window of `batch` captions in training; records the samples."""

    def __init__(self, attention: HardAttention, batch: int, device: torch.device) -> None:
        self._attention = attention
        self._soft = torch.rand(batch, 1, device=device) < SOFT_FRACTION
        self._log_probs: list[Tensor] = []
        self._entropies: list[Tensor] = []

    def __call__(self, queries: Tensor, memory: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Attends once per query, those of the next steps; returns contexts of the samples, and the weights α."""
        weights = self._attention.attention_weights(queries, memory)
        positions = torch.multinomial(weights.detach().flatten(0, 1), 1).view(weights.shape[:2])
        one_hot = functional.one_hot(positions, weights.shape[-1]).to(weights.dtype)
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        self._log_probs.append(logs.gather(2, positions[..., None])[..., 0].masked_fill(self._soft, 0))
        self._entropies.append(-(weights * logs).sum(-1))
        return torch.where(self._soft[..., None], weights, one_hot) @ memory.states, weights

    def samples(self) -> AttentionSamples:
        """Returns all samples so far."""
        return AttentionSamples(torch.cat(self._log_probs, 1), torch.cat(self._entropies, 1))


def attend_shared(
    attention: Attention, queries: Tensor, memory: EncoderOutput, source_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Attends once per query to encoder outputs that several queries share, without copying these per query.

    torch's operations would copy the states and save the tanh of query and key of every position; compiled code with
    hand-written backward does neither.

    Args:
        queries: `(batch, query_size)`.
        memory: without keys, which are computed here.
        source_index: row of the memory per query, `(batch,)`.

    Returns:
        Contexts `(batch, memory_size)` and weights `(batch, positions)`, as of `Attention.forward`.
    """
    states = memory.states.float() if memory.states.dtype == torch.bfloat16 else memory.states  # from autocast
    if attention.score != "additive" or not native.attention_supported(states):
        prepared = replace(memory, keys=attention.keys(memory.states))
        contexts, weights = attention(queries[:, None], prepared.select(source_index))
        return contexts[:, 0], weights[:, 0]
    projected, padding = attention.query(queries).to(states.dtype), (~memory.mask).contiguous()
    contexts, weights = _SharedAttention.apply(
        projected, states, attention.key.weight, attention.weight, padding, source_index
    )
    return contexts, weights


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        states: Tensor,
        key_weight: Tensor,
        vector: Tensor,
        padding: Tensor,
        source_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        operands, transposed = (each.to(matmul_dtype(key_weight)) for each in (states, key_weight.t()))
        keys = (operands @ transposed).to(states.dtype)
        queries, keys = native.exp_2x(queries), native.exp_2x(keys, out=keys)
        weights = native.additive_scores(queries, keys, vector, source_index)
        contexts = native.attention_forward(padding, states, weights, source_index)
        ctx.save_for_backward(queries, keys, states, operands, key_weight, vector, padding, source_index, weights)
        return contexts, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_contexts: Tensor, grad_weights: Tensor) -> Any:
        queries, keys, states, operands, key_weight, vector, padding, source_index, weights = ctx.saved_tensors
        grad_scores = grad_weights.clone(memory_format=torch.contiguous_format)
        native.attention_backward_scores(padding, states, weights, grad_contexts, grad_scores, source_index)
        grad_states = native.attention_backward_states(
            padding, states, weights[None], grad_contexts[None], source_index
        )
        grad_queries, grad_keys, grad_vector = native.additive_backward(
            queries, keys, vector, grad_scores, source_index
        )
        rows, grad_key_weight = grad_keys.flatten(0, 1).to(operands.dtype), torch.empty_like(key_weight)
        weight_gradient(rows, operands.flatten(0, 1), grad_key_weight)
        if rows.dtype == grad_states.dtype:
            grad_states.flatten(0, 1).addmm_(rows, key_weight)
        else:
            grad_states.flatten(0, 1).add_(rows @ key_weight.to(rows.dtype))
        return grad_queries, grad_states, grad_key_weight, grad_vector, None, None
