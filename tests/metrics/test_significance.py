"""Bootstrap intervals and randomization tests against brute force and sacrebleu; shares; Holm; significance letters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.significance import PairedTest

from metric_corpora import corpus
from unrolled.errors import UserError
from unrolled.metrics import (
    METRICS,
    SummedMetric,
    bootstrap_interval,
    compact_letter_display,
    compare,
    holm_correction,
    mean_interval,
    paired_bootstrap_test,
    proportion_interval,
    randomization_test,
    score,
)

FIVE = (
    ["the cat sat on a mat", "a dog runs", "two men walk in the snow", "", "a red hat on a man"],
    ["the cat sat on the mat", "a dog runs", "two men are walking", "a boy", "a man in a hat"],
)


def _mean(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "exact_match", "meteor", "cider_d", "vqa_accuracy"])
def test_interval_holds_the_score_and_narrows_with_more_sentences(name: str) -> None:
    widths = []
    for sentences in (40, 640):
        predictions, references = corpus(sentences, kept=0.95)
        truths = [[text] * 4 for text in references] if name == "vqa_accuracy" else references
        low, high = bootstrap_interval(name, predictions, truths, samples=300)
        assert low < score([name], predictions, truths)[name] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("name", ["bleu", "meteor"])
def test_interval_depends_on_nothing_but_the_seed(name: str) -> None:
    predictions, references = corpus(50, kept=0.95)
    first, again, other = (bootstrap_interval(name, predictions, references, 50, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["bleu", "chrf", "exact_match", "ter"])
def test_interval_is_that_of_all_corpora_that_can_be_drawn(name: str) -> None:
    predictions, references = FIVE

    def naive(drawn: tuple[int, ...]) -> float:
        hypotheses, truths = [predictions[i] for i in drawn], [references[i] for i in drawn]
        if name == "exact_match":
            return 100 * sum(map(str.__eq__, hypotheses, truths)) / len(drawn)
        scorer = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF, "ter": sacrebleu.TER}[name]()
        return float(scorer.corpus_score(hypotheses, [truths]).score)

    # The score of a drawn corpus does not depend on the order of the draws: each multiset once, as often as it comes.
    draws = list(itertools.combinations_with_replacement(range(5), 5))
    ways = np.array([len(set(itertools.permutations(drawn))) for drawn in draws])
    scores = np.repeat([naive(drawn) for drawn in draws], ways)
    low, high = bootstrap_interval(name, predictions, references, samples=5000)
    assert np.mean(scores < low - 1e-9) < 0.035
    assert np.mean(scores <= low + 1e-9) > 0.015
    assert np.mean(scores > high + 1e-9) < 0.035
    assert np.mean(scores >= high - 1e-9) > 0.015


def test_mean_interval_is_that_of_the_normal_distribution_for_many_values() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=2000)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_one_sentence_leaves_no_doubt_and_no_sample_is_refused() -> None:
    assert bootstrap_interval("chrf", ["a b"], ["a b"], samples=10) == (100.0, 100.0)
    with pytest.raises(UserError, match="at least 1 sample, not 0"):
        bootstrap_interval("chrf", ["a b"], ["a b"], samples=0)
    with pytest.raises(UserError, match="randomization test needs at least 1 sample, not 0"):
        compare("chrf", {"one": ["a"]}, ["a"], shuffles=0)


@pytest.mark.parametrize("name", ["bleu", "chrf++", "ter", "rouge_l", "cider_d"])
def test_randomization_is_that_of_all_exchanges(name: str) -> None:
    first, references = corpus(9, kept=0.9)
    second = corpus(9, kept=0.75, system=1)[0]
    metric = METRICS[name]()
    assert isinstance(metric, SummedMetric)
    ours, theirs = (metric.sentence_statistics(texts, references) for texts in (first, second))
    apart = []
    for taken in itertools.product((False, True), repeat=9):
        chosen = np.array(taken)[:, None]
        sums = [np.where(chosen, one, other).sum(axis=0) for one, other in ((ours, theirs), (theirs, ours))]
        apart.append(abs(float(metric.from_statistics(sums[0]) - metric.from_statistics(sums[1]))))
    exact = np.mean(np.array(apart) >= apart[0] - 1e-9)
    p_values = compare(name, {"first": first, "second": second}, references, samples=1).p_values
    assert p_values[0, 1] == p_values[1, 0] == pytest.approx(exact, abs=0.02)
    assert p_values[0, 0] == 1


def test_randomization_of_bleu_is_that_of_sacrebleu() -> None:
    first, references = corpus(120, kept=0.82)
    second = corpus(120, kept=0.8, system=1)[0]
    systems = [("first", first), ("second", second)]
    _, found = PairedTest(systems, {"BLEU": sacrebleu.BLEU()}, [references], "ar", n_samples=2000)()
    ours = compare("bleu", dict(systems), references, samples=1).p_values[0, 1]
    assert 0.05 < ours < 0.95
    assert ours == pytest.approx(found["BLEU"][1].p_value, abs=0.04)


def test_randomization_finds_five_percent_of_differences_that_are_none() -> None:
    scores = np.random.default_rng(1).exponential(size=(150, 60))
    p_values = randomization_test(_mean, np.stack([scores, np.ones_like(scores)], axis=-1), shuffles=500)
    pairs = p_values[np.triu_indices(60, k=1)]
    assert 0.03 < np.mean(pairs <= 0.05) < 0.07
    assert 0.45 < np.mean(pairs <= 0.5) < 0.55


def test_comparison_of_systems() -> None:
    references = corpus(150)[1]
    outputs = {"bad": corpus(150, kept=0.5)[0], "good": corpus(150, kept=0.95)[0]}
    outputs |= {"same": list(outputs["good"]), "fair": corpus(150, kept=0.75, system=1)[0]}
    compared = compare("chrf", outputs, references, shuffles=2000)
    assert compared.systems == ("bad", "good", "same", "fair")
    scores = [score(["chrf"], texts, references)["chrf"] for texts in outputs.values()]
    assert compared.scores == pytest.approx(scores)
    intervals = [bootstrap_interval("chrf", texts, references) for texts in outputs.values()]
    assert compared.intervals == pytest.approx(np.array(intervals))
    assert compared.p_values[1, 2] == 1
    assert compared.p_values[0, 1] == 1 / 2001
    assert compared.corrected()[0, 1] == pytest.approx(6 / 2001)
    assert compared.letters() == {"good": "a", "same": "a", "fair": "b", "bad": "c"}


def test_the_least_edits_are_the_best() -> None:
    references = corpus(60)[1]
    outputs = {"bad": corpus(60, kept=0.3)[0], "good": corpus(60, kept=0.95)[0]}
    assert compare("ter", outputs, references).letters() == {"good": "a", "bad": "b"}


def test_what_is_no_sum_over_sentences_is_refused() -> None:
    with pytest.raises(UserError, match="distinct_1 is no function of sums over sentences"):
        bootstrap_interval("distinct_1", ["a"], ["a"])
    with pytest.raises(UserError, match="no systems to compare"):
        compare("bleu", {}, ["a"])
    with pytest.raises(UserError, match="1 predictions but 2 references"):
        compare("bleu", {"one": ["a", "b"], "other": ["a"]}, ["a", "b"])


def test_holm_worked_by_hand() -> None:
    # Three pairs: the smallest times 3, the next times 2, and the last, times 1, not below the one before it.
    p_values = np.array([[1, 0.01, 0.04], [0.01, 1, 0.03], [0.04, 0.03, 1]])
    assert holm_correction(p_values) == pytest.approx(np.array([[1, 0.03, 0.06], [0.03, 1, 0.06], [0.06, 0.06, 1]]))
    assert holm_correction(np.array([[1, 0.7], [0.7, 1]]))[0, 1] == 0.7
    assert holm_correction(np.full((3, 3), 0.6))[0, 1] == 1
    assert holm_correction(np.ones((1, 1))).tolist() == [[1]]


def test_letters_of_a_line_of_systems() -> None:
    different = np.zeros((4, 4), dtype=bool)
    for one, other in ((0, 2), (0, 3), (1, 3)):
        different[one, other] = different[other, one] = True
    assert compact_letter_display(different, [4, 3, 2, 1]) == ["a", "ab", "bc", "c"]
    assert compact_letter_display(different, [1, 2, 3, 4]) == ["c", "bc", "ab", "a"]
    assert compact_letter_display(np.zeros((3, 3), dtype=bool), [1, 1, 1]) == ["a", "a", "a"]
    assert compact_letter_display(~np.eye(3, dtype=bool), [2, 3, 1]) == ["b", "a", "c"]


@settings(max_examples=200)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_letters_are_shared_by_those_that_do_not_differ_and_no_others(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    systems, pairs = drawn
    different = np.zeros((systems, systems), dtype=bool)
    for one, other in pairs:
        different[one, other] = different[other, one] = one != other
    letters = compact_letter_display(different, np.arange(systems)[::-1])
    assert "a" in letters[0]
    for one, other in itertools.combinations(range(systems), 2):
        assert bool(set(letters[one]) & set(letters[other])) is not bool(different[one, other])
    assert all(letters)


def test_wilsons_interval_as_published() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I: 81 of 263, 0 of 20.
    assert proportion_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert proportion_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_paired_bootstrap_knows_the_binomial_law():
    """One system is right on 12 of 400 examples where the other is wrong, and never the other way round: a sample
    shows no difference if it has none of the 12, which is (1 - 12/400)^400."""
    one = [1.0] * 12 + [0.0] * 388
    expected = 2 * (1 - 12 / 400) ** 400
    assert paired_bootstrap_test(one, [0.0] * 400, samples=20_000) == pytest.approx(expected, abs=3e-4)
    assert paired_bootstrap_test([0.0] * 400, one, samples=2000) < 0.01
    assert paired_bootstrap_test(one, one, samples=200) == 1.0
    assert paired_bootstrap_test([1.0, 0.0] * 50, [0.0, 1.0] * 50, samples=2000) > 0.5
