"""The one way in: decode the sentences of a memory with a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.decoding.beam import beam_search
from unrolled.decoding.interface import M, Searchable
from unrolled.decoding.problem import Problem
from unrolled.decoding.single import greedy, sample
from unrolled.decoding.strategies import Beam, Greedy, Sample, Strategy
from unrolled.errors import UserError
from unrolled.recurrence import state as nest


@dataclass(frozen=True)
class Decoded:
    """What a search found, in the order of the memory's sentences.

    Args:
        tokens: of each sentence, without begin and end.
        scores: of each sentence: the model's log-probability of its tokens and the end token; with `Beam`
            divided by the length penalty.
    """

    tokens: list[list[int]]
    scores: list[float]


@torch.no_grad()
def decode(
    model: Searchable[M],
    memory: M,
    strategy: Strategy,
    *,
    begin: int,
    end: int,
    max_length: int | Sequence[int] | None = None,
    sentence_ids: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
) -> Decoded:
    """Decodes every sentence of `memory`; how they are batched changes no result.

    Args:
        model: begins and steps; a module should be in evaluation mode.
        memory: of n sentences.
        begin: the token fed first.
        end: the token that ends a sentence.
        max_length: tokens at most, the end token included: one number, or one for each sentence; the
            strategy's own if `None`.
        sentence_ids: with the seed these key the draws of `Sample`; 0 … n - 1 if `None`. Give ids of the
            whole data set, so that a sentence draws the same in whatever batch it is.
        forbidden: tokens never emitted: padding, begin, unknown.

    Raises:
        UserError: a maximal length below 1, a negative sentence id, or not one of them for each sentence.
        RunFailed: the model gave NaN or left no token possible.
    """
    n = len(memory)
    limits = _limits(strategy.max_length if max_length is None else max_length, n)
    ids = _ids(sentence_ids, n)
    if n == 0:
        return Decoded([], [])
    state = model.start(memory)
    device = _device(state)
    never = torch.tensor(list(forbidden), dtype=torch.long, device=device)
    problem = Problem(model, memory, state, begin, end, never, torch.tensor(limits, device=device))
    match strategy:
        case Greedy():
            tokens, scores = greedy(problem)
        case Sample():
            tokens, scores = sample(problem, strategy, ids)
        case Beam():
            tokens, scores = beam_search(problem, strategy)
    ended = [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
    return Decoded(ended, scores.tolist())


def _limits(max_length: int | Sequence[int], n: int) -> list[int]:
    limits = [max_length] * n if isinstance(max_length, int) else list(max_length)
    if len(limits) != n or any(limit < 1 for limit in limits):
        raise UserError(
            f"max_length is {max_length!r}; accepted is a whole number, 1 or more, or one such number for "
            f"each of {n} sentences."
        )
    return limits


def _ids(sentence_ids: Sequence[int] | None, n: int) -> list[int]:
    ids = list(range(n)) if sentence_ids is None else list(sentence_ids)
    if len(ids) != n or any(not 0 <= i < 2**64 for i in ids):
        raise UserError(f"sentence_ids are {ids}; accepted is one for each of {n} sentences, 0 or more.")
    return ids


def _device(state: nest.Nest) -> torch.device:
    """Returns where the state's tensors are; the default device if it has none."""
    devices: list[torch.device] = []

    def note(tensor: Tensor) -> Tensor:
        devices.append(tensor.device)
        return tensor

    nest.map(note, state)
    return devices[0] if devices else torch.get_default_device()
