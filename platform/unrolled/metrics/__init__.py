"""Metrics of generated text and the certainty of their values; all work offline."""

from __future__ import annotations

from unrolled.metrics.named import Metric, metric
from unrolled.metrics.significance import bootstrap_interval, mean_interval
from unrolled.metrics.text import METRICS, Bleu, ChrF, ExactMatch, TextMetric, higher_is_better, score

__all__ = [
    "METRICS",
    "Bleu",
    "ChrF",
    "ExactMatch",
    "Metric",
    "TextMetric",
    "bootstrap_interval",
    "higher_is_better",
    "mean_interval",
    "metric",
    "score",
]
