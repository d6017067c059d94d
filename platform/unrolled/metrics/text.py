"""The scores of generated texts against references, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from unrolled.errors import UserError, listing, nearest
from unrolled.metrics.answers import AnswerAccuracy, ExactMatch, VqaAccuracy
from unrolled.metrics.base import CorpusMetric, References, Texts, check_pairs
from unrolled.metrics.captioning import CaptionBleu, RougeL
from unrolled.metrics.cider import CiderD
from unrolled.metrics.meteor import Meteor
from unrolled.metrics.translation import Bleu, ChrF, ChrFPlusPlus, Ter
from unrolled.metrics.words import Distinct, LengthRatio
from unrolled.metrics.wups import Wups

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


def text_metric(name: str) -> CorpusMetric:
    """Returns a new metric of that name; raises `UserError` for a name that `METRICS` has not."""
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}: it may be {listing(METRICS)}.{nearest(name, METRICS)}")
    return METRICS[name]()


def score(names: Iterable[str], predictions: Texts, references: References) -> dict[str, Any]:
    """Scores a corpus by several metrics.

    Args:
        names: Names in `METRICS`.
        predictions: The texts to score.
        references: One reference text to each prediction, in the same order, or a list of several to each.

    Returns:
        The score under each name, in the units of its metric (most from 0 to 100), and under "signatures" how
        those came about that others could compute otherwise:
        `{"bleu": 34.1, "exact_match": 12.0, "signatures": {"bleu": "nrefs:1|case:mixed|…"}}`.

    Raises:
        UserError: A name is unknown, predictions and references do not pair up, or a metric needs more
            references.
    """
    check_pairs(predictions, references)
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    for name, metric in {name: text_metric(name) for name in names}.items():
        result = metric.compute(predictions=list(predictions), references=list(references))
        scores[name] = result[name]
        if "signature" in result:
            signatures[name] = result["signature"]
    return {**scores, "signatures": signatures}
