"""Scores of translations against sacrebleu and by hand; what holds of every text metric, likelihoods."""

from __future__ import annotations

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
from metric_corpora import corpus
from unrolled.errors import UserError
from unrolled.metrics import (
    METRICS,
    BitsPerCharacter,
    Bleu,
    ChrF,
    ExactMatch,
    Perplexity,
    SummedMetric,
    Ter,
    bootstrap_interval,
    compare,
    metric_info,
    score,
    wordnet_folder,
)

SHORT_TEXTS = st.text("ab. é", max_size=8)
SENTENCES = st.lists(st.sampled_from(["a", "dog", "dogs", "runs", "in", "the", "snow", "."]), max_size=9).map(" ".join)
SACREBLEU = {
    "bleu": sacrebleu.BLEU,
    "chrf": sacrebleu.CHRF,
    "chrf++": lambda: sacrebleu.CHRF(word_order=2),
    "ter": sacrebleu.TER,
}
HERE = [name for name in METRICS if not name.startswith("wups") or wordnet_folder()]
"""All but those that want WordNet, where it is not installed."""
SINGLE = [name for name in HERE if name != "vqa_accuracy"]
"""Metrics that one reference is enough for."""
SUMMED = {name: made for name in HERE if isinstance(made := METRICS[name](), SummedMetric)}


def _summed(name: str, predictions: list[str], references: list[list[str]]) -> float:
    """As `score`, without the milliseconds that `evaluate` takes."""
    totals = SUMMED[name].sentence_statistics(predictions, references).sum(axis=0)
    return float(SUMMED[name].from_statistics(totals))


def test_scores_are_those_of_the_sacrebleu_program(tmp_path: Path) -> None:
    predictions, first = corpus(200)
    second = corpus(200, seed=8)[1]
    for name, texts in {"hyp": predictions, "ref": first, "ref2": second}.items():
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    printed = {}
    for files, order, names in (
        (["ref"], 0, ["bleu", "chrf", "ter"]),
        (["ref", "ref2"], 2, ["bleu", "chrf++", "ter"]),
    ):
        options = ["-i", "hyp", "-m", "bleu", "chrf", "ter", "--chrf-word-order", str(order), "-w", "10"]
        command = [sys.executable, "-m", "sacrebleu", *files, *options]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        references = first if len(files) == 1 else [list(pair) for pair in zip(first, second, strict=True)]
        scores = score(names, predictions, references)
        printed = dict(zip(names, json.loads(run.stdout), strict=True))
        assert {name: round(scores[name], 10) for name in names} == {name: printed[name]["score"] for name in names}
        assert scores["signatures"] == {name: printed[name]["signature"] for name in names}
    details = Bleu().compute(predictions=predictions, references=references)
    verbose = "/".join(f"{precision:.1f}" for precision in details["precisions"])
    verbose += f" (BP = {details['brevity_penalty']:.3f} ratio = {details['length_ratio']:.3f}"
    assert printed["bleu"]["verbose_score"].startswith(verbose)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SENTENCES | SHORT_TEXTS, st.lists(SENTENCES | SHORT_TEXTS, min_size=1, max_size=3)), min_size=1)
)
def test_scores_from_sums_are_those_of_sacrebleu(pairs: list[tuple[str, list[str]]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(3)]
    for name, scorer in SACREBLEU.items():
        whole = scorer().corpus_score(predictions, streams).score
        assert _summed(name, predictions, references) == pytest.approx(whole, abs=1e-9)


def test_bleu_of_a_case_worked_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples are right; the lengths are equal.
    result = Bleu().compute(predictions=["the cat sat on a mat"], references=["the cat sat on the mat"])
    assert result["precisions"] == pytest.approx([100 * 5 / 6, 100 * 3 / 5, 100 * 2 / 4, 100 * 1 / 3])
    assert result["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert (result["brevity_penalty"], result["length_ratio"]) == (1.0, 1.0)
    assert "tok:13a" in result["signature"]


def test_bleu_counts_half_a_quadruple_where_none_is_right() -> None:
    value = score(["bleu"], ["a b c x e f"], ["a b c d e f"])["bleu"]
    assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)


def test_short_predictions_are_penalised() -> None:
    result = Bleu().compute(predictions=["a b c d"], references=["a b c d e f g h"])
    assert result["bleu"] == pytest.approx(100 * np.exp(1 - 8 / 4))
    assert result["length_ratio"] == 0.5


def test_chrf_of_a_case_worked_by_hand() -> None:
    # Characters: all 2 predicted right, 2 of 4 found.  Pairs: 1 of 1 and 1 of 3.  No longer n-gram is there.
    precision, recall = 1.0, (2 / 4 + 1 / 3) / 2
    result = ChrF().compute(predictions=["ab"], references=["abcd"])
    assert result["chrf"] == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


def test_ter_of_the_example_in_its_paper() -> None:
    # Snover et al. 2006, section 3: "this week" moved, "Saudis" instead of "Saudi Arabia", "American" missing.
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times"
    prediction = "THIS WEEK THE SAUDIS denied information published in the new york times"
    result = Ter().compute(predictions=[prediction], references=[reference])
    assert result["ter"] == pytest.approx(100 * 4 / 13)


def test_exact_match_is_a_percentage_and_exact() -> None:
    predictions, references = ["2025-03-03", "a", "A", "b "], ["2025-03-03", "a", "a", "b"]
    assert ExactMatch().compute(predictions=predictions, references=references) == {"exact_match": 50.0}
    assert score(["exact_match"], ["a", "b"], [["b", "a"], ["c"]])["exact_match"] == 50.0


@pytest.mark.parametrize(("prediction", "reference"), [("", "a b c d e"), ("a b c d e", ""), ("xx", "of")])
def test_nothing_in_common_scores_zero(prediction: str, reference: str) -> None:
    names = [name for name in SINGLE if not name.startswith(("ter", "distinct", "length"))]
    scores = score(names, [prediction] * 2, [reference] * 2)
    assert {name: scores[name] for name in names} == dict.fromkeys(names, 0.0)
    assert score(["ter"], [prediction], [reference])["ter"] == 100


@settings(max_examples=40, deadline=None)
@given(st.lists(SENTENCES, min_size=2, max_size=6), st.randoms())
def test_perfect_output_scores_the_maximum(texts: list[str], generator: random.Random) -> None:
    worse = [" ".join(word for word in text.split() if generator.random() < 0.7) for text in texts]
    references = [[text] * 4 for text in texts]
    for name in SUMMED:
        perfect, other = (_summed(name, outputs, references) for outputs in (texts, worse))
        assert name == "length_ratio" or perfect == pytest.approx(other) or metric_info(name).better(perfect, other), (
            name
        )


def test_equal_texts_score_one_hundred() -> None:
    texts = [*corpus(20)[1], ""]
    scores = score(HERE, texts, [[text] * 4 for text in texts])
    hundred = ["bleu", "chrf", "chrf++", "exact_match", *(f"bleu_{n}" for n in (1, 2, 3, 4)), "rouge_l", "vqa_accuracy"]
    assert [scores[name] for name in hundred] == pytest.approx([100] * len(hundred))
    assert (scores["ter"], scores["length_ratio"]) == (0, 1)
    assert scores["cider_d"] == pytest.approx(1000 * 20 / 21)  # an empty caption has no n-gram to share
    assert 99 < scores["meteor"] < 100  # a sentence is one chunk, never none


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=4, max_size=5)), min_size=1), st.randoms())
def test_order_makes_no_difference_and_scores_keep_their_bounds(
    pairs: list[tuple[str, list[str]]], generator: random.Random
) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    mixed = generator.sample(pairs, len(pairs))
    other_order = [text for text, _ in mixed], [generator.sample(truths, len(truths)) for _, truths in mixed]
    for name in SUMMED:
        value = _summed(name, predictions, references)
        most = {"cider_d": 1000, "ter": np.inf, "length_ratio": np.inf}.get(name, 100)
        assert 0 <= value <= most + 1e-9
        if not name.startswith("chrf"):  # sacrebleu takes the first of equally good references
            assert _summed(name, *other_order) == pytest.approx(value, abs=1e-9), name


def test_scores_come_under_the_names_asked_for() -> None:
    scores = score(["exact_match", "chrf"], ["a"], ["a"])
    assert list(scores) == ["exact_match", "chrf", "signatures"]
    assert list(scores["signatures"]) == ["chrf"]


@pytest.mark.parametrize("name", HERE)
def test_every_metric_is_one_of_evaluate_and_adds_batches(name: str) -> None:
    predictions, references = corpus(30)
    several = [[text, "a", "b", "c"] for text in references]
    computed = METRICS[name]()
    assert isinstance(computed, evaluate.Metric)
    for start in range(0, 30, 10):
        batch = slice(start, start + 10)
        computed.add_batch(predictions=predictions[batch], references=several[batch])
    assert computed.compute()[name] == score([name], predictions, several)[name]


@pytest.mark.parametrize("name", HERE)
def test_every_metric_has_a_label_and_an_explanation(name: str) -> None:
    assert metric_info(name).about
    references = corpus(30)[1]
    worse = score([name], ["x y z"] * 30, [[text] * 4 for text in references])[name]
    best = score([name], references, [[text] * 4 for text in references])[name]
    assert METRICS[name]().key == name
    if name != "length_ratio":
        assert metric_info(name).better(best, worse)


@pytest.mark.parametrize("name", SUMMED)
def test_sentence_scores_are_those_of_corpora_of_one(name: str) -> None:
    predictions, references = corpus(8)
    several = [[text, "a dog", "the cat", "b"] for text in references]
    scores = SUMMED[name].sentence_scores(predictions, several)
    assert scores.shape == (8,)
    if name != "cider_d":  # its weights come from the whole corpus
        alone = [_summed(name, [predictions[i]], [several[i]]) for i in range(8)]
        assert scores == pytest.approx(alone)


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    for call in (score, lambda names, *texts: bootstrap_interval(names[0], *texts)):
        with pytest.raises(UserError, match=r"'blue'.*bleu, chrf, .* or length_ratio.*Did you mean 'bleu'\?"):
            call(["blue"], ["a"], ["a"])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], ["a", "b"], "1 predictions but 2 references"),
        ([], [], "at least one"),
        (["a", "b"], [["a"], []], "Prediction 2 has no reference"),
        (["a", "b"], [["a"], "b"], "mix texts with lists"),
        (["a", None], ["a", "b"], "Prediction 2 or its reference is None"),
        (["a"], [[3]], "Prediction 1 or its reference is 3"),
        (["a"], [None], "Prediction 1 or its reference is None"),
    ],
)
def test_unpaired_texts_are_refused(predictions: list[str], references: list[str], message: str) -> None:
    for call in (score, lambda names, *texts: bootstrap_interval(names[0], *texts)):
        with pytest.raises(UserError, match=message):
            call(["bleu"], predictions, references)
    with pytest.raises(UserError, match=message):
        compare("bleu", {"greedy": predictions}, references)


def test_processes_score_at_once_without_network_or_files(tmp_path: Path) -> None:
    program = f"""
import sys
def offline(event, arguments):
    assert event not in ("socket.connect", "socket.getaddrinfo"), (event, arguments)
sys.addaudithook(offline)
from unrolled.metrics import score
for _ in range(3):
    print(score({HERE}, ["a b c d e f"] * 20, [["a b c d e g"] * 4] * 20))
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    variables = {**kept, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-c", program]
    runs = [subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(outputs) == 1
    assert list(tmp_path.rglob("*")) == []


def test_likelihoods_of_a_fair_coin_and_of_texts_together() -> None:
    # A unit of which two values are equally likely costs log 2 nats.
    losses, units = [3 * np.log(2), 5 * np.log(2)], [3, 5]
    assert Perplexity().compute(predictions=losses, references=units) == {"perplexity": pytest.approx(2)}
    assert BitsPerCharacter().compute(predictions=losses, references=units) == {"bits_per_character": pytest.approx(1)}
    # Of 4 and 12 nats over 2 and 2 units the mean is 4 nats: long texts weigh more, not every text alike.
    assert Perplexity().compute(predictions=[4.0, 12.0], references=[2, 2])["perplexity"] == pytest.approx(np.exp(4))
    assert np.isfinite(Perplexity().compute(predictions=[1e9], references=[1])["perplexity"])
