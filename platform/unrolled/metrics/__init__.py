"""Metrics of generated text, confidence intervals and significance tests; all work offline."""

from __future__ import annotations

from unrolled.metrics.answers import (
    MIN_ANSWERS,
    WORDNET_VARIABLE,
    AnswerAccuracy,
    ExactMatch,
    VqaAccuracy,
    WordNetNouns,
    Wups,
    normalize_vqa_answer,
    word_similarity,
    wordnet_folder,
    wordnet_nouns,
)
from unrolled.metrics.base import CorpusMetric, References, SummedMetric, as_reference_lists
from unrolled.metrics.captioning import (
    TOKENIZER_SIGNATURE,
    CaptionBleu,
    CiderD,
    CiderReward,
    Meteor,
    RougeL,
    tokenize_caption,
)
from unrolled.metrics.language_modeling import BitsPerCharacter, Distinct, LengthRatio, Perplexity
from unrolled.metrics.registry import METRIC_INFO, METRICS, MetricInfo, metric_info, score
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

__all__ = [
    "METRICS",
    "METRIC_INFO",
    "MIN_ANSWERS",
    "TOKENIZER_SIGNATURE",
    "WORDNET_VARIABLE",
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
    "WordNetNouns",
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
    "tokenize_caption",
    "word_similarity",
    "wordnet_folder",
    "wordnet_nouns",
]
