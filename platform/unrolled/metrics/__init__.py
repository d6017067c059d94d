"""Metrics of generated text and the certainty of their values; all work offline."""

from __future__ import annotations

from unrolled.metrics.answers import AnswerAccuracy, ExactMatch, VqaAccuracy, Wups, normalised_answer, wordnet_folder
from unrolled.metrics.base import CorpusMetric, References, SummedMetric, grouped
from unrolled.metrics.captioning import CaptionBleu, CiderD, CiderReward, Meteor, RougeL
from unrolled.metrics.likelihood import BitsPerCharacter, Perplexity
from unrolled.metrics.registry import METRICS, Metric, metric, score
from unrolled.metrics.significance import (
    Comparison,
    bootstrap_interval,
    compact_letters,
    compare,
    holm,
    mean_interval,
    paired_bootstrap,
    randomization,
    share_interval,
)
from unrolled.metrics.translation import Bleu, ChrF, ChrFPlusPlus, Ter
from unrolled.metrics.words import Distinct, LengthRatio

__all__ = [
    "METRICS",
    "AnswerAccuracy",
    "BitsPerCharacter",
    "Bleu",
    "CaptionBleu",
    "ChrF",
    "ChrFPlusPlus",
    "CiderD",
    "CiderReward",
    "Comparison",
    "CorpusMetric",
    "Distinct",
    "ExactMatch",
    "LengthRatio",
    "Meteor",
    "Metric",
    "Perplexity",
    "References",
    "RougeL",
    "SummedMetric",
    "Ter",
    "VqaAccuracy",
    "Wups",
    "bootstrap_interval",
    "compact_letters",
    "compare",
    "grouped",
    "holm",
    "mean_interval",
    "metric",
    "normalised_answer",
    "paired_bootstrap",
    "randomization",
    "score",
    "share_interval",
    "wordnet_folder",
]
