"""Greedy decoding and sampling.

Drawing one token from a distribution: sharpen it, cut its tail, invert its cumulative sum.

Distributions are weights `(rows, vocabulary)`, proportional to probabilities. Cumulative sums run in the
vocabulary's order and in float64, and equal weights are cut in that order, so a row's token depends on that
row and its uniform number alone.

Greedy and sampling: hypotheses that never part, grown token by token until all have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unrolled import native
from unrolled.decoding.protocols import M
from unrolled.decoding.step import Scored, SearchSpec
from unrolled.decoding.strategies import Sample
from unrolled.models.heads import topk


def draw_uniforms(seed: int, sentence_ids: Sequence[int], samples: int, steps: int) -> Tensor:
    """Returns uniform numbers of [0, 1), float64 `(sentences · samples, steps)`, the samples of a sentence adjacent.

    Every row is a stream of its own, keyed by (seed, sentence id), beginning at a place of the sample's number and
    counter-based (Philox, Salmon et al. 2011); with more steps or samples it begins with the same numbers.
    """
    table = np.empty((len(sentence_ids), samples, steps))
    for rows, sentence in zip(table, sentence_ids, strict=True):
        key = np.array([seed, sentence], dtype=np.uint64)
        for number, row in enumerate(rows):
            counter = np.array([0, 0, 0, number], dtype=np.uint64)
            np.random.Generator(np.random.Philox(key=key, counter=counter)).random(out=row)
    return torch.from_numpy(table).flatten(0, 1)


def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """Returns weights proportional to p^(1/temperature), the largest of each row 1."""
    return ((logits - logits.amax(1, keepdim=True)) / temperature).exp()


def truncate(weights: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets to 0 what is neither among the `top_k` largest nor, among those, in the nucleus of mass `top_p`.

    Args:
        weights: `(rows, vocabulary)`.
        top_k: 0 for no such cut.
        top_p: the nucleus is the fewest largest weights that together hold this share (Holtzman et al. 2020,
            section 3.1); 1 for all.
    """
    if top_k == 0 and top_p == 1:
        return weights
    largest = topk(weights, min(top_k, weights.shape[1]))[0] if top_k else _falling(weights)
    upto = largest.cumsum(1, dtype=torch.float64)
    return _keep(weights, largest, (upto - largest < top_p * upto[:, -1:]).sum(1, keepdim=True))


def _falling(weights: Tensor) -> Tensor:
    """Sorts each row, the largest first; on a CPU with NumPy, some thirty times as fast as torch there."""
    if weights.device.type == "cpu":
        return torch.from_numpy(np.sort(weights.numpy(), axis=1)).flip(1)
    return weights.sort(1, descending=True).values


def _keep(weights: Tensor, largest: Tensor, counts: Tensor) -> Tensor:
    """Keeps the `counts` `(rows, 1)` largest weights of each row; of equals, those that come first."""
    cutoff = largest.gather(1, counts - 1)
    above, equal = weights > cutoff, weights == cutoff
    spare = counts - above.sum(1, keepdim=True)
    return weights.where(above | (equal & (equal.cumsum(1) <= spare)), 0)


def keep_typical(weights: Tensor, mass: float) -> Tensor:
    """Sets to 0 what is not typical (Meister et al. 2023, "Locally typical sampling", eq. 10).

    Kept are the fewest tokens that together have `mass` when those come first whose information -log p is nearest the
    entropy of the distribution; 1 keeps all.
    """
    if mass == 1:
        return weights
    p = weights.double() / weights.sum(1, keepdim=True, dtype=torch.float64)
    entropy = -torch.xlogy(p, p).sum(1, keepdim=True)
    order = (-p.log() - entropy).abs().sort(dim=1, stable=True).indices
    sorted_p = p.gather(1, order)
    cut = sorted_p.cumsum(1) - sorted_p >= mass
    return weights.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), 0)


def draw_logits(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """As `draw` of what `sharpen` gives."""
    tokens = native.sample_rows(logits, temperature, uniform)
    return draw_token(sharpen(logits, temperature), uniform) if tokens is None else tokens


def draw_token(weights: Tensor, uniform: Tensor) -> Tensor:
    """Returns the tokens `(rows,)` at which the cumulative distribution passes `uniform` `(rows,)`."""
    cumulative = weights.cumsum(1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may lift the product to the total itself, which no token passes.
    target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


Draw = Callable[[Tensor, Tensor, int], Tensor]
"""Picks tokens `(rows,)`, given logits `(rows, vocabulary)`, the hypotheses' numbers `(rows,)` and the step."""


def greedy(problem: SearchSpec[M]) -> tuple[Tensor, Tensor]:
    """Takes the most probable token at every step, the first of equals; returns what `grow` does."""
    return grow(problem, None, 1)


def sample(problem: SearchSpec[M], strategy: Sample, sentence_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Draws every token with the next number of its sample's own stream; returns what `grow` does."""
    steps = int(problem.limits.max())
    uniforms = draw_uniforms(strategy.seed, sentence_ids, strategy.samples, steps).to(problem.limits.device)

    def draw(logits: Tensor, numbers: Tensor, step: int) -> Tensor:
        uniform = uniforms[numbers, step]
        if not strategy.cuts:
            return draw_logits(logits, strategy.temperature, uniform)
        weights = sharpen(logits, strategy.temperature)
        weights = truncate(weights, strategy.top_k, strategy.top_p)
        weights = keep_typical(weights, strategy.typical)
        return draw_token(weights, uniform)

    return grow(problem, draw, strategy.samples)


def grow(problem: SearchSpec[M], draw: Draw | None, copies: int) -> tuple[Tensor, Tensor]:
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
        problem.check(live.sentences[live.rows.source_index], step + 1, scored.values[:, 0])
        parents = torch.arange(len(live.rows), device=limits.device)
        if step == 0 and copies > 1:  # until now all copies of a sentence are one row
            parents = parents.repeat_interleave(copies)
        owners = live.rows.source_index[parents]
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
