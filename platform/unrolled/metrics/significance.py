"""How far a score could have come out otherwise: confidence intervals by resampling sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unrolled.errors import UserError
from unrolled.metrics.text import check_pairs, text_metric


def mean_interval(values: Sequence[float], samples: int = 1000, seed: int = 1) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the mean of independent values by bootstrap resampling (Efron 1979).

    Args:
        values: one an example.
        samples: how often as many are drawn anew, with replacement.
        seed: of the draws; the same seed gives the same interval.
    """
    generator, known = np.random.default_rng(seed), np.asarray(values)
    means = [known[generator.integers(len(known), size=len(known))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_interval(
    name: str, predictions: Sequence[str], references: Sequence[str], samples: int = 1000, seed: int = 1
) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a corpus score by bootstrap resampling.

    Koehn, Statistical Significance Tests for Machine Translation Evaluation, 2004.  The corpus is drawn anew
    `samples` times, each time as many sentences as it has, with replacement; 2.5 % of the scores of these
    corpora lie below the interval and 2.5 % above.  Sentences are compared with their references once: a
    drawn corpus is scored from the sum of its sentences' statistics.

    Args:
        name: A name in `unrolled.metrics.METRICS`.
        predictions: The texts to score.
        references: One reference text to each prediction, in the same order.
        samples: How many corpora are drawn.
        seed: Of the draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end, in the units of the metric.

    Raises:
        UserError: The name is unknown, predictions and references do not pair up, or there is no sample.
    """
    check_pairs(predictions, references)
    if samples < 1:
        raise UserError(f"A bootstrap interval needs at least 1 sample, not {samples}.")
    metric = text_metric(name)
    statistics = metric.sentence_statistics(predictions, references)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(statistics), size=len(statistics)) for _ in range(samples))
    scores = [metric.from_statistics(statistics[draw].sum(axis=0)) for draw in draws]
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
