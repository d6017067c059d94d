"""Decoding, compared with enumeration, a reference search and the model's own distribution."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from search_oracles import (
    BEGIN,
    DEVICES,
    END,
    EVERY_STRATEGY,
    IDS,
    Network,
    Vectors,
    run,
    table,
)
from unrolled.decoding import Beam, DecodeResult, Greedy, Sample, Strategy
from unrolled.errors import RunFailed, UserError
from unrolled.models import Rows


def test_greedy_takes_the_most_probable_token_and_scores_with_the_end() -> None:
    model = table([0.0, 0.1, 0.3, 0.6], [0.0, 1.0, 0.0, 0.0], [0.1, 0.7, 0.1, 0.1], [0.1, 0.2, 0.4, 0.3])
    found = run(model, Vectors(torch.zeros(2, 1)), Greedy())
    assert found.tokens == [[3, 2], [3, 2]]
    assert found.scores == pytest.approx([math.log(0.6 * 0.4 * 0.7)] * 2)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_results_do_not_depend_on_how_sentences_are_batched(strategy: Strategy, seed: int, data: Any) -> None:
    model, n = Network(9, seed), 8
    memory = model.memory(n)
    limits = data.draw(st.lists(st.integers(1, 15), min_size=n, max_size=n))
    whole = run(model, memory, strategy, max_length=limits, sentence_ids=range(100, 100 + n))
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1))))
    for first, last in itertools.pairwise([0, *cuts, n]):
        part = order[first:last]
        found = run(
            model,
            memory.select(torch.tensor(part)),
            strategy,
            max_length=[limits[i] for i in part],
            sentence_ids=[100 + i for i in part],
        )
        assert found.tokens == [whole.tokens[i] for i in part]
        assert found.scores == pytest.approx([whole.scores[i] for i in part])


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_finished_sentences_leave_the_batch(strategy: Strategy) -> None:
    model = Network(12, 5, spread=1.0)
    found = run(model, model.memory(20), strategy, max_length=60)
    lengths = [len(tokens) for tokens in found.tokens]
    width = strategy.size if isinstance(strategy, Beam) else strategy.samples if isinstance(strategy, Sample) else 1
    assert len(set(lengths)) > 3, "the sentences should end at different steps for this test"
    # The first step has one hypothesis a sentence; after it, the batch only shrinks.
    assert model.rows[0] == 20
    assert model.rows[1] <= 20 * width and model.rows[1:] == sorted(model.rows[1:], reverse=True)
    assert model.rows[-1] < model.rows[1]
    if width == 1:
        emitted = [min(length + 1, 60) for length in lengths]
        assert model.rows == [sum(length > step for length in emitted) for step in range(max(emitted))]


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_max_length_counts_every_token_and_may_differ_by_sentence(strategy: Strategy) -> None:
    endless = table([0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.2, 0.8])
    found = run(endless, Vectors(torch.zeros(3, 1)), strategy, max_length=[4, 1, 7])
    assert [len(tokens) for tokens in found.tokens] == [4, 1, 7]
    assert [len(tokens) for tokens in run(endless, Vectors(torch.zeros(1, 1)), strategy).tokens] == [100]


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_forbidden_tokens_are_never_emitted(strategy: Strategy) -> None:
    model = Network(8, 11, spread=0.3)
    found = run(model, model.memory(30), strategy, max_length=20, forbidden=[BEGIN, 3, 4])
    emitted = set(itertools.chain.from_iterable(found.tokens))
    assert emitted and emitted <= {2, 5, 6, 7}
    endless = run(model, model.memory(5), strategy, max_length=6, forbidden=[END])
    assert [len(tokens) for tokens in endless.tokens] == [6] * 5


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_impossible_tokens_are_never_emitted(strategy: Strategy) -> None:
    # From 2 only 3 follows, from 3 only 2 or the end.
    model = table([0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.4, 0.6, 0.0])
    found = run(model, Vectors(torch.zeros(20, 1)), strategy, max_length=40)
    for tokens in found.tokens:
        assert tokens == ([2, 3] * 20)[: len(tokens)]
    assert all(math.isfinite(value) for value in found.scores)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_a_model_that_gives_nan_is_refused_at_its_step(strategy: Strategy) -> None:
    class Broken(Network):
        def step(self, tokens: Tensor, state: Any, memory: Vectors, rows: Rows) -> tuple[Tensor, Any]:
            log_probabilities, state = super().step(tokens, state, memory, rows)
            if len(self.rows) == 3:
                log_probabilities[-1, 4] = float("nan")
            return log_probabilities, state

    model = Broken(9, 2, spread=0.1)
    with pytest.raises(RunFailed, match="NaN as a logit at step 3 of sentence 13"):
        run(model, model.memory(4), strategy, forbidden=[END], sentence_ids=range(10, 14))


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_a_dead_end_is_refused(strategy: Strategy) -> None:
    model = table([0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    with pytest.raises(RunFailed, match="every allowed token probability zero at step 2 of sentence 0"):
        run(model, Vectors(torch.zeros(2, 1)), strategy, forbidden=[END])


def test_a_beam_survives_a_dead_end_that_is_not_its_only_way() -> None:
    model = table([0.0, 0.0, 0.9, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    assert run(model, Vectors(torch.zeros(1, 1)), Beam(2)).tokens == [[3]]


def test_a_hypothesis_that_has_ended_is_not_grown_further() -> None:
    only_end = table([0.5, 0.5], [0.1, 0.9])
    found = run(only_end, Vectors(torch.zeros(1, 1)), Beam(4, 1.0), forbidden=[BEGIN])
    assert found.tokens == [[]]
    assert found.scores == pytest.approx([math.log(0.5)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_precision_device_and_inference_mode_change_nothing(strategy: Strategy, device: str) -> None:
    wanted = run(Network(30, 6), Network(30, 6).memory(12), strategy)
    model = Network(30, 6, torch.float32, device)
    with torch.inference_mode():
        found = run(model, model.memory(12), strategy)
    assert found.tokens == wanted.tokens
    assert found.scores == pytest.approx(wanted.scores, rel=1e-4)


def test_no_sentences_decode_to_nothing() -> None:
    model = Network(5, 1)
    assert run(model, model.memory(0), Beam()) == DecodeResult([])


@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        (Greedy, {"max_length": 0}, "greedy.max_length is 0; accepted is a whole number, 1 or more"),
        (Sample, {"temperature": 0.0}, "sample.temperature is 0.0; accepted is a number, 0.001 or more"),
        (Sample, {"temperature": math.nan}, "sample.temperature is nan"),
        (Sample, {"top_k": -1}, "sample.top_k is -1; accepted is a whole number, 0 or more"),
        (Sample, {"top_p": 0}, "sample.top_p is 0; accepted is a number above 0, up to 1"),
        (Sample, {"top_p": "0.9"}, "sample.top_p is '0.9'"),
        (Sample, {"seed": 2**64}, "sample.seed is"),
        (Beam, {"size": 0}, "beam.size is 0; accepted is a whole number, 1 or more"),
        (Beam, {"size": 2.0}, "beam.size is 2.0"),
        (Beam, {"size": True}, "beam.size is True"),
        (Beam, {"length_penalty": -0.5}, "beam.length_penalty is -0.5; accepted is a number, 0 or more, or 'average'"),
        (Beam, {"length_penalty": math.inf}, "beam.length_penalty is inf"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_accepted(strategy: Any, settings: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        strategy(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 0},
        {"max_length": [3]},
        {"max_length": [3, -1]},
        {"sentence_ids": [1]},
        {"sentence_ids": [1, -2]},
    ],
)
def test_what_does_not_fit_the_sentences_is_refused(settings: Any) -> None:
    model = Network(5, 1)
    with pytest.raises(UserError, match="accepted is"):
        run(model, model.memory(2), Greedy(), **settings)
