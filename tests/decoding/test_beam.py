"""Beam search, compared with enumeration and with a reference search without early stopping or pruning."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import (
    BEGIN,
    END,
    Looking,
    Network,
    Vectors,
    Written,
    every_sentence,
    plain_beam,
    run,
    score,
    table,
)
from unrolled.decoding import Beam, Greedy
from unrolled.errors import UserError

PENALTIES = st.sampled_from([(0.0, 0.0), (0.6, 0.0), (1.0, 0.3), (2.5, 0.0), ("average", 0.0), ("average", 1.0)])


def ended(tokens: list[int], limit: int) -> Written:
    return tuple([*tokens, END][:limit])


def assert_same(found: Any, wanted: list[tuple[float, Written]], limit: int) -> None:
    """Compares two n-best lists; scores that are equal up to rounding may be in either order."""
    assert [one.score for one in found] == pytest.approx([value for value, _ in wanted])
    theirs = [ended(one.tokens, limit) for one in found]
    assert len(set(theirs)) == len(theirs)
    gaps = [a - b for (a, _), (b, _) in itertools.pairwise(wanted)]
    if all(gap > 1e-6 for gap in gaps):
        assert theirs[:-1] == [written for _, written in wanted][:-1]


def assert_as_plain(model: Any, sentences: int, strategy: Beam, vocabulary: int) -> None:
    """Compares every sentence's n-best list with that of the reference search."""
    memory = model.memory(sentences)
    found = run(model, memory, strategy)
    for i in range(sentences):
        one = memory.select(torch.tensor([i]))
        assert_same(found.hypotheses[i], plain_beam(model, one, strategy, vocabulary), strategy.max_length)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(2, 4),
    max_length=st.integers(1, 4),
    penalties=PENALTIES,
    spread=st.sampled_from([0.3, 2.0]),
    forbid_begin=st.booleans(),
    best=st.integers(1, 3),
)
def test_a_beam_as_wide_as_the_space_finds_the_best_of_all_sentences(
    *, seed: int, vocabulary: int, max_length: int, penalties: Any, spread: float, forbid_begin: bool, best: int
) -> None:
    model, forbidden = Looking(vocabulary, seed, spread=spread), {BEGIN} if forbid_begin else set()
    memory, (alpha, beta) = model.memory(3), penalties
    size = vocabulary**max_length
    strategy = Beam(size, alpha, beta, min(best, size), max_length=max_length)
    found = run(model, memory, strategy, forbidden=sorted(forbidden))
    for i, hypotheses in enumerate(found.hypotheses):
        one = memory.select(torch.tensor([i]))
        space = every_sentence(vocabulary, max_length, forbidden)
        every = [(score(model, one, sentence, max_length, strategy), ended(sentence, max_length)) for sentence in space]
        assert_same(hypotheses, sorted(every, reverse=True)[: strategy.best], max_length)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(2, 6),
    size=st.integers(1, 5),
    best=st.integers(1, 3),
    max_length=st.integers(1, 9),
    penalties=PENALTIES,
    peaked=st.sampled_from([1.0, 3.0, 6.0]),
)
def test_stopping_early_and_dropping_hypotheses_lose_nothing(
    *, seed: int, vocabulary: int, size: int, best: int, max_length: int, penalties: Any, peaked: float
) -> None:
    model, (alpha, beta) = Looking(vocabulary, seed, spread=peaked), penalties
    strategy = Beam(size, alpha, beta, min(best, size), max_length=max_length)
    assert_as_plain(model, 4, strategy, vocabulary)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(2, 7),
    groups=st.sampled_from([(2, 2), (4, 2), (6, 2), (6, 3), (5, 5)]),
    diversity=st.sampled_from([0.2, 1.0, 5.0]),
    alpha=st.sampled_from([0.0, 1.0, "average"]),
    max_length=st.integers(1, 6),
)
def test_groups_avoid_each_other_as_in_a_plain_search(
    *, seed: int, vocabulary: int, groups: tuple[int, int], diversity: float, alpha: Any, max_length: int
) -> None:
    size, count = groups
    model = Network(vocabulary, seed)
    strategy = Beam(size, alpha, 0.0, min(3, size), count, diversity, max_length=max_length)
    assert_as_plain(model, 3, strategy, vocabulary)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), vocabulary=st.integers(2, 30), max_length=st.integers(1, 12))
def test_a_beam_of_one_without_length_penalty_is_greedy(seed: int, vocabulary: int, max_length: int) -> None:
    model = Network(vocabulary, seed)
    memory = model.memory(7)
    beam = run(model, memory, Beam(1, 0.0), max_length=max_length)
    greedy = run(model, memory, Greedy(), max_length=max_length)
    assert beam.tokens == greedy.tokens
    assert beam.scores == pytest.approx(greedy.scores)


def test_a_beam_finds_what_greedy_misses() -> None:
    # Greedy begins with 2 (0.6), after which nothing is likely; 3 (0.4) ends at once.
    model = table([0.0, 0.0, 0.6, 0.4], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0])
    memory = Vectors(torch.zeros(1, 1))
    assert run(model, memory, Greedy()).tokens[0][0] == 2
    assert run(model, memory, Beam(2, 0.0)).tokens == [[3]]


def test_rows_are_dropped_as_soon_as_they_cannot_win() -> None:
    model = Network(12, 5)
    memory = model.memory(20)
    wanted = run(model, memory, Beam(4, 0.0), max_length=30)
    rows, model.rows = model.rows, []
    assert 40 < rows[1] <= 80 and rows == [20, *sorted(rows[1:], reverse=True)]
    # Were they only dropped with their whole sentence, every count would be a multiple of four.
    assert any(count % 4 for count in rows)
    # Whoever asks for more hypotheses must wait for them.
    assert run(model, memory, Beam(4, 0.0, best=3), max_length=30).tokens == wanted.tokens
    assert sum(model.rows) > sum(rows)


def test_an_n_best_list_is_sorted_and_has_no_two_alike() -> None:
    model = Network(9, 3)
    for strategy in (Beam(6, 0.8, best=6), Beam(6, 0.8, best=6, groups=3, diversity=0.1)):
        for hypotheses in run(model, model.memory(10), strategy, max_length=12).hypotheses:
            scores = [one.score for one in hypotheses]
            assert scores == sorted(scores, reverse=True)
            # Groups may come to the same hypotheses, which count once.
            assert (
                len({tuple(one.tokens) for one in hypotheses}) == len(hypotheses) >= (6 if strategy.groups == 1 else 2)
            )


def test_fewer_hypotheses_than_asked_for_are_all_there_are() -> None:
    only_end = table([0.5, 0.5], [0.1, 0.9])
    (found,) = run(only_end, Vectors(torch.zeros(1, 1)), Beam(4, best=4), forbidden=[BEGIN]).hypotheses
    assert [one.tokens for one in found] == [[]]


def test_coverage_prefers_what_looked_everywhere() -> None:
    model = Looking(6, 8)
    memory, plain = model.memory(6), Beam(5, 0.0, 0.0, max_length=8)
    much = dataclasses.replace(plain, coverage_penalty=20.0)
    missed = [
        sum(
            score(model, memory.select(torch.tensor([i])), tokens, 8, dataclasses.replace(plain, coverage_penalty=1.0))
            - score(model, memory.select(torch.tensor([i])), tokens, 8, plain)
            for i, tokens in enumerate(run(model, memory, strategy).tokens)
        )
        for strategy in (plain, much)
    ]
    assert missed[1] > missed[0] + 0.1


def test_coverage_wants_attention() -> None:
    model = Network(5, 1)
    with pytest.raises(UserError, match=r"beam.coverage_penalty wants .* this model has no attention"):
        run(model, model.memory(2), Beam(coverage_penalty=0.2))
