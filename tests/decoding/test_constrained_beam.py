"""Beam search with required phrases, compared with an enumeration of all sentences that contain them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import BEGIN, Network, every_sentence, run, score
from unrolled.decoding import Beam, Greedy
from unrolled.errors import UserError

PHRASES = st.lists(st.lists(st.integers(2, 5), min_size=1, max_size=3, unique=True), max_size=3)


def has(phrases: list[list[int]], tokens: list[int]) -> bool:
    return all(any(tokens[i : i + len(one)] == one for i in range(len(tokens))) for one in phrases)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    required=st.lists(PHRASES, min_size=3, max_size=3),
    size=st.integers(1, 6),
    no_repeat=st.sampled_from([0, 4]),
)
def test_required_phrases_are_written(seed: int, required: list[list[list[int]]], size: int, no_repeat: int) -> None:
    model = Network(6, seed)
    strategy = Beam(size, best=min(2, size), max_length=12, no_repeat=no_repeat)
    found = run(model, model.memory(3), strategy, required=required)
    for phrases, hypotheses in zip(required, found.hypotheses, strict=True):
        assert hypotheses and all(has(phrases, one.tokens) for one in hypotheses)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    phrases=st.lists(st.lists(st.integers(2, 3), min_size=1, max_size=2, unique=True), max_size=2),
    alpha=st.sampled_from([0.0, 1.0, "average"]),
)
def test_a_wide_beam_finds_the_best_sentence_that_has_them(seed: int, phrases: list[list[int]], alpha: float) -> None:
    model = Network(4, seed)
    memory, strategy = model.memory(2), Beam(5 * 4**4, alpha, max_length=4)
    found = run(model, memory, strategy, required=[phrases, []], forbidden=[BEGIN])
    for i, own in enumerate([phrases, []]):
        one = memory.select(torch.tensor([i]))
        space = [sentence for sentence in every_sentence(4, 4, {BEGIN}) if has(own, sentence)]
        assert found.scores[i] == pytest.approx(max(score(model, one, sentence, 4, strategy) for sentence in space))


def test_requirements_do_not_depend_on_the_batch() -> None:
    model = Network(8, 2)
    memory, required = model.memory(9), [[[2 + i % 6], [7, 3]][: i % 3] for i in range(9)]
    whole = run(model, memory, Beam(4), max_length=10, required=required)
    for i in range(9):
        one = run(model, memory.select(torch.tensor([i])), Beam(4), max_length=10, required=[required[i]])
        assert one.tokens == [whole.tokens[i]]


@pytest.mark.parametrize(
    ("strategy", "required", "message"),
    [
        (Greedy(), [[[2]], []], "required phrases want a beam search with one group"),
        (Beam(4, groups=2, diversity=1.0), [[[2]], []], "required phrases want a beam search with one group"),
        (Beam(), [[[2]]], "required has 1 lists of phrases for 2 sentences"),
        (Beam(), [[[2]], [[]]], "required has an empty sequence of tokens"),
        (Beam(max_length=3), [[[2, 3], [4, 2]], []], "required phrases have 4 tokens, but max_length leaves 3"),
    ],
)
def test_what_cannot_be_required_is_refused(strategy: Beam, required: list[list[list[int]]], message: str) -> None:
    model = Network(5, 1)
    with pytest.raises(UserError, match=message):
        run(model, model.memory(2), strategy, required=required)
