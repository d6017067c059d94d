"""How sure a sweep can be: intervals of means and of differences, and a test of two groups of points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from unrolled.metrics import mean_interval

FEW = 10
"""Below so many values an interval is Student's: a bootstrap of 3 values never leaves their range and holds their
mean in 3 cases of 4, not in 95 of 100."""
SHUFFLES = 10_000
Interval = tuple[float, float]


def interval_of_mean(values: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of the mean of independent values: by bootstrap (Efron 1979), by Student's t where
    they are few; None for a single one."""
    if len(values) < 2:
        return None
    if len(values) >= FEW:
        return mean_interval(values)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return mean - reach, mean + reach


def interval_of_difference(one: Sequence[float], other: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of mean(one) − mean(other) of two independent groups: by bootstrap, by Welch's t where
    either is small; None where either has less than two values."""
    if min(len(one), len(other)) < 2:
        return None
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    difference = float(first.mean() - second.mean())
    if min(len(one), len(other)) >= FEW:
        generator = np.random.default_rng(1)
        drawn = (_resampled(first, generator) - _resampled(second, generator)).tolist()
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)
    parts = [float(group.var(ddof=1)) / len(group) for group in (first, second)]
    total = sum(parts)
    if total == 0:
        return difference, difference
    freedom = total**2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, (first, second), strict=True))
    reach = float(t.ppf(0.975, freedom)) * math.sqrt(total)
    return difference - reach, difference + reach


def p_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns how often chance alone moves the means of two independent groups as far apart: a permutation test,
    (times + 1) / (SHUFFLES + 1), two-sided, not corrected for the number of pairs."""
    both = np.asarray([*one, *other], dtype=np.float64)
    generator = np.random.default_rng(1)
    drawn = generator.permuted(np.tile(both, (SHUFFLES, 1)), axis=1)
    apart = np.abs(drawn[:, : len(one)].mean(axis=1) - drawn[:, len(one) :].mean(axis=1))
    observed = abs(float(np.mean(one)) - float(np.mean(other)))
    rounding = 1e-12 * float(np.abs(both).max(initial=1.0))
    return (int((apart >= observed - rounding).sum()) + 1) / (SHUFFLES + 1)


def _resampled(values: np.ndarray, generator: np.random.Generator, samples: int = 1000) -> np.ndarray:
    """Returns the means of `samples` groups drawn anew with replacement, `(samples,)`."""
    means: np.ndarray = generator.choice(values, (samples, len(values))).mean(axis=1)
    return means
