"""Sampling, compared with the distribution that it draws from."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import (
    BEGIN,
    END,
    Network,
    Vectors,
    run,
    table,
)
from unrolled.decoding import Greedy, Sample, sampling


def truncated(p: np.ndarray, temperature: float, top_k: int, top_p: float) -> Any:
    """The distribution sampled from, by one loop over the tokens in descending order."""
    q = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    order = sorted(range(len(q)), key=lambda token: -q[token])[: top_k or None]
    total, mass, kept = q[order].sum(), 0.0, []
    for token in order:
        if mass >= top_p * total:
            break
        kept.append(token)
        mass += q[token]
    cut = np.zeros_like(q)
    cut[kept] = q[kept]
    return cut / cut.sum()


def assert_frequencies(counts: Counter[Any], expected: dict[Any, float]) -> None:
    """Compares counts with probabilities by Pearson's χ² test at level 0.001."""
    assert set(counts) <= {key for key, p in expected.items() if p > 0}
    n, possible = sum(counts.values()), {key: p for key, p in expected.items() if p > 0}
    statistic = sum((counts[key] - n * p) ** 2 / (n * p) for key, p in possible.items())
    freedom = torch.tensor((len(possible) - 1) / 2, dtype=torch.float64)
    tail = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    assert len(possible) == 1 or tail > 0.001


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7), (0.7, 4, 0.8), (1.0, 1, 1.0)],
)
def test_tokens_are_as_frequent_as_the_distribution_says(temperature: float, top_k: int, top_p: float) -> None:
    p = [0.3, 0.05, 0.2, 0.25, 0.12, 0.08]
    strategy = Sample(temperature, top_k, top_p, seed=7, max_length=1)
    found = run(table(*[p] * 6), Vectors(torch.zeros(8000, 1)), strategy)
    counts = Counter(tokens[0] if tokens else END for tokens in found.tokens)
    expected = truncated(np.array(p), temperature, top_k, top_p)
    assert_frequencies(counts, dict(enumerate(expected)))
    assert found.scores == pytest.approx([math.log(p[tokens[0] if tokens else END]) for tokens in found.tokens])


def test_successive_tokens_follow_the_joint_distribution() -> None:
    model = table([0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0], [0.1, 0.4, 0.2, 0.3], [0.3, 0.3, 0.3, 0.1])
    found = run(model, Vectors(torch.zeros(8000, 1)), Sample(max_length=2))
    p = model.log_probabilities.exp()
    expected = {
        (first, *([second] if second != END else [])): float(p[BEGIN, first] * p[first, second])
        for first in (0, 2, 3)
        for second in range(4)
    }
    assert_frequencies(Counter(tuple(tokens) for tokens in found.tokens), expected)


def test_a_sentence_draws_by_seed_and_id_alone() -> None:
    model = Network(20, 4, spread=0.5)
    same = Vectors(model.memory(1).values.expand(6, -1))
    found = run(model, same, Sample(seed=1), sentence_ids=[5, 6, 5, 7, 6, 5]).tokens
    assert found[0] == found[2] == found[5] and found[1] == found[4]
    assert found[0] != found[1] != found[3]
    assert run(model, same, Sample(seed=2), sentence_ids=[5, 6, 5, 7, 6, 5]).tokens[0] != found[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.sampled_from([1, 5, 255, 1500]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 3, 400]),
    top_p=st.floats(0.01, 1.0),
)
def test_truncation_keeps_the_head_and_cuts_ties_in_order(
    seed: int, vocabulary: int, scale: float, top_k: int, top_p: float
) -> None:
    # Rounded scores give many equal weights, of which only some may stay; a scale of 0 makes all equal.
    scores = (scale * torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed))).round(decimals=1)
    weights = sampling.apply_temperature(scores.double(), 1.0)
    kept = sampling.top_k_top_p(weights, top_k, top_p)
    for row, cut in zip(weights.tolist(), kept.tolist(), strict=True):
        falling = sorted(range(vocabulary), key=lambda token: -row[token])
        count = sum(weight > 0 for weight in cut)
        assert [token for token, weight in enumerate(cut) if weight] == sorted(falling[:count])
        assert all(weight in (0, row[token]) for token, weight in enumerate(cut))
        enough = top_p * sum(row[token] for token in falling[: top_k or None])
        assert sum(cut) >= enough * (1 - 1e-9)
        assert sum(cut) - row[falling[count - 1]] < enough * (1 + 1e-9)
        assert count <= (top_k or vocabulary)


def test_sampling_the_most_probable_token_only_is_greedy() -> None:
    model = Network(15, 8)
    memory = model.memory(10)
    greedy = run(model, memory, Greedy()).tokens
    for strategy in (Sample(top_k=1), Sample(top_p=1e-9), Sample(temperature=0.001)):
        assert run(model, memory, strategy).tokens == greedy


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1e-30])
def test_a_draw_at_the_edge_is_never_impossible(uniform: float, scale: float) -> None:
    weights = scale * torch.tensor([[0.0, 1.0, 0.0, 0.7, 0.0]], dtype=torch.float64)
    assert sampling.draw_tokens(weights, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 3)


def test_typical_tokens_are_those_nearest_the_entropy() -> None:
    p = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    far = np.abs(-np.log(p) + (p * np.log(p)).sum())
    for mass in (0.1, 0.3, 0.6, 0.9, 1.0):
        kept: list[int] = []
        for token in np.argsort(far):
            if p[kept].sum() < mass - 1e-12:
                kept.append(int(token))
        weights = sampling.locally_typical(torch.from_numpy(p / p.max())[None], mass)
        assert weights[0].nonzero()[:, 0].tolist() == sorted(kept)
    strategy = Sample(typical=0.3, seed=7, max_length=1)
    found = run(table(*[p.tolist()] * 5), Vectors(torch.zeros(4000, 1)), strategy)
    counts = Counter(tokens[0] if tokens else END for tokens in found.tokens)
    assert_frequencies(counts, {1: 0.2 / 0.35, 2: 0.15 / 0.35})


def test_compiled_draws_follow_the_distribution() -> None:
    """Uniform numbers at even distances: every token is drawn as often as it weighs, to one in so many."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(4, 1000, generator=generator)
    logits[:, ::7] = -float("inf")
    logits[3, 1:] = -float("inf")
    logits[3, 0] = 1.0
    count = 20_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for row in logits:
        for temperature in (0.3, 1.0, 2.5):
            rows = row.expand(count, -1).contiguous()
            tokens = sampling.draw_from_logits(rows, temperature, uniform)
            assert bool((tokens.diff() >= 0).all())
            found = torch.bincount(tokens, minlength=1000) / count
            wanted = (row.double() / temperature).softmax(0)
            assert not found[wanted == 0].any()
            assert float((found - wanted).abs().max()) < 1.5 / count


def test_compiled_draws_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(3000, 777, generator=generator)
    uniform = torch.rand(3000, dtype=torch.float64, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-53])
    tokens = sampling.draw_from_logits(logits, 0.8, uniform)
    by_torch = sampling.draw_tokens(sampling.apply_temperature(logits, 0.8), uniform)
    assert int((tokens != by_torch).sum()) <= 3  # where a uniform number is within a rounding of a boundary
    assert int((tokens - by_torch).abs().max()) <= 1
