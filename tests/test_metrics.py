"""Text metrics against sacrebleu's own program and by hand; bootstrap intervals against brute force."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate
from unrolled.errors import UserError
from unrolled.metrics import METRICS, Bleu, ChrF, ExactMatch, bootstrap_interval, higher_is_better, score

TEXT = "a the dog cat man's runs, through snow; with “red” hats (two) Straßen & 3.5 km 'quick' walk."
SHORT_TEXTS = st.text("ab. é", max_size=8)


def _corpus(sentences: int, kept: float = 0.8) -> tuple[list[str], list[str]]:
    """Returns predictions, some of them cut short or empty, and references."""
    generator, vocabulary = random.Random(7), TEXT.split()
    predictions, references = [], []
    for _ in range(sentences):
        words = generator.choices(vocabulary, k=generator.randint(4, 20))
        guesses = [word if generator.random() < kept else generator.choice(vocabulary) for word in words]
        predictions.append(" ".join(guesses[: generator.choice([0, 3, 100, 100, 100, 100])]))
        references.append(" ".join(words))
    return predictions, references


def test_scores_are_those_of_the_sacrebleu_program(tmp_path: Path) -> None:
    predictions, references = _corpus(200)
    (tmp_path / "hyp").write_text("\n".join(predictions) + "\n", encoding="utf-8")
    (tmp_path / "ref").write_text("\n".join(references) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "-w", "10"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    printed_bleu, printed_chrf = json.loads(run.stdout)

    scores = score(["bleu", "chrf"], predictions, references)
    assert round(scores["bleu"], 10) == printed_bleu["score"]
    assert round(scores["chrf"], 10) == printed_chrf["score"]
    assert scores["signatures"] == {"bleu": printed_bleu["signature"], "chrf": printed_chrf["signature"]}
    details = Bleu().compute(predictions=predictions, references=references)
    verbose = "/".join(f"{precision:.1f}" for precision in details["precisions"])
    verbose += f" (BP = {details['brevity_penalty']:.3f} ratio = {details['length_ratio']:.3f}"
    assert printed_bleu["verbose_score"].startswith(verbose)


def test_bleu_of_a_case_worked_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are right; the lengths are equal.
    result = Bleu().compute(predictions=["the cat sat on a mat"], references=["the cat sat on the mat"])
    assert result["precisions"] == pytest.approx([100 * 5 / 6, 100 * 3 / 5, 100 * 2 / 4, 100 * 1 / 3])
    assert result["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert (result["brevity_penalty"], result["length_ratio"]) == (1.0, 1.0)
    assert "tok:13a" in result["signature"]


def test_short_predictions_are_penalised() -> None:
    result = Bleu().compute(predictions=["a b c d"], references=["a b c d e f g h"])
    assert result["bleu"] == pytest.approx(100 * np.exp(1 - 8 / 4))
    assert result["length_ratio"] == 0.5


def test_chrf_of_a_case_worked_by_hand() -> None:
    # Characters: all 2 predicted right, 2 of 4 found.  Pairs: 1 of 1 and 1 of 3.  No longer n-gram is there.
    precision, recall = 1.0, (2 / 4 + 1 / 3) / 2
    result = ChrF().compute(predictions=["ab"], references=["abcd"])
    assert result["chrf"] == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


def test_exact_match_is_a_percentage_and_exact() -> None:
    predictions, references = ["2025-03-03", "a", "A", "b "], ["2025-03-03", "a", "a", "b"]
    assert ExactMatch().compute(predictions=predictions, references=references) == {"exact_match": 50.0}


@pytest.mark.parametrize(("prediction", "reference"), [("", "a b c d e"), ("a b c d e", ""), ("x", "y")])
def test_nothing_in_common_scores_zero(prediction: str, reference: str) -> None:
    scores = score(METRICS, [prediction] * 2, [reference] * 2)
    assert [scores[name] for name in METRICS] == [0, 0, 0]


def test_equal_texts_score_one_hundred() -> None:
    texts = [*_corpus(20)[1], ""]
    scores = score(METRICS, texts, texts)
    assert [scores[name] for name in METRICS] == pytest.approx([100, 100, 100])


def test_scores_come_under_the_names_asked_for() -> None:
    scores = score(["exact_match", "chrf"], ["a"], ["a"])
    assert list(scores) == ["exact_match", "chrf", "signatures"]
    assert list(scores["signatures"]) == ["chrf"]
    assert all(higher_is_better(name) for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_one_of_evaluate_and_adds_batches(name: str) -> None:
    predictions, references = _corpus(30)
    metric = METRICS[name]()
    assert isinstance(metric, evaluate.Metric)
    for start in range(0, 30, 10):
        batch = slice(start, start + 10)
        metric.add_batch(predictions=predictions[batch], references=references[batch])
    assert metric.compute()[name] == score([name], predictions, references)[name]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SHORT_TEXTS, SHORT_TEXTS), min_size=1, max_size=6))
def test_scores_follow_from_summed_sentence_statistics(pairs: list[tuple[str, str]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    scores = score(METRICS, predictions, references)
    for name, metric in METRICS.items():
        statistics = metric().sentence_statistics(predictions, references)
        assert metric().from_statistics(statistics.sum(axis=0)) == pytest.approx(scores[name], abs=1e-9)
        assert 0 <= scores[name] <= 100 + 1e-9


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    for call in (score, lambda names, *texts: bootstrap_interval(names[0], *texts)):
        with pytest.raises(UserError, match=r"'blue'.*bleu, chrf or exact_match.*Did you mean 'bleu'\?"):
            call(["blue"], ["a"], ["a"])
    with pytest.raises(UserError, match="bleu, chrf or exact_match"):
        higher_is_better("perplexity")


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [(["a"], ["a", "b"], "1 predictions but 2 references"), ([], [], "at least one")],
)
def test_unpaired_texts_are_refused(predictions: list[str], references: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(["bleu"], predictions, references)
    with pytest.raises(UserError, match=message):
        bootstrap_interval("bleu", predictions, references)


def test_processes_score_at_once_without_network_or_files(tmp_path: Path) -> None:
    program = """
import sys
def offline(event, arguments):
    assert event not in ("socket.connect", "socket.getaddrinfo"), (event, arguments)
sys.addaudithook(offline)
from unrolled.metrics import METRICS, score
for _ in range(20):
    print(score(METRICS, ["a b c d e f"] * 20, ["a b c d e g"] * 20))
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    variables = {**kept, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-c", program]
    runs = [subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(outputs) == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", METRICS)
def test_interval_holds_the_score_and_narrows_with_more_sentences(name: str) -> None:
    widths = []
    for sentences in (40, 640):
        predictions, references = _corpus(sentences, kept=0.95)
        low, high = bootstrap_interval(name, predictions, references, samples=300)
        assert low < score([name], predictions, references)[name] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("name", METRICS)
def test_interval_depends_on_nothing_but_the_seed(name: str) -> None:
    predictions, references = _corpus(50, kept=0.95)
    first, again, other = (bootstrap_interval(name, predictions, references, 50, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", METRICS)
def test_interval_is_that_of_all_corpora_that_can_be_drawn(name: str) -> None:
    predictions = ["the cat sat on a mat", "a dog runs", "two men walk in the snow", "", "a red hat on a man"]
    references = ["the cat sat on the mat", "a dog runs", "two men are walking", "a boy", "a man in a hat"]

    def naive(drawn: tuple[int, ...]) -> float:
        hypotheses, truths = [predictions[i] for i in drawn], [references[i] for i in drawn]
        if name == "exact_match":
            return 100 * sum(map(str.__eq__, hypotheses, truths)) / len(drawn)
        scorer = sacrebleu.BLEU() if name == "bleu" else sacrebleu.CHRF()
        return float(scorer.corpus_score(hypotheses, [truths]).score)

    equally_likely = np.array([naive(drawn) for drawn in itertools.product(range(5), repeat=5)])
    low, high = bootstrap_interval(name, predictions, references, samples=5000)
    assert np.mean(equally_likely < low - 1e-9) < 0.035
    assert np.mean(equally_likely <= low + 1e-9) > 0.015
    assert np.mean(equally_likely > high + 1e-9) < 0.035
    assert np.mean(equally_likely >= high - 1e-9) > 0.015


def test_one_sentence_leaves_no_doubt_and_no_sample_is_refused() -> None:
    assert bootstrap_interval("chrf", ["a b"], ["a b"], samples=10) == (100.0, 100.0)
    with pytest.raises(UserError, match="at least 1 sample, not 0"):
        bootstrap_interval("chrf", ["a b"], ["a b"], samples=0)
