"""One look a row at memories that rows share, with its derivative by hand: torch's operations would copy the memory for
every row, and keep the squashed sum of query and key of every position besides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.recurrence import compiled


def shared_look(attention: Attention, queries: Tensor, memory: Memory, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Looks at a memory a row.

    Args:
        queries: `(batch, query_size)`.
        memory: prepared with this attention's keys, a row a memory.
        owners: the memory that each query looks at, `(batch,)`.

    Returns:
        Contexts `(batch, memory_size)` and weights `(batch, positions)`, as of `Attention.forward`.
    """
    assert memory.keys is not None
    states, keys = memory.states, memory.keys
    narrow = states.dtype == keys.dtype == torch.bfloat16 and attention.score == "additive"
    if narrow:  # what autocast made
        states, keys = states.float(), keys.float()
    if attention.score != "additive" or not (compiled.can_look(states) and compiled.can_look(keys)):
        contexts, weights = attention(queries[:, None], memory.select(owners))
        return contexts[:, 0], weights[:, 0]
    mapped = attention.query(queries).to(keys.dtype)
    contexts, weights = _Look.apply(mapped, keys, states, attention.weight, (~memory.mask).contiguous(), owners)
    return contexts, weights


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mapped: Tensor, keys: Tensor, states: Tensor, vector: Tensor, hidden: Tensor, owners: Tensor
    ) -> tuple[Tensor, Tensor]:
        mapped, keys = compiled.powers(mapped), compiled.powers(keys)
        weights = compiled.additive_scores(mapped, keys, vector, owners)
        contexts = compiled.look(hidden, states, weights, owners)
        ctx.save_for_backward(mapped, keys, states, vector, hidden, owners, weights)
        return contexts, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_contexts: Tensor, into_weights: Tensor) -> Any:
        mapped, keys, states, vector, hidden, owners, weights = ctx.saved_tensors
        errors = into_weights.clone(memory_format=torch.contiguous_format)
        compiled.look_back(hidden, states, weights, into_contexts, errors, owners)
        into_states = compiled.seen_back(hidden, states, weights[None], into_contexts[None], owners)
        into_mapped, into_keys, into_vector = compiled.additive_back(mapped, keys, vector, errors, owners)
        return into_mapped, into_keys, into_states, into_vector, None, None
