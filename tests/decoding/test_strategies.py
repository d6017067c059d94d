"""Strategy spellings, ensembles, and strategies with several samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import BEGIN, END, EVERY_STRATEGY, IDS, Network, run, score, table
from unrolled.config.common import Decoding
from unrolled.decoding import (
    MBR,
    Beam,
    BestOfN,
    Ensemble,
    EnsembleInputs,
    Greedy,
    Sample,
    Strategy,
    decode,
    make_outputs,
    min_risk,
    parse_strategies,
    split_spellings,
)
from unrolled.errors import UserError
from unrolled.metrics import pairwise_scores


def test_options_go_on_after_a_comma() -> None:
    assert split_spellings("greedy") == ["greedy"]
    assert split_spellings("greedy,sample:temperature=0.7,top_k=20,beam") == [
        "greedy",
        "sample:temperature=0.7,top_k=20",
        "beam",
    ]
    assert split_spellings("beam:size=4,groups=2,diversity=1,mbr") == ["beam:size=4,groups=2,diversity=1", "mbr"]


def test_spelled_options_come_before_those_of_the_config() -> None:
    config = Decoding.model_validate(
        {"max_length": 30, "samples": 9, "precision": "float32", "beam": {"size": 3}, "sample": {"top_k": 4}}
    )
    chosen = parse_strategies(
        ["greedy", "beam", "beam:size=10,length_penalty=average", "mbr:samples=7,top_p=0.9,utility=bleu"], config
    )
    assert list(chosen.values()) == [
        Greedy(max_length=30),
        Beam(3, max_length=30),
        Beam(10, "average", max_length=30),
        MBR(top_k=4, top_p=0.9, samples=7, utility="bleu", max_length=30),
    ]
    assert parse_strategies(["best"], config) == {"best": BestOfN(top_k=4, samples=9, max_length=30)}
    assert parse_strategies(["sample:length_factor=null"], config)["sample:length_factor=null"] == Sample(
        top_k=4, max_length=30
    )


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("bream", "'bream' is not a strategy; there is greedy, sample, beam, best or mbr. Did you mean 'beam'?"),
        ("greedy:size=3", "--decode greedy:size=3: greedy has no option 'size'"),
        ("greedy:size=3", "beam has it."),
        ("sample:topk=3", "Did you mean 'top_k'?"),
        ("beam:size", "'size' is no option; accepted is key=value, such as size=10"),
        ("beam:", "'' is no option"),
        ("beam:size=3,size=4", "size is given twice"),
        ("mbr:utility=ter", "mbr.utility is 'ter'; accepted is chrf or bleu."),
        ("best:utility=bleu", "best has no option 'utility'"),
        ("best:utility=bleu", "mbr has it."),
        ("beam:size=three", "beam.size is 'three'; accepted is a whole number, 1 or more"),
        ("sample:top_p=1.5", "sample.top_p is 1.5; accepted is a number above 0, up to 1"),
        ("beam:length_penalty=mean", "beam.length_penalty is 'mean'; accepted is a number, 0 or more, or 'average'"),
        ("beam:size=4,groups=2", "beam.groups is 2 and beam.diversity 0.0: several groups need a diversity above 0"),
        ("beam:groups=2,diversity=1", "accepted is a whole number, 1 or more, that divides the size, 5"),
        ("beam:min_length=9,max_length=8", "beam.min_length is 9, more than its max_length, 8"),
    ],
)
def test_what_cannot_be_meant_is_refused(spelling: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_strategies([spelling], Decoding())
    assert message in str(error.value)


# Several models ------------------------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities() -> None:
    one = table([0.0, 0.5, 0.1, 0.4], *[[0.0, 1.0, 0.0, 0.0]] * 3)
    other = table([0.0, 0.1, 0.5, 0.4], *[[0.0, 1.0, 0.0, 0.0]] * 3)
    memory = EnsembleInputs((Network(4, 1).memory(2), Network(4, 1).memory(2)))
    found = decode(Ensemble([one, other]), memory, Greedy(), begin=BEGIN, end=END)
    assert found.tokens == [[3], [3]]
    assert found.scores == pytest.approx([np.log(0.4)] * 2)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=IDS)
def test_an_ensemble_of_equals_is_each_of_them(strategy: Strategy) -> None:
    model = Network(9, 4)
    memory = model.memory(10)
    alone = run(model, memory, strategy, max_length=12)
    together = decode(
        Ensemble([model, model, model]), EnsembleInputs((memory,) * 3), strategy, begin=BEGIN, end=END, max_length=12
    )
    assert together.tokens == alone.tokens
    assert together.scores == pytest.approx(alone.scores)


# Several samples -----------------------------------------------------------------------------------------


def test_samples_of_a_sentence_are_streams_of_their_own() -> None:
    model = Network(20, 4, spread=0.5)
    memory = model.memory(6)
    single, several = (run(model, memory, Sample(samples=n, max_length=9)).hypotheses for n in (1, 5))
    for one, five in zip(single, several, strict=True):
        assert five[0].tokens == one[0].tokens and five[0].score == pytest.approx(one[0].score)
        assert len({tuple(sample.tokens) for sample in five}) > 2


def test_best_is_the_most_probable_of_the_samples() -> None:
    model = Network(12, 4, spread=1.0)
    memory = model.memory(8)
    best = run(model, memory, BestOfN(samples=6), max_length=10)
    for i, (hypotheses, samples) in enumerate(
        zip(best.hypotheses, run(model, memory, Sample(samples=6), max_length=10).hypotheses, strict=True)
    ):
        assert best.scores[i] == max(sample.score for sample in samples)
        assert sorted(map(tuple, (one.tokens for one in hypotheses))) == sorted(tuple(one.tokens) for one in samples)
        found = score(model, memory.select(torch.tensor([i])), best.tokens[i], 10)
        assert best.scores[i] == pytest.approx(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("abcä \t.日"), max_size=14), min_size=1, max_size=5))
def test_chrf_of_all_pairs_is_that_of_sacrebleu(samples: list[str]) -> None:
    metric = sacrebleu.CHRF()
    wanted = [[metric.sentence_score(one, [other]).score for other in samples] for one in samples]
    np.testing.assert_allclose(pairwise_scores("chrf", samples), wanted, atol=1e-6)


WORDS = st.lists(
    st.sampled_from(["a", "dog", "runs.", "1,000", "U.S.", "&quot;", "日", "-\n", "<skipped>"]), max_size=9
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(" ".join) | st.text(st.sampled_from("ab \t.,日"), max_size=14), max_size=5))
def test_bleu_of_all_pairs_is_that_of_sacrebleu(samples: list[str]) -> None:
    wanted = [[sacrebleu.sentence_bleu(one, [other]).score for other in samples] for one in samples]
    np.testing.assert_allclose(pairwise_scores("bleu", samples), np.reshape(wanted, (len(samples),) * 2), atol=1e-6)


@pytest.mark.parametrize(("utility", "metric"), [("chrf", sacrebleu.sentence_chrf), ("bleu", sacrebleu.sentence_bleu)])
def test_the_least_risk_is_the_sample_most_like_all(utility: Any, metric: Any) -> None:
    samples = ["a dog runs", "a cat sleeps", "a dog ran", "the dog runs", "", "a cat sleeps"]
    wanted = np.array([[metric(a, [b]).score for b in samples] for a in samples]).mean(1)
    assert min_risk(samples, utility, pairwise_scores) == int(wanted.argmax())
    assert min_risk([""], utility, pairwise_scores) == min_risk(["", ""], utility, pairwise_scores) == 0


def test_the_utility_is_what_decides() -> None:
    samples = ["unbelievable", "unbelievably", "believable", "a dog", "the dog"]
    assert [samples[min_risk(samples, utility, pairwise_scores)] for utility in ("chrf", "bleu")] == [
        "unbelievable",
        "a dog",
    ]


@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_mbr_writes_the_text_of_least_risk(utility: Any) -> None:
    model = Network(12, 4, spread=1.0)

    def write(rows: list[list[int]]) -> list[str]:
        return [" ".join(chr(97 + token) for token in row) for row in rows]

    strategy: Any = MBR(samples=8, utility=utility)
    decoded = run(model, model.memory(9), strategy, max_length=10)
    written = [write([one.tokens for one in hypotheses]) for hypotheses in decoded.hypotheses]
    limits = [strategy.max_length] * len(decoded.hypotheses)
    chosen = [answer.text for answer in make_outputs(decoded, strategy, write, limits, pairwise_scores)]
    assert chosen == [own[min_risk(own, utility, pairwise_scores)] for own in written] != [own[0] for own in written]
    assert [answer.text for answer in make_outputs(decoded, Sample(), write, limits, pairwise_scores)] == [
        own[0] for own in written
    ]
