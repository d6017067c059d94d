"""Constraints of all strategies: length, repetition, banned phrases and prefixes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import BEGIN, END, EVERY_STRATEGY, IDS, Network, Written, plain_beam, run, score
from unrolled.decoding import Beam, Greedy, Sample, Strategy
from unrolled.errors import UserError

every_strategy = pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)


def with_rules(strategy: Strategy, **rules: object) -> Strategy:
    return type(strategy)(**vars(strategy) | rules)


@every_strategy
def test_outputs_are_neither_too_short_nor_too_long(strategy: Strategy) -> None:
    model = Network(8, 2, spread=0.5)
    found = run(model, model.memory(30), with_rules(strategy, min_length=4, max_length=6))
    lengths = {len(one.tokens) for hypotheses in found.hypotheses for one in hypotheses}
    assert lengths <= {3, 4, 5, 6} and len(lengths) > 1
    exact = run(model, model.memory(10), with_rules(strategy, min_length=5, max_length=5))
    assert {len(tokens) for tokens in exact.tokens} <= {4, 5}


@every_strategy
def test_length_factor_and_offset_limit_by_the_input(strategy: Strategy) -> None:
    model = Network(8, 2, spread=0.5)
    factor = with_rules(strategy, length_factor=1.5, length_offset=2, max_length=9, min_length=3)
    lengths = [1, 3, 8]
    found = run(model, model.memory(3), factor, input_lengths=lengths, forbidden=[END])
    assert [len(tokens) for tokens in found.tokens] == [3, 6, 9]
    with pytest.raises(UserError, match=r"length_factor wants the length of each input"):
        run(model, model.memory(3), factor)


@every_strategy
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_sequence_is_repeated(strategy: Strategy, n: int) -> None:
    model = Network(7, 4, spread=3.0)
    found = run(model, model.memory(20), with_rules(strategy, no_repeat=n, max_length=25))
    free = run(model, model.memory(20), with_rules(strategy, max_length=25))
    assert any(repeats(tokens, n) for tokens in free.tokens)
    assert not any(repeats(one.tokens, n) for hypotheses in found.hypotheses for one in hypotheses)


def repeats(tokens: list[int], n: int) -> bool:
    sequences = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(sequences)) < len(sequences)


@every_strategy
def test_banned_phrases_never_occur(strategy: Strategy) -> None:
    model, strategy = Network(6, 9, spread=1.0), with_rules(strategy, max_length=20)
    free = run(model, model.memory(30), strategy).tokens
    pair = next([a, b] for tokens in free for a, b in itertools.pairwise(tokens) if a != b)
    banned = [pair, [next(token for tokens in free for token in tokens if token not in pair)]]
    found = run(model, model.memory(30), strategy, banned=banned).tokens
    assert not any(occurs(phrase, tokens) for phrase in banned for tokens in found)
    assert all(any(token in tokens for tokens in found) for token in pair)


def occurs(phrase: list[int], tokens: list[int]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens)))


@every_strategy
def test_a_prefix_is_written_and_scored_as_by_teacher_forcing(strategy: Strategy) -> None:
    model, strategy = Network(9, 6), with_rules(strategy, max_length=8, no_repeat=2)
    prefixes = [[3, 4, 3, 4], [], [5], [2, 2, 2, 2, 2, 2, 2, 2]]
    memory = model.memory(4)
    found = run(model, memory, strategy, prefixes=prefixes, forbidden=[4])
    plain = Beam(length_penalty=strategy.length_penalty if isinstance(strategy, Beam) else 0.0)
    for i, (prefix, hypotheses) in enumerate(zip(prefixes, found.hypotheses, strict=True)):
        for one in hypotheses:
            assert one.tokens[: len(prefix)] == prefix
            assert one.score == pytest.approx(score(model, memory.select(torch.tensor([i])), one.tokens, 8, plain))
    assert found.tokens[3] == prefixes[3]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 4),
    min_length=st.integers(1, 4),
    no_repeat=st.integers(0, 3),
    prefix=st.lists(st.integers(2, 4), max_size=3),
    banned=st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=3), max_size=2),
)
def test_rules_are_those_of_a_plain_search(
    *, seed: int, size: int, min_length: int, no_repeat: int, prefix: list[int], banned: list[list[int]]
) -> None:
    def allowed(written: Written, token: int) -> bool:
        if len(written) < len(prefix):
            return token == prefix[len(written)]
        after = [*written, token]
        last = after[len(after) - no_repeat :]
        return (
            token != BEGIN
            and (token != END or len(after) >= min_length)
            and not any(after[len(after) - len(phrase) :] == phrase for phrase in banned)
            and not (no_repeat and len(after) > no_repeat and occurs(last, after[:-1]))
        )

    model, memory = Network(5, seed), Network(5, seed).memory(1)
    strategy = Beam(size, 0.7, max_length=6, min_length=min_length, no_repeat=no_repeat)
    wanted = plain_beam(model, memory, strategy, 5, allowed)
    if wanted:  # rules may leave nothing to write
        found = run(model, memory, strategy, forbidden=[BEGIN], banned=banned, prefixes=[prefix])
        assert found.scores == pytest.approx([wanted[0][0]])


def test_rules_do_not_depend_on_the_batch() -> None:
    model = Network(7, 3, spread=1.0)
    memory, prefixes = model.memory(64), [[2, 3][: i % 3] for i in range(64)]
    for strategy in (Greedy(no_repeat=2, min_length=4), Sample(no_repeat=2, samples=2), Beam(3, no_repeat=2)):
        wanted = None
        for size in (64, 7, 1):
            found = []
            for batch in batches(64, size):
                part = memory.select(torch.tensor(list(batch)))
                own = [prefixes[i] for i in batch]
                found += run(model, part, strategy, max_length=9, prefixes=own, sentence_ids=list(batch)).hypotheses
            tokens = [[one.tokens for one in hypotheses] for hypotheses in found]
            wanted = wanted or tokens
            assert tokens == wanted


def batches(n: int, size: int) -> list[range]:
    return [range(start, min(n, start + size)) for start in range(0, n, size)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"banned": [[2], []]}, "banned has an empty sequence of tokens"),
        ({"prefixes": [[2]]}, "there are 1 prefixes for 2 sentences"),
        ({"prefixes": [[2], [2] * 200]}, "a prefix has 200 tokens, but max_length leaves 100"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(settings: dict[str, list[list[int]]], message: str) -> None:
    model = Network(5, 1)
    with pytest.raises(UserError, match=message):
        run(model, model.memory(2), Greedy(), **settings)
