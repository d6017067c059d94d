"""Metric registry: labels, units, directions and scoring by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from unrolled.errors import UserError, did_you_mean, listing
from unrolled.metrics.answers import AnswerAccuracy, ExactMatch, VqaAccuracy, Wups
from unrolled.metrics.base import CorpusMetric, References, Texts, check_pairs
from unrolled.metrics.captioning import CaptionBleu, CiderD, Meteor, RougeL
from unrolled.metrics.language_modeling import Distinct, LengthRatio
from unrolled.metrics.translation import Bleu, ChrF, ChrFPlusPlus, Ter


@dataclass(frozen=True)
class MetricInfo:
    """How a score is displayed and compared.

    Attributes:
        label: for tables and charts.
        about: one or two sentences for newcomers.
        unit: follows the number.
        digits: after the decimal point.
    """

    label: str
    about: str = ""
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 1

    def format(self, value: float | None) -> str:
        """Returns the value as text, ``–`` for `None`."""
        return "–" if value is None else f"{value:.{self.digits}f}{self.unit}"

    def better(self, value: float, than: float) -> bool:
        return value > than if self.higher_is_better else value < than


PERCENT = "\N{NO-BREAK SPACE}%"
METRIC_INFO: dict[str, MetricInfo] = {
    "bleu": MetricInfo(
        "BLEU",
        "BLEU counts the runs of one to four words that the outputs share with their references and lowers the "
        "score when the outputs are too short. 0 is worst, 100 best.",
    ),
    "chrf": MetricInfo(
        "chrF",
        "chrF compares runs of characters instead of words, so a word with a nearly right ending still earns "
        "credit. 0 is worst, 100 best.",
    ),
    "chrf++": MetricInfo(
        "chrF++",
        "chrF++ is chrF that also counts the words and word pairs that the outputs share with their references. "
        "0 is worst, 100 best.",
    ),
    "ter": MetricInfo(
        "Translation edit rate",
        "TER counts the words to insert, delete, replace or move until an output equals its reference, in percent of "
        "the reference's words. 0 is best.",
        higher_is_better=False,
    ),
    "exact_match": MetricInfo(
        "Exact match", "The share of outputs that equal their reference, character by character.", PERCENT
    ),
    **{
        f"bleu_{order}": MetricInfo(
            f"BLEU-{order}",
            f"BLEU-{order} of captions: how many runs of up to {order} words, case and punctuation aside, stand in "
            "some reference too, less when the outputs are too short. 0 is worst, 100 best.",
        )
        for order in (1, 2, 3, 4)
    },
    "rouge_l": MetricInfo(
        "ROUGE-L",
        "ROUGE-L measures the longest row of words, gaps allowed, that an output shares with a reference. "
        "0 is worst, 100 best.",
    ),
    "meteor": MetricInfo(
        "METEOR (without synonyms)",
        "METEOR pairs words with the same stem, weighs the words found in the reference most, and lowers the score "
        "when they come in many pieces. 0 is worst, 100 best.",
    ),
    "cider_d": MetricInfo(
        "CIDEr-D",
        "CIDEr-D compares runs of one to four words and lets those count most that few pictures have in their "
        "references: saying what is special pays. 0 is worst; good captions score around 100.",
    ),
    "vqa_accuracy": MetricInfo(
        "VQA accuracy", "An answer is wholly right if three of the other people asked gave it, too.", PERCENT
    ),
    "multiple_choice": MetricInfo(
        "Multiple choice", "The share of questions of whose candidates the right one was the likeliest.", PERCENT
    ),
    "wups@0.9": MetricInfo(
        "WUPS at 0.9",
        "Right answers, and nearly as right those that WordNet puts next to them: what means the same counts.",
        PERCENT,
    ),
    "wups@0.0": MetricInfo(
        "WUPS at 0.0",
        "As right as an answer is near the right one in WordNet, which puts kinds of one thing together: 'armchair' "
        "for 'sofa' is mostly right.",
        PERCENT,
    ),
    **{
        f"distinct_{order}": MetricInfo(
            f"Distinct-{order}",
            f"The share of all {('words', 'word pairs')[order - 1]} written that are different ones: low where a model "
            "repeats itself.",
            PERCENT,
        )
        for order in (1, 2)
    },
    "length_ratio": MetricInfo(
        "Length ratio", "Words written over words of the references; 1 is equal length.", digits=2
    ),
    "accuracy": MetricInfo("Accuracy", "The share of examples with the right answer.", PERCENT),
    "mse": MetricInfo(
        "Mean squared error", "The mean of the squared distance from the target; lower is better.", "", False, 4
    ),
    "perplexity": MetricInfo(
        "Perplexity",
        "Between how many equally likely words the model hesitates at each step; lower is better.",
        higher_is_better=False,
    ),
    "loss": MetricInfo(
        "Loss", "Cross-entropy: the mean of −log p of what comes next, in nats; lower is better.", "", False, 3
    ),
    "bits_per_character": MetricInfo(
        "Bits per character",
        "The loss in bits: what the best code that knows the model needs for a character; lower is better.",
        "",
        False,
        3,
    ),
}


def metric_info(name: str) -> MetricInfo:
    """Returns the display settings of a score; of an unknown one, settings derived from its name."""
    return METRIC_INFO.get(name) or MetricInfo(name.replace("_", " ").capitalize())


METRICS: dict[str, Callable[[], CorpusMetric]] = {
    "bleu": Bleu,
    "chrf": ChrF,
    "chrf++": ChrFPlusPlus,
    "ter": Ter,
    "exact_match": ExactMatch,
    **{f"bleu_{order}": partial(CaptionBleu, order) for order in (1, 2, 3, 4)},
    "rouge_l": RougeL,
    "meteor": Meteor,
    "cider_d": CiderD,
    "accuracy": AnswerAccuracy,
    "vqa_accuracy": VqaAccuracy,
    **{f"wups@{threshold}": partial(Wups, threshold) for threshold in (0.9, 0.0)},
    **{f"distinct_{order}": partial(Distinct, order) for order in (1, 2)},
    "length_ratio": LengthRatio,
}


def make_metric(name: str) -> CorpusMetric:
    """Returns a new metric; raises `UserError` for a name that is not in `METRICS`."""
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}: it may be {listing(METRICS)}.{did_you_mean(name, METRICS)}")
    return METRICS[name]()


def score(names: Iterable[str], predictions: Texts, references: References) -> dict[str, Any]:
    """Scores a corpus by several metrics.

    Args:
        names: names in `METRICS`.
        predictions: texts to score.
        references: one reference per prediction, in the same order, or a list of several.

    Returns:
        The score under each name, in the units of its metric (most from 0 to 100), and under "signatures" the settings
        of metrics that have any:
        `{"bleu": 34.1, "exact_match": 12.0, "signatures": {"bleu": "nrefs:1|case:mixed|…"}}`.

    Raises:
        UserError: a name is unknown, predictions and references do not pair up, or a metric needs more references.
    """
    check_pairs(predictions, references)
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    metrics = {name: make_metric(name) for name in names}
    for name, metric in metrics.items():
        result = metric.compute(predictions=list(predictions), references=list(references))
        scores[name] = result[name]
        if "signature" in result:
            signatures[name] = result["signature"]
    return {**scores, "signatures": signatures}
