"""Confidence intervals and significance tests.

Corpora are resampled by NumPy rather than by `scipy.stats.bootstrap` and `permutation_test`: all systems share the
draws, and the sums of drawn corpora are one matrix product, so 10,000 exchanges of 1,000 sentences take a thirtieth of
the time; and a corpus of a single sentence is allowed.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from unrolled.errors import UserError
from unrolled.metrics.base import References, Statistics, SummedMetric, Texts, check_pairs
from unrolled.metrics.registry import make_metric, metric_info

SAMPLES = 1000
"""Default number of bootstrap samples."""
SHUFFLES = 10_000
"""Default number of exchanges of a randomization test. No p-value is below 1 / (SHUFFLES + 1), and Holm's correction
multiplies it by up to the number of pairs."""
LETTERS = string.ascii_letters + "αβγδεζηθικλμνξοπρστυφχψω"
BLOCK = 2**22  # random numbers drawn at a time, which bounds memory for large corpora
TOLERANCE = 1e-9  # differences of scores (0 to 100) up to this are rounding errors


@dataclass(frozen=True)
class Comparison:
    """Several systems on the same examples, by one metric.

    Attributes:
        systems: their names.
        scores: `(systems,)`.
        intervals: lower and upper end of the 95 % bootstrap interval of each score, `(systems, 2)`.
        p_values: of the paired approximate randomization test of each pair of systems, without correction for multiple
            tests, `(systems, systems)`, symmetric, 1 on the diagonal.
        higher_is_better: direction of the metric.
    """

    systems: tuple[str, ...]
    scores: NDArray[np.float64]
    intervals: NDArray[np.float64]
    p_values: NDArray[np.float64]
    higher_is_better: bool

    def corrected(self) -> NDArray[np.float64]:
        """Returns the p-values after Holm's correction, `(systems, systems)`."""
        return holm_correction(self.p_values)

    def letters(self, level: float = 0.05) -> dict[str, str]:
        """Returns the compact letter display of the systems, ``a`` for the best: two systems without a common letter
        differ significantly at `level` after Holm's correction."""
        merits = self.scores if self.higher_is_better else -self.scores
        return dict(zip(self.systems, compact_letter_display(self.corrected() <= level, merits), strict=True))


def compare(
    name: str,
    outputs: Mapping[str, Texts],
    references: References,
    samples: int = SAMPLES,
    shuffles: int = SHUFFLES,
    seed: int = 1,
) -> Comparison:
    """Compares systems by their outputs for the same inputs.

    Args:
        name: a name in `unrolled.metrics.METRICS`.
        outputs: texts of each system, in the order of the references.
        references: one reference per output, or a list of several.
        samples: number of bootstrap samples per interval.
        shuffles: number of exchanges per test; see `randomization_test`.
        seed: of all draws.

    Raises:
        UserError: as for `bootstrap_interval`, or there is no system.
    """
    _check_samples("A bootstrap interval", samples)
    _check_samples("A randomization test", shuffles)
    if not outputs:
        raise UserError("There are no systems to compare: at least one is needed.")
    for texts in outputs.values():
        check_pairs(texts, references)
    metric = _summed_metric(name)
    statistics = np.stack([metric.sentence_statistics(texts, references) for texts in outputs.values()], axis=1)
    resampled = metric.from_statistics(_bootstrap_sums(statistics, samples, seed))
    return Comparison(
        tuple(outputs),
        metric.from_statistics(statistics.sum(axis=0)),
        np.percentile(resampled, [2.5, 97.5], axis=0).T,
        randomization_test(metric.from_statistics, statistics, shuffles, seed),
        metric_info(name).higher_is_better,
    )


def bootstrap_interval(
    name: str, predictions: Texts, references: References, samples: int = SAMPLES, seed: int = 1
) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a corpus score by bootstrap resampling (percentile method).

    Koehn, Statistical Significance Tests for Machine Translation Evaluation, 2004. Each of the `samples` corpora has as
    many sentences as the original, drawn with replacement. Sentences are compared with their references once: a drawn
    corpus is scored from the sum of its sentences' statistics.

    Args:
        predictions: texts to score.
        seed: of the draws; equal seeds give equal intervals. Other arguments as in `compare`.

    Returns:
        The lower and the upper end, in the units of the metric.

    Raises:
        UserError: the name is unknown or not that of a `SummedMetric`, predictions and references do not pair up, or
            `samples` is below 1.
    """
    check_pairs(predictions, references)
    _check_samples("A bootstrap interval", samples)
    metric = _summed_metric(name)
    statistics = metric.sentence_statistics(predictions, references)
    return _percentile_interval(metric.from_statistics(_bootstrap_sums(statistics, samples, seed)))


def mean_interval(values: Sequence[float], samples: int = SAMPLES, seed: int = 1) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the mean of independent values by bootstrap resampling (Efron 1979).

    Args:
        values: one per example.
        samples: number of bootstrap samples.
        seed: of the draws; equal seeds give equal intervals.
    """
    array = np.asarray(values, dtype=np.float64)
    return _percentile_interval(_bootstrap_sums(array[:, None], samples, seed)[:, 0] / len(array))


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % confidence interval of a proportion (1927), which is valid near 0 and 1 too."""
    interval = binomtest(int(count), total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def paired_bootstrap_test(one: Sequence[float], other: Sequence[float], samples: int = 10_000, seed: int = 1) -> float:
    """Returns the two-sided p-value of the paired bootstrap test of two systems (Koehn 2004): twice the proportion of
    bootstrap samples in which the system with the better mean is not better.

    Args:
        one, other: scores of each system, one per example, in the same order.
        samples: number of bootstrap samples.
        seed: of the draws.
    """
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    if differences.mean() < 0:
        differences = -differences
    sums = _bootstrap_sums(differences[:, None], samples, seed)[:, 0]
    return min(1.0, 2 * (float((sums <= TOLERANCE).sum()) + 1) / (samples + 1))


def randomization_test(
    score: Callable[[Statistics], Statistics], statistics: Statistics, shuffles: int = SHUFFLES, seed: int = 1
) -> NDArray[np.float64]:
    """Returns the two-sided p-value of the paired approximate randomization test of each pair of systems.

    Noreen 1989; Riezler and Maxwell 2005. If it made no difference which system wrote a sentence, exchanging the
    outputs of a random half of the sentences would often move the scores as far apart as they are: in `times` of all
    shuffles, so that p = (times + 1) / (shuffles + 1). All pairs share the draws.

    Args:
        score: maps summed statistics `(…, statistics)` to scores `(…)`.
        statistics: of every sentence of every system, `(sentences, systems, statistics)`.
        shuffles: number of exchanges.
        seed: of the draws.

    Returns:
        `(systems, systems)`, symmetric, 1 on the diagonal.
    """
    totals = statistics.sum(axis=0)
    scores = score(totals)
    generator = np.random.default_rng(seed)

    def exchanges(count: int, sentences: int) -> NDArray[np.float64]:
        return generator.integers(2, size=(count, sentences), dtype=np.uint8).astype(np.float64)

    # The statistics that each system gives away in each shuffle; the scores of a pair follow from these and the totals.
    given = _weighted_sums(exchanges, statistics, shuffles)
    p_values = np.ones((len(totals), len(totals)))
    for one, other in itertools.combinations(range(len(totals)), 2):
        moved = given[:, other] - given[:, one]
        differences = np.abs(score(totals[one] + moved) - score(totals[other] - moved))
        times = int((differences >= abs(scores[one] - scores[other]) - TOLERANCE).sum())
        p_values[one, other] = p_values[other, one] = (times + 1) / (shuffles + 1)
    return p_values


def _bootstrap_sums(statistics: Statistics, samples: int, seed: int) -> Statistics:
    """Returns the summed statistics of bootstrap samples `(samples, …)`, given those of sentences `(sentences, …)`."""
    generator = np.random.default_rng(seed)

    def counts(count: int, sentences: int) -> NDArray[np.float64]:
        drawn = generator.integers(sentences, size=(count, sentences))
        drawn += sentences * np.arange(count)[:, None]
        return np.bincount(drawn.ravel(), minlength=count * sentences).reshape(count, sentences).astype(np.float64)

    return _weighted_sums(counts, statistics, samples)


def _weighted_sums(
    draw: Callable[[int, int], NDArray[np.float64]], statistics: Statistics, samples: int
) -> NDArray[np.float64]:
    """Returns sums of the statistics over sentences, weighted by `draw(samples, sentences)`; drawn in blocks."""
    sentences = len(statistics)
    flat, size = statistics.reshape(sentences, -1), max(1, BLOCK // sentences)
    sums = [draw(min(size, samples - start), sentences) @ flat for start in range(0, samples, size)]
    return np.concatenate(sums).reshape(samples, *statistics.shape[1:])


def _percentile_interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _summed_metric(name: str) -> SummedMetric:
    metric = make_metric(name)
    if not isinstance(metric, SummedMetric):
        raise UserError(f"{name} is no function of sums over sentences, so resampling sentences says nothing of it.")
    return metric


def _check_samples(what: str, samples: int) -> None:
    if samples < 1:
        raise UserError(f"{what} needs at least 1 sample, not {samples}.")


def holm_correction(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the p-values of all pairs, corrected for their number (Holm 1979).

    The smallest is multiplied by the number of pairs, the next by one less, and so on; none becomes smaller than
    a preceding one or larger than 1. If pairs with a corrected p of at most 5 % are called different, the probability
    of any false difference is 5 % in all.

    Args:
        p_values: `(systems, systems)`, symmetric.

    Returns:
        `(systems, systems)`, symmetric, 1 on the diagonal.
    """
    rows, columns = np.triu_indices(len(p_values), k=1)
    pairs = p_values[rows, columns]
    order = np.argsort(pairs)
    factors = np.arange(len(pairs), 0, -1)
    corrected = np.ones_like(p_values, dtype=np.float64)
    ranked = np.minimum(np.maximum.accumulate(pairs[order] * factors), 1.0)
    corrected[rows[order], columns[order]] = corrected[columns[order], rows[order]] = ranked
    return corrected


def compact_letter_display(different: NDArray[np.bool_], merits: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """Returns significance letters: two systems share a letter exactly if they do not differ.

    Piepho, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons, 2004 (insert, absorb and
    sweep). Letters are assigned from the best system down: the best has an ``a``.

    Args:
        different: whether two systems differ significantly, `(systems, systems)`, symmetric.
        merits: the larger, the better, `(systems,)`.

    Raises:
        UserError: more letters are needed than there are.
    """
    order = [int(place) for place in np.argsort(-np.asarray(merits, dtype=np.float64), kind="stable")]
    groups = _sweep(_insert_and_absorb(different))
    if len(groups) > len(LETTERS):
        raise UserError(f"{len(groups)} significance letters are needed; there are {len(LETTERS)}.")
    groups.sort(key=lambda group: [place for place, system in enumerate(order) if system in group])
    return [
        "".join(letter for letter, group in zip(LETTERS, groups, strict=False) if system in group)
        for system in range(len(order))
    ]


def _insert_and_absorb(different: NDArray[np.bool_]) -> list[frozenset[int]]:
    """Returns the maximal groups of systems of which no two differ."""
    groups = [frozenset(range(len(different)))]
    for one, other in zip(*np.nonzero(np.triu(different, k=1)), strict=True):
        split: set[frozenset[int]] = set()
        for group in groups:
            split |= {group - {int(one)}, group - {int(other)}} if {one, other} <= group else {group}
        groups = [group for group in split if not any(group < larger for larger in split)]
    return groups


def _sweep(groups: list[frozenset[int]]) -> list[frozenset[int]]:
    """Returns the groups without redundant ones, all of whose systems and pairs are in other groups too."""
    needed = sorted(groups, key=lambda group: (len(group), sorted(group)))
    for group in list(needed):
        others = [other for other in needed if other is not group]
        if all(any({one, other} <= larger for larger in others) for one in group for other in group):
            needed = others
    return needed
