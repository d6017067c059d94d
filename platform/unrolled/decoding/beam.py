"""Beam search over rows of hypotheses, exact in when it stops and in what it drops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.decoding.candidates import expand
from unrolled.decoding.interface import M
from unrolled.decoding.problem import Live, Problem
from unrolled.decoding.required import Required
from unrolled.decoding.strategies import Beam
from unrolled.decoding.worth import Worth, coverage

NEVER = -float("inf")


@dataclass(frozen=True)
class Finished:
    """The best finished hypotheses of m sentences, the best first.

    Attributes:
        scores: `(m, best)`; -inf where there are not as many.
        tokens: `(m, best, longest)`, filled up with the end token.
    """

    scores: Tensor
    tokens: Tensor

    def select(self, sentences: Tensor) -> Finished:
        """Returns those of the sentences `(k,)`."""
        return Finished(self.scores[sentences], self.tokens[sentences])

    def add(self, scores: Tensor, tokens: Tensor, end: int) -> Finished:
        """Keeps the best of these and of others, scores `(m, j)` and tokens `(m, j, length)`."""
        scores = torch.cat([self.scores, scores], dim=1)
        tokens = torch.cat([self.tokens, pad(tokens, (0, self.tokens.shape[2] - tokens.shape[2]), value=end)], dim=1)
        best, places = scores.topk(self.scores.shape[1])
        return Finished(best, tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2])))


def beam_search(problem: Problem[M], strategy: Beam, required: Required | None) -> tuple[Tensor, Tensor]:
    """Returns the best hypotheses of every sentence, the best first.

    A hypothesis is dropped, and a sentence without any leaves the batch, once it cannot come to a higher score than the
    worst of the sentence's `best` finished ones; `Worth.bound` says why that changes nothing. What is unfinished at
    the limit competes as it is. With groups or required phrases no hypothesis is dropped before its sentence: it still
    tells later groups what to avoid, or holds a place that is not given by its sum alone.

    Returns:
        Tokens `(n, best, length)`, filled up with the end token, and scores `(n, best)`; -inf where there are not as
        many hypotheses.
    """
    worth = Worth(strategy.length_penalty, strategy.coverage_penalty)
    live, limits = problem.first(), problem.limits
    n, longest = len(limits), int(limits.max())
    tokens = torch.full((n, strategy.best, longest), problem.end, device=limits.device)
    scores = torch.full((n, strategy.best), NEVER, dtype=torch.float64, device=limits.device)
    finished = Finished(scores, tokens)
    sums = scores.new_zeros(n)
    attended: Tensor | None = None
    for length in range(1, longest + 1):
        # A row's own best suffice: one of them may be the end, and as many may be put back as other groups can choose.
        look, whole = strategy.coverage_penalty > 0, required is not None
        scored = problem.step(live, strategy.size + 1, look=look, whole=whole)
        if look and scored.weights is not None:
            attended = scored.weights if attended is None else attended + scored.weights
        if required is None:
            ending, growing = expand(live.rows, sums, scored, strategy, problem.end)
        else:
            ending, growing = required.expand(live.rows, sums, scored, strategy.size, problem.end)
        at_limit = limits[live.sentences] == length
        ending = ending.only((ending.tokens == problem.end) | at_limit[:, None])
        if bool((ending.sums > NEVER).any()):
            sequences = torch.cat([live.written[ending.parents], ending.tokens[:, :, None]], dim=2)
            if strategy.groups > 1:
                ending = ending.only(~_repeated(sequences, ending.sums))
            covered = None if attended is None else _coverage(live, attended)[ending.parents]
            finished = finished.add(worth.score(ending.sums, length, covered), sequences, problem.end)
        reachable = growing.sums.amax(1).masked_fill(at_limit, NEVER)
        problem.check(live.sentences, length, torch.maximum(reachable, finished.scores[:, 0]))

        bound = worth.bound(growing.sums, limits[live.sentences])
        keep = (bound > finished.scores[:, -1:]) & ~at_limit[:, None]
        if strategy.groups > 1 or required is not None:
            keep = keep.any(1, keepdim=True).expand_as(keep)
        going = keep.any(1)
        if not bool(going.all()):
            done = live.sentences[~going]
            tokens[done], scores[done] = finished.tokens[~going], finished.scores[~going]
            finished = finished.select(going)
            if not bool(going.any()):
                break
        parents, sums = growing.parents[keep], growing.sums[keep]
        attended = None if attended is None else attended[parents]
        required = None if required is None else required.select(parents).write(growing.tokens[keep])
        live = live.follow(scored.state, parents, keep.nonzero()[:, 0], growing.tokens[keep])
    return tokens, scores


def _coverage(live: Live[M], attended: Tensor) -> Tensor:
    memory: Any = live.memory
    return coverage(attended, memory.mask[live.rows.owners])


def _repeated(sequences: Tensor, sums: Tensor) -> Tensor:
    """Returns which of the sequences `(m, j, length)` stand further left too, where groups came to the same one."""
    same = (sequences[:, :, None] == sequences[:, None]).all(3) & (sums > NEVER)[:, None]
    return same.tril(-1).any(2)
