"""One look a row at memories that rows share, with its derivative by hand: torch's operations would copy the memory for
every row, and keep the squashed sum of query and key of every position besides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.recurrence import compiled
from unrolled.recurrence.product import type_of_products, weight_gradient


def shared_look(attention: Attention, queries: Tensor, memory: Memory, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Looks at a memory a row.

    Args:
        queries: `(batch, query_size)`.
        memory: a row a memory, without keys: these are made here.
        owners: the memory that each query looks at, `(batch,)`.

    Returns:
        Contexts `(batch, memory_size)` and weights `(batch, positions)`, as of `Attention.forward`.
    """
    states = memory.states.float() if memory.states.dtype == torch.bfloat16 else memory.states  # what autocast made
    if attention.score != "additive" or not compiled.can_look(states):
        prepared = replace(memory, keys=attention.keys(memory.states))
        contexts, weights = attention(queries[:, None], prepared.select(owners))
        return contexts[:, 0], weights[:, 0]
    mapped, hidden = attention.query(queries).to(states.dtype), (~memory.mask).contiguous()
    contexts, weights = _Look.apply(mapped, states, attention.key.weight, attention.weight, hidden, owners)
    return contexts, weights


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mapped: Tensor, states: Tensor, matrix: Tensor, vector: Tensor, hidden: Tensor, owners: Tensor
    ) -> tuple[Tensor, Tensor]:
        operands, turned = (each.to(type_of_products(matrix)) for each in (states, matrix.t()))
        keys = (operands @ turned).to(states.dtype)
        mapped, keys = compiled.powers(mapped), compiled.powers(keys, into=keys)
        weights = compiled.additive_scores(mapped, keys, vector, owners)
        contexts = compiled.look(hidden, states, weights, owners)
        ctx.save_for_backward(mapped, keys, states, operands, matrix, vector, hidden, owners, weights)
        return contexts, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, into_contexts: Tensor, into_weights: Tensor) -> Any:
        mapped, keys, states, operands, matrix, vector, hidden, owners, weights = ctx.saved_tensors
        errors = into_weights.clone(memory_format=torch.contiguous_format)
        compiled.look_back(hidden, states, weights, into_contexts, errors, owners)
        into_states = compiled.seen_back(hidden, states, weights[None], into_contexts[None], owners)
        into_mapped, into_keys, into_vector = compiled.additive_back(mapped, keys, vector, errors, owners)
        rows, into_matrix = into_keys.flatten(0, 1).to(operands.dtype), torch.empty_like(matrix)
        weight_gradient(rows, operands.flatten(0, 1), into_matrix)
        if rows.dtype == into_states.dtype:
            into_states.flatten(0, 1).addmm_(rows, matrix)
        else:
            into_states.flatten(0, 1).add_(rows @ matrix.to(rows.dtype))
        return into_mapped, into_states, into_matrix, into_vector, None, None
