"""Greedy and sampling: hypotheses that never part, grown token by token until all have ended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unrolled.decoding import sampling
from unrolled.decoding.interface import M
from unrolled.decoding.problem import Problem, Scored
from unrolled.decoding.strategies import Sample

Draw = Callable[[Tensor, Tensor, int], Tensor]
"""Picks tokens `(rows,)`, given logits `(rows, vocabulary)`, the hypotheses' numbers `(rows,)` and the step."""


def greedy(problem: Problem[M]) -> tuple[Tensor, Tensor]:
    """Takes the most probable token at every step, the first of equals; returns what `grow` does."""
    return grow(problem, None, 1)


def sample(problem: Problem[M], strategy: Sample, sentence_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Draws every token with the next number of its sample's own stream; returns what `grow` does."""
    steps = int(problem.limits.max())
    uniforms = sampling.uniforms(strategy.seed, sentence_ids, strategy.samples, steps).to(problem.limits.device)

    def draw(logits: Tensor, numbers: Tensor, step: int) -> Tensor:
        uniform = uniforms[numbers, step]
        if not strategy.cuts:
            return sampling.draw_logits(logits, strategy.temperature, uniform)
        weights = sampling.sharpen(logits, strategy.temperature)
        weights = sampling.truncate(weights, strategy.top_k, strategy.top_p)
        weights = sampling.keep_typical(weights, strategy.typical)
        return sampling.draw(weights, uniform)

    return grow(problem, draw, strategy.samples)


def grow(problem: Problem[M], draw: Draw | None, copies: int) -> tuple[Tensor, Tensor]:
    """Grows hypotheses, `copies` of every sentence; each leaves the batch at the step that ends it.

    Args:
        draw: picks each token; `None` picks the most probable.

    Returns:
        Tokens `(n, copies, length)`, filled up with the end token, and the sums of their log-probabilities
        `(n, copies)`, the end token's included.
    """
    live, limits = problem.first(), problem.limits
    n, longest = len(limits), int(limits.max())
    numbers = torch.arange(n * copies, device=limits.device)
    tokens = torch.full((n * copies, longest), problem.end, device=limits.device)
    scores = torch.zeros(n * copies, dtype=torch.float64, device=limits.device)
    for step in range(longest):
        scored = problem.step(live, 1, whole=draw is not None)
        problem.check(live.sentences[live.rows.owners], step + 1, scored.values[:, 0])
        parents = torch.arange(len(live.rows), device=limits.device)
        if step == 0 and copies > 1:  # until now all copies of a sentence are one row
            parents = parents.repeat_interleave(copies)
        owners = live.rows.owners[parents]
        sentences = live.sentences[owners]
        last, logits = _picked(scored, parents, numbers, step, draw)
        tokens[numbers, step] = last
        scores[numbers] += (logits - scored.sums[parents, 0]).double()
        going = ((last != problem.end) & (limits[sentences] > step + 1)).nonzero()[:, 0]
        if len(going) == 0:
            break
        numbers = numbers[going]
        live = live.follow(scored.state, parents[going], owners[going], last[going])
    return tokens.view(n, copies, longest), scores.view(n, copies)


def _picked(scored: Scored, parents: Tensor, numbers: Tensor, step: int, draw: Draw | None) -> tuple[Tensor, Tensor]:
    """Returns the next token of each hypothesis and its logit, `(hypotheses,)`; `parents` are their rows."""
    if draw is None:
        return scored.tokens[parents, 0], scored.values[parents, 0]
    assert scored.logits is not None
    logits = scored.logits if len(parents) == len(scored.logits) else scored.logits[parents]
    tokens = draw(logits, numbers, step)
    return tokens, logits.gather(1, tokens[:, None])[:, 0]
