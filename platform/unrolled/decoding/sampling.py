"""Greedy decoding and sampling.

Distributions are weights `(rows, vocabulary)`, proportional to probabilities. Cumulative sums run in the vocabulary's
order and in float64, and equal weights are cut in that order, so a row's token depends only on that row and its uniform
number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unrolled import native
from unrolled.decoding.protocols import M
from unrolled.decoding.step import SearchSpec, StepScores
from unrolled.decoding.strategies import Sample
from unrolled.models import topk

DrawTokens = Callable[[Tensor, Tensor, int], Tensor]
"""Draws tokens `(rows,)`, given logits `(rows, vocabulary)`, the hypotheses' indices `(rows,)` and the step."""


def sample(spec: SearchSpec[M], strategy: Sample, sentence_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Draws every token with the next number of its sample's own random stream; returns as `generate`."""
    steps = int(spec.limits.max())
    uniforms = draw_uniforms(strategy.seed, sentence_ids, strategy.samples, steps).to(spec.limits.device)

    def draw(logits: Tensor, hypotheses: Tensor, step: int) -> Tensor:
        uniform = uniforms[hypotheses, step]
        if not strategy.truncates:
            return draw_from_logits(logits, strategy.temperature, uniform)
        weights = apply_temperature(logits, strategy.temperature)
        weights = top_k_top_p(weights, strategy.top_k, strategy.top_p)
        weights = locally_typical(weights, strategy.typical)
        return draw_tokens(weights, uniform)

    return generate(spec, draw, strategy.samples)


def generate(spec: SearchSpec[M], draw: DrawTokens | None, copies: int) -> tuple[Tensor, Tensor]:
    """Extends independent hypotheses, `copies` per sentence; each leaves the batch at the step that ends it.

    Args:
        draw: draws each token; `None` takes the most probable, the first of equals.

    Returns:
        Tokens `(n, copies, length)`, padded with the end token, and log-probabilities `(n, copies)`, the end token's
        included.
    """
    active, limits = spec.initial(), spec.limits
    n, longest = len(limits), int(limits.max())
    hypotheses = torch.arange(n * copies, device=limits.device)
    tokens = torch.full((n * copies, longest), spec.end, device=limits.device)
    log_probs = torch.zeros(n * copies, dtype=torch.float64, device=limits.device)
    for step in range(longest):
        scores = spec.step(active, 1, all_logits=draw is not None)
        spec.check_reachable(active.sentences[active.rows.source_index], step + 1, scores.values[:, 0])
        parents = torch.arange(len(active.rows), device=limits.device)
        if step == 0 and copies > 1:  # all copies of a sentence start from one row
            parents = parents.repeat_interleave(copies)
        source_index = active.rows.source_index[parents]
        sentences = active.sentences[source_index]
        last, logits = _next_tokens(scores, parents, hypotheses, step, draw)
        tokens[hypotheses, step] = last
        log_probs[hypotheses] += (logits - scores.normalizers[parents, 0]).double()
        going_on = ((last != spec.end) & (limits[sentences] > step + 1)).nonzero()[:, 0]
        if len(going_on) == 0:
            break
        hypotheses = hypotheses[going_on]
        active = active.advance(scores.state, parents[going_on], source_index[going_on], last[going_on])
    return tokens.view(n, copies, longest), log_probs.view(n, copies)


def _next_tokens(
    scores: StepScores, parents: Tensor, hypotheses: Tensor, step: int, draw: DrawTokens | None
) -> tuple[Tensor, Tensor]:
    """Returns the next token of each hypothesis and its logit, `(hypotheses,)`; `parents` are their rows."""
    if draw is None:
        return scores.tokens[parents, 0], scores.values[parents, 0]
    assert scores.logits is not None
    logits = scores.logits if len(parents) == len(scores.logits) else scores.logits[parents]
    tokens = draw(logits, hypotheses, step)
    return tokens, logits.gather(1, tokens[:, None])[:, 0]


def draw_uniforms(seed: int, sentence_ids: Sequence[int], samples: int, steps: int) -> Tensor:
    """Returns uniform numbers of [0, 1), float64 `(sentences · samples, steps)`, the samples of a sentence adjacent.

    Every row is a counter-based stream of its own (Philox, Salmon et al. 2011), keyed by (seed, sentence id) and offset
    by the sample's index; with more steps or samples it begins with the same numbers.
    """
    table = np.empty((len(sentence_ids), samples, steps))
    for rows, sentence in zip(table, sentence_ids, strict=True):
        key = np.array([seed, sentence], dtype=np.uint64)
        for index, row in enumerate(rows):
            counter = np.array([0, 0, 0, index], dtype=np.uint64)
            np.random.Generator(np.random.Philox(key=key, counter=counter)).random(out=row)
    return torch.from_numpy(table).flatten(0, 1)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Returns weights proportional to p^(1/temperature), the largest of each row 1."""
    return ((logits - logits.amax(1, keepdim=True)) / temperature).exp()


def top_k_top_p(weights: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets weights to 0 that are not among the `top_k` largest or, among those, not in the nucleus of mass `top_p`.

    Args:
        weights: `(rows, vocabulary)`.
        top_k: 0 for all.
        top_p: the nucleus is the smallest set of largest weights with this proportion of their sum (Holtzman et al.
            2020, section 3.1); 1 for all.
    """
    if top_k == 0 and top_p == 1:
        return weights
    largest = topk(weights, min(top_k, weights.shape[1]))[0] if top_k else _sort_descending(weights)
    cumulative = largest.cumsum(1, dtype=torch.float64)
    return _keep_largest(weights, largest, (cumulative - largest < top_p * cumulative[:, -1:]).sum(1, keepdim=True))


def _sort_descending(weights: Tensor) -> Tensor:
    """Sorts each row; on a CPU with NumPy, about thirty times as fast as torch."""
    if weights.device.type == "cpu":
        return torch.from_numpy(np.sort(weights.numpy(), axis=1)).flip(1)
    return weights.sort(1, descending=True).values


def _keep_largest(weights: Tensor, largest: Tensor, counts: Tensor) -> Tensor:
    """Keeps the `counts` `(rows, 1)` largest weights of each row; among equals, the first."""
    cutoff = largest.gather(1, counts - 1)
    above, equal = weights > cutoff, weights == cutoff
    remaining = counts - above.sum(1, keepdim=True)
    return weights.where(above | (equal & (equal.cumsum(1) <= remaining)), 0)


def locally_typical(weights: Tensor, mass: float) -> Tensor:
    """Sets weights to 0 that are not typical (Meister et al. 2023, "Locally typical sampling", eq. 10).

    Tokens are ranked by the distance of their information -log p from the entropy of the distribution; the smallest set
    of nearest tokens with probability `mass` is kept; 1 keeps all.
    """
    if mass == 1:
        return weights
    p = weights.double() / weights.sum(1, keepdim=True, dtype=torch.float64)
    entropy = -torch.xlogy(p, p).sum(1, keepdim=True)
    order = (-p.log() - entropy).abs().sort(dim=1, stable=True).indices
    sorted_p = p.gather(1, order)
    cut = sorted_p.cumsum(1) - sorted_p >= mass
    return weights.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), 0)


def draw_from_logits(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """As `draw_tokens` with the weights of `apply_temperature`."""
    tokens = native.sample_rows(logits, temperature, uniform)
    return draw_tokens(apply_temperature(logits, temperature), uniform) if tokens is None else tokens


def draw_tokens(weights: Tensor, uniform: Tensor) -> Tensor:
    """Returns the tokens `(rows,)` at which the cumulative distribution exceeds `uniform` `(rows,)`."""
    cumulative = weights.cumsum(1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may lift the product to the total itself, which no token exceeds.
    target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
