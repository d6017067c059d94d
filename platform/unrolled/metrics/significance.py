"""Confidence intervals and significance tests.

Many comparisons at once: Holm's correction, and letters that say which systems differ.

How far scores could have come out otherwise: confidence intervals and tests by resampling sentences.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import UserError
from unrolled.metrics.base import References, Statistics, SummedMetric, Texts, check_pairs
from unrolled.metrics.registry import make_metric, metric_info

LETTERS = string.ascii_letters + "αβγδεζηθικλμνξοπρστυφχψω"


def holm_correction(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the p-values of all pairs, corrected for their number (Holm 1979).

    The smallest is multiplied by the number of pairs, the next by one less, and so on; none becomes smaller than
    one before it or larger than 1.  A pair whose corrected p is at most 5 % differs; the chance that any pair is
    called different wrongly is then 5 % in all.

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
    """Returns significance letters: systems that share a letter do not differ, those that share none do.

    Piepho, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons, 2004 (insert, absorb and
    sweep).  Letters go from the best system down: the best has an ``a``.

    Args:
        different: whether two systems differ significantly, `(systems, systems)`, symmetric.
        merits: the larger, the better, `(systems,)`.

    Raises:
        UserError: More letters are needed than there are.
    """
    order = [int(place) for place in np.argsort(-np.asarray(merits, dtype=np.float64), kind="stable")]
    groups = _swept(_alike(different))
    if len(groups) > len(LETTERS):
        raise UserError(f"{len(groups)} significance letters are needed; there are {len(LETTERS)}.")
    groups.sort(key=lambda group: [place for place, system in enumerate(order) if system in group])
    return [
        "".join(letter for letter, group in zip(LETTERS, groups, strict=False) if system in group)
        for system in range(len(order))
    ]


def _alike(different: NDArray[np.bool_]) -> list[frozenset[int]]:
    """Returns the largest groups of systems of which no two differ."""
    groups = [frozenset(range(len(different)))]
    for one, other in zip(*np.nonzero(np.triu(different, k=1)), strict=True):
        parted: set[frozenset[int]] = set()
        for group in groups:
            parted |= {group - {int(one)}, group - {int(other)}} if {one, other} <= group else {group}
        groups = [group for group in parted if not any(group < wider for wider in parted)]
    return groups


def _swept(groups: list[frozenset[int]]) -> list[frozenset[int]]:
    """Returns the groups without those whose pairs, and whose systems, stand together in others too."""
    kept = sorted(groups, key=lambda group: (len(group), sorted(group)))
    for group in list(kept):
        others = [other for other in kept if other is not group]
        if all(any({one, other} <= wider for wider in others) for one in group for other in group):
            kept = others
    return kept


SAMPLES = 1000
"""Corpora that a bootstrap draws."""
SHUFFLES = 10_000
"""Exchanges of a randomization test: no p is below 1 / (SHUFFLES + 1), and Holm multiplies it by up to all pairs."""
BLOCK = 2**22  # numbers of a block of draws: bounds memory whatever the corpus
EQUAL = 1e-9  # differences of scores (0 to 100) up to this are rounding


def mean_interval(values: Sequence[float], samples: int = SAMPLES, seed: int = 1) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the mean of independent values by bootstrap resampling (Efron 1979).

    Args:
        values: one an example.
        samples: how often as many are drawn anew, with replacement.
        seed: of the draws; the same seed gives the same interval.
    """
    known = np.asarray(values, dtype=np.float64)
    low, high = _interval(_bootstrap(known[:, None], samples, seed)[:, 0] / len(known))
    return low, high


def paired_bootstrap_test(one: Sequence[float], other: Sequence[float], samples: int = 10_000, seed: int = 1) -> float:
    """Returns the two-sided p-value of the paired bootstrap test of two systems (Koehn 2004): examples are drawn anew,
    and p is twice how often the mean that is better on all of them is not better on those drawn.

    Args:
        one, other: scores of each system, one an example, in the same order.
        samples: how often as many examples are drawn, with replacement.
        seed: of the draws.
    """
    apart = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    if apart.mean() < 0:
        apart = -apart
    drawn = _bootstrap(apart[:, None], samples, seed)[:, 0]
    return min(1.0, 2 * (float((drawn <= EQUAL).sum()) + 1) / (samples + 1))


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share (Wilson 1927), which is honest at 0 and at 1 too."""
    z = 1.959964
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap_interval(
    name: str, predictions: Texts, references: References, samples: int = SAMPLES, seed: int = 1
) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a corpus score by bootstrap resampling.

    Koehn, Statistical Significance Tests for Machine Translation Evaluation, 2004.  The corpus is drawn anew
    `samples` times, each time as many sentences as it has, with replacement; 2.5 % of the scores of these
    corpora lie below the interval and 2.5 % above.  Sentences are compared with their references once: a
    drawn corpus is scored from the sum of its sentences' statistics.

    Args:
        name: A name in `unrolled.metrics.METRICS`.
        predictions: The texts to score.
        references: One reference text to each prediction, in the same order, or a list of several to each.
        samples: How many corpora are drawn.
        seed: Of the draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end, in the units of the metric.

    Raises:
        UserError: The name is unknown or its score no function of sums over sentences, predictions and
            references do not pair up, or there is no sample.
    """
    check_pairs(predictions, references)
    _check_samples("A bootstrap interval", samples)
    metric = _summed(name)
    statistics = metric.sentence_statistics(predictions, references)
    return _interval(metric.from_statistics(_bootstrap(statistics, samples, seed)))


@dataclass(frozen=True)
class Comparison:
    """Several systems on the same examples, by one metric.

    Attributes:
        systems: their names.
        scores: `(systems,)`.
        intervals: lower and upper end of the 95 % bootstrap interval of each score, `(systems, 2)`.
        p_values: of the paired approximate randomization test of every two systems, not corrected for their
            number, `(systems, systems)`, symmetric, 1 on the diagonal.
        higher_is_better: which score is the better one.
    """

    systems: tuple[str, ...]
    scores: NDArray[np.float64]
    intervals: NDArray[np.float64]
    p_values: NDArray[np.float64]
    higher_is_better: bool

    def corrected(self) -> NDArray[np.float64]:
        """Returns the p-values corrected by Holm for the number of pairs, `(systems, systems)`."""
        return holm_correction(self.p_values)

    def letters(self, level: float = 0.05) -> dict[str, str]:
        """Returns each system's significance letters, ``a`` for the best: two that share a letter do not differ
        significantly at `level`, after Holm's correction; two that share none do."""
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
    """Compares systems that wrote outputs for the same inputs.

    Every two of them are tested by approximate randomization (Noreen 1989; Riezler and Maxwell 2005), in pairs:
    if it made no difference which system wrote a sentence, exchanging the outputs of a random half of the
    sentences would move the scores as far apart as they are quite often.  p is how often it did,
    (times + 1) / (shuffles + 1), two-sided.  The same draws serve all systems.

    Args:
        name: A name in `unrolled.metrics.METRICS`.
        outputs: The texts of each system, in the order of the references.
        references: One reference text to each output, or a list of several to each.
        samples: How many corpora a bootstrap interval draws.
        shuffles: How many exchanges a test makes.
        seed: Of all draws.

    Raises:
        UserError: As for `bootstrap_interval`, or there is no system.
    """
    _check_samples("A bootstrap interval", samples)
    _check_samples("A randomization test", shuffles)
    if not outputs:
        raise UserError("There are no systems to compare: at least one is needed.")
    for texts in outputs.values():
        check_pairs(texts, references)
    metric = _summed(name)
    statistics = np.stack([metric.sentence_statistics(texts, references) for texts in outputs.values()], axis=1)
    drawn = metric.from_statistics(_bootstrap(statistics, samples, seed))
    return Comparison(
        tuple(outputs),
        metric.from_statistics(statistics.sum(axis=0)),
        np.percentile(drawn, [2.5, 97.5], axis=0).T,
        randomization_test(metric.from_statistics, statistics, shuffles, seed),
        metric_info(name).higher_is_better,
    )


def randomization_test(
    score: Callable[[Statistics], Statistics], statistics: Statistics, shuffles: int = SHUFFLES, seed: int = 1
) -> NDArray[np.float64]:
    """Returns the p-value of the paired approximate randomization test of every two systems.

    Args:
        score: From summed statistics, `(…, statistics)`, to scores, `(…)`.
        statistics: Of every sentence of every system, `(sentences, systems, statistics)`.
        shuffles: How many exchanges are made.
        seed: Of the exchanges.

    Returns:
        `(systems, systems)`, symmetric, 1 on the diagonal.
    """
    totals = statistics.sum(axis=0)
    scores = score(totals)
    generator = np.random.default_rng(seed)

    def exchanges(count: int, sentences: int) -> NDArray[np.float64]:
        return generator.integers(2, size=(count, sentences), dtype=np.uint8).astype(np.float64)

    # What each system gives away in each shuffle: the scores of a pair follow from this and the totals.
    given = _drawn_sums(exchanges, statistics, shuffles)
    p_values = np.ones((len(totals), len(totals)))
    for one, other in itertools.combinations(range(len(totals)), 2):
        moved = given[:, other] - given[:, one]
        apart = np.abs(score(totals[one] + moved) - score(totals[other] - moved))
        times = int((apart >= abs(scores[one] - scores[other]) - EQUAL).sum())
        p_values[one, other] = p_values[other, one] = (times + 1) / (shuffles + 1)
    return p_values


def _bootstrap(statistics: Statistics, samples: int, seed: int) -> Statistics:
    """Returns the summed statistics of drawn corpora, `(samples, …)`, of those of sentences, `(sentences, …)`."""
    generator = np.random.default_rng(seed)

    def counts(count: int, sentences: int) -> NDArray[np.float64]:
        drawn = generator.integers(sentences, size=(count, sentences))
        drawn += sentences * np.arange(count)[:, None]
        return np.bincount(drawn.ravel(), minlength=count * sentences).reshape(count, sentences).astype(np.float64)

    return _drawn_sums(counts, statistics, samples)


def _drawn_sums(
    draw: Callable[[int, int], NDArray[np.float64]], statistics: Statistics, samples: int
) -> NDArray[np.float64]:
    """Returns the statistics summed over sentences, each as often as `draw(samples, sentences)` says."""
    sentences = len(statistics)
    flat = statistics.reshape(sentences, -1)
    sums = [draw(count, sentences) @ flat for count in _blocks(samples, max(1, BLOCK // sentences))]
    return np.concatenate(sums).reshape(samples, *statistics.shape[1:])


def _blocks(total: int, largest: int) -> Iterator[int]:
    """Yields counts up to `largest` that add up to `total`."""
    for start in range(0, total, largest):
        yield min(largest, total - start)


def _interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _summed(name: str) -> SummedMetric:
    metric = make_metric(name)
    if not isinstance(metric, SummedMetric):
        raise UserError(f"{name} is no function of sums over sentences, so resampling sentences says nothing of it.")
    return metric


def _check_samples(what: str, samples: int) -> None:
    if samples < 1:
        raise UserError(f"{what} needs at least 1 sample, not {samples}.")
