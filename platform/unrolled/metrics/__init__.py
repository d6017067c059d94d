"""Metrics of generated text and the certainty of their values; all work offline."""

from __future__ import annotations

from unrolled.metrics.answers import AnswerAccuracy, ExactMatch, VqaAccuracy, Wups, normalize_vqa_answer, wordnet_folder
from unrolled.metrics.base import CorpusMetric, References, SummedMetric, as_reference_lists
from unrolled.metrics.captioning import CaptionBleu, CiderD, CiderReward, Meteor, RougeL
from unrolled.metrics.likelihood import BitsPerCharacter, Perplexity
from unrolled.metrics.registry import METRICS, MetricInfo, metric_info, score
from unrolled.metrics.significance import (
    Comparison,
    bootstrap_interval,
    compact_letter_display,
    compare,
    holm_correction,
    mean_interval,
    paired_bootstrap_test,
    proportion_interval,
    randomization_test,
)
from unrolled.metrics.translation import Bleu, ChrF, ChrFPlusPlus, Ter, pairwise_scores
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
    "MetricInfo",
    "Perplexity",
    "References",
    "RougeL",
    "SummedMetric",
    "Ter",
    "VqaAccuracy",
    "Wups",
    "as_reference_lists",
    "bootstrap_interval",
    "compact_letter_display",
    "compare",
    "holm_correction",
    "mean_interval",
    "metric_info",
    "normalize_vqa_answer",
    "paired_bootstrap_test",
    "pairwise_scores",
    "proportion_interval",
    "randomization_test",
    "score",
    "wordnet_folder",
]
