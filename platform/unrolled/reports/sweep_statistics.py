"""Statistics of a sweep: intervals, tests, comparisons of values, divergence and importance of parameters.

Only points that trained equally long stand in one comparison. Importance is fANOVA (Hutter, Hoos and Leyton-Brown, An
Efficient Approach for Assessing Hyperparameter Importance, 2014): a forest of regression trees learns the score from
the parameters; a parameter's importance is the share of the forest's variance over the whole space that it explains
alone.
"""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from scipy.stats import bootstrap, fisher_exact, permutation_test, ttest_1samp, ttest_ind

from unrolled.metrics import compact_letter_display, holm_correction, mean_interval, proportion_interval
from unrolled.reports.sweep_ranking import Objective, Parameter, Point, at_step, build_study, canonical, common_step
from unrolled.reports.text import LEVEL

FEW = 10
"""Intervals of fewer values are Student's: a bootstrap of 3 values never leaves their range and holds their mean in 3
cases of 4, not in 95 of 100."""
PERMUTATIONS, RESAMPLES = 10_000, 1000
Interval = tuple[float, float]


def interval_of_mean(values: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of the mean of independent values: by bootstrap (Efron 1979), by Student's t for fewer
    than `FEW`; None for a single one."""
    if len(values) < 2:
        return None
    if len(values) >= FEW:
        return mean_interval(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal values have an interval of length 0
        low, high = ttest_1samp(values, 0.0).confidence_interval()
    return float(low), float(high)


def interval_of_difference(one: Sequence[float], other: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of mean(one) − mean(other) of two independent groups: by bootstrap, by Welch's t where
    either has fewer than `FEW` values; None where either has fewer than two."""
    if min(len(one), len(other)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if min(len(one), len(other)) < FEW:
            low, high = ttest_ind(one, other, equal_var=False).confidence_interval()
        else:
            rng = np.random.default_rng(1)
            low, high = bootstrap(
                (one, other),
                lambda one, other, axis: np.mean(one, axis=axis) - np.mean(other, axis=axis),
                n_resamples=RESAMPLES,
                method="percentile",
                random_state=rng,
            ).confidence_interval
    return float(low), float(high)


def p_of_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the p-value of a permutation test of two independent groups: how often chance alone moves their means as
    far apart; two-sided, not corrected for the number of pairs."""
    rng = np.random.default_rng(1)
    options = {"n_resamples": PERMUTATIONS, "alternative": "greater", "vectorized": True, "random_state": rng}
    test = permutation_test(
        (one, other), lambda one, other, axis: np.abs(np.mean(one, axis=axis) - np.mean(other, axis=axis)), **options
    )
    return float(test.pvalue)


MIN_TESTED = 3
"""Values with fewer points are not tested."""
COMPARED_STATES = ("finished", "stopped")


@dataclass(frozen=True)
class Basis:
    """Points that may be compared, with their scores.

    Attributes:
        step: the step at which the scores are taken; None: the end of training.
        scores: scores by the point's number.
    """

    step: int | None
    scores: Mapping[int, float]

    @property
    def text(self) -> str:
        """Where the scores are taken: ``at step 100`` or ``at the end``."""
        return at_step(self.step)


def comparable_points(points: Sequence[Point], objective: Objective) -> list[Basis]:
    """Returns the points that can be compared fairly, the fairest basis first.

    Where trials were stopped early, that is all points at the last step that all of them reached: those that finished
    are the ones that led, whatever their values. The finished ones at their end come second, or alone where nothing
    was stopped. Points that diverged take no part.
    """
    step = common_step(points, objective.name)
    early: dict[int, float | None] = {}
    if step is not None:
        compared = [point for point in points if point.state in COMPARED_STATES]
        early = {point.number: point.score_at(objective.name, step) for point in compared}
    ends = {point.number: point.score(objective.name) for point in points if point.state == "finished"}
    bases = [
        Basis(at, {number: score for number, score in scores.items() if score is not None})
        for at, scores in ((step, early), (None, ends))
    ]
    return [basis for basis in bases if basis.scores]


def comparison(parameter: Parameter, points: Sequence[Point], basis: Basis, objective: Objective) -> dict[str, Any]:
    """Returns the values of `parameter` from best to worst mean.

    Returns:
        ``step`` of the basis and ``values``: rows with ``value``, ``text``, ``points``, ``best``, ``mean`` and its
        ``interval``; ``behind``, the lead of the best mean over it, with ``behind_interval`` and Holm-corrected ``p``,
        and significance ``letters``, which are None for values with fewer than `MIN_TESTED` points.
    """
    groups = _groups(parameter, points, basis)
    groups.sort(key=lambda group: objective.loss(statistics.fmean(group[1])))
    rows = [_row(parameter, value, scores, objective) for value, scores in groups]
    _add_tests(rows, [scores for _, scores in groups], objective)
    return {"step": basis.step, "values": rows}


def difference(one: Sequence[float], other: Sequence[float], objective: Objective) -> dict[str, Any]:
    """Returns by how much the mean of `one` is better than that of `other`: ``lead``, its ``interval`` and ``p``."""
    losses, other_losses = ([objective.loss(score) for score in group] for group in (one, other))
    return {
        "lead": statistics.fmean(other_losses) - statistics.fmean(losses),
        "interval": interval_of_difference(other_losses, losses),
        "p": p_of_difference(losses, other_losses) if min(len(one), len(other)) >= MIN_TESTED else None,
    }


def _groups(parameter: Parameter, points: Sequence[Point], basis: Basis) -> list[tuple[Any, list[float]]]:
    """Returns the scores of each value, in the order of the space; values without any are left out."""
    groups: dict[str, tuple[Any, list[float]]] = {canonical(one): (one, []) for one in parameter.values}
    for point in points:
        if parameter.key in point.parameters and point.number in basis.scores:
            value = point.parameters[parameter.key]
            groups.setdefault(canonical(value), (value, []))[1].append(basis.scores[point.number])
    return [group for group in groups.values() if group[1]]


def _row(parameter: Parameter, value: Any, scores: Sequence[float], objective: Objective) -> dict[str, Any]:
    return {
        "value": value,
        "text": parameter.text(value),
        "points": len(scores),
        "best": min(scores, key=objective.loss),
        "mean": statistics.fmean(scores),
        "interval": interval_of_mean(scores),
        "behind": 0.0,
        "behind_interval": None,
        "p": None,
        "letters": None,
    }


def _add_tests(rows: Sequence[dict[str, Any]], scores: Sequence[Sequence[float]], objective: Objective) -> None:
    """Adds to the rows, in place, how they compare with the best row that can be tested."""
    tested = [index for index, group in enumerate(scores) if len(group) >= MIN_TESTED]
    for row in rows:
        row["behind"] = abs(row["mean"] - rows[0]["mean"])
    if len(tested) < 2:
        return
    p_values = np.ones((len(tested), len(tested)))
    for i, one in enumerate(tested):
        for j, other in enumerate(tested[:i]):
            p_values[i, j] = p_values[j, i] = p_of_difference(scores[one], scores[other])
    corrected = holm_correction(p_values)
    letters = compact_letter_display(corrected <= LEVEL, [-objective.loss(rows[index]["mean"]) for index in tested])
    for i, index in enumerate(tested):
        rows[index]["letters"] = letters[i]
        if i:
            distance = difference(scores[tested[0]], scores[index], objective)
            rows[index] |= {"behind": distance["lead"], "behind_interval": distance["interval"], "p": corrected[0, i]}


def find_categorical(parameters: Sequence[Parameter], suffix: str) -> Parameter | None:
    """Returns the first categorical parameter with two or more values whose key ends with `suffix`."""
    return next((one for one in parameters if one.key.endswith(suffix) and len(one.values) > 1), None)


def choose_pair(by_importance: Sequence[Parameter]) -> tuple[Parameter, Parameter] | None:
    """Returns cell and truncation where a sweep varies both, else its two most important categorical parameters."""
    cell, truncation = find_categorical(by_importance, "cell"), find_categorical(by_importance, "truncate")
    if cell and truncation:
        return cell, truncation
    varied = [one for one in by_importance if len(one.values) > 1]
    return (varied[0], varied[1]) if len(varied) > 1 else None


def scores_of_pairs(
    rows: Parameter, columns: Parameter, points: Sequence[Point], bases: Sequence[Basis], objective: Objective
) -> dict[str, Any]:
    """Returns number of points, mean and best score by the values of two parameters, for each basis; cells without
    points are absent."""
    tables = []
    for basis in bases:
        cells = []
        for cell, group in _cells(rows, columns, points):
            if scores := [basis.scores[point.number] for point in group if point.number in basis.scores]:
                best = min(scores, key=objective.loss)
                cells.append(cell | {"points": len(scores), "mean": statistics.fmean(scores), "best": best})
        tables.append({"step": basis.step, "cells": cells})
    return {"rows": rows.key, "columns": columns.key, "bases": tables}


def _cells(
    rows: Parameter, columns: Parameter | None, points: Sequence[Point]
) -> Iterator[tuple[dict[str, Any], list[Point]]]:
    """Yields ``row`` and ``column`` of each cell, with its points."""
    for row, column in itertools.product(rows.values, columns.values if columns else (None,)):
        group = [one for one in points if rows.matches(one.parameters, row)]
        group = [one for one in group if columns is None or columns.matches(one.parameters, column)]
        yield {"row": row, "column": column}, group


def divergence(rows: Parameter, columns: Parameter | None, points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns how many trials diverged by the values of one or two parameters; None where none diverged.

    Trials that failed or are running are not counted. Where `columns` has the value ``none`` (no clipping), ``p`` is
    the uncorrected p-value of Fisher's exact test of each other value against it.
    """
    shares = [(cell, diverged_share(group)) for cell, group in _cells(rows, columns, points)]
    cells = [cell | share for cell, share in shares if share]
    for cell in cells:
        unclipped = next((one for one in cells if one["row"] == cell["row"] and one["column"] == "none"), None)
        cell["p"] = None if unclipped is None or unclipped is cell else p_of_shares(unclipped, cell)
    if not any(cell["diverged"] for cell in cells):
        return None
    return {"rows": rows.key, "columns": columns.key if columns else None, "cells": cells}


def diverged_share(points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns ``trials``, how many ``diverged``, the ``share`` and its ``interval``; None where there are no trials."""
    states = [trial["state"] for point in points for trial in point.trials]
    counted = [state for state in states if state in ("finished", "stopped", "diverged")]
    return _share(counted.count("diverged"), len(counted)) if counted else None


def pool_rows(cells: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Returns the `cells` of `divergence` summed over the rows, by column, with ``p`` against ``none`` as there."""
    sums: dict[Any, dict[str, Any]] = {}
    columns = dict.fromkeys(cell["column"] for cell in cells)
    for column in sorted(columns, key=lambda one: one != "none"):
        group = [cell for cell in cells if cell["column"] == column]
        share = _share(sum(cell["diverged"] for cell in group), sum(cell["trials"] for cell in group))
        sums[column] = {"column": column, **share, "p": None}
        if column != "none" and "none" in sums:
            sums[column]["p"] = p_of_shares(sums["none"], sums[column])
    return sums


def p_of_shares(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the p-value of Fisher's exact test of the diverged trials of two groups."""
    counts = [[group["diverged"], group["trials"] - group["diverged"]] for group in (one, other)]
    return float(fisher_exact(counts).pvalue)


def _share(diverged: int, trials: int) -> dict[str, Any]:
    share = {"share": diverged / trials, "interval": proportion_interval(diverged, trials)}
    return {"trials": trials, "diverged": diverged, **share}


MIN_LEARNED = 8
"""Points from which a forest can learn."""
SHUFFLES = 19
"""Fits to shuffled scores: the largest share that they give a parameter is reached by chance once in 20."""
TREES, SEED = 16, 1
Scored = Sequence[tuple[Mapping[str, Any], float]]
"""Parameters of points, by key, and their scores."""


def importance(parameters: Sequence[Parameter], scored: Scored) -> list[dict[str, Any]]:
    """Returns the importance of each parameter, largest first.

    fANOVA needs every parameter in every point. A conditional parameter is therefore assessed among the points that use
    it, together with the parameters that all of these have; its share is one of their variance.

    Returns:
        Rows with ``key``, ``share`` of the variance (0 to 1), ``chance``, the largest share from shuffled scores,
        ``points``, the number of points used, and ``among``, whether these are only the points that use the parameter.
        A parameter with a single value, or used by fewer than `MIN_LEARNED` points, has no row.
    """
    rows = []
    everywhere = _shares(_used_by_all(parameters, scored), scored)
    for parameter in parameters:
        own = [(point, score) for point, score in scored if parameter.key in point]
        shares = everywhere if len(own) == len(scored) else _shares(_used_by_all(parameters, own), own)
        if parameter.key in shares:
            share, chance = shares[parameter.key]
            among = len(own) < len(scored)
            rows.append({"key": parameter.key, "share": share, "chance": chance, "points": len(own), "among": among})
    return sorted(rows, key=lambda row: -row["share"])


def _used_by_all(parameters: Sequence[Parameter], scored: Scored) -> list[Parameter]:
    """Returns the parameters that every point has and that differ between them."""
    return [
        one
        for one in parameters
        if all(one.key in point for point, _ in scored) and len({canonical(point[one.key]) for point, _ in scored}) > 1
    ]


def _shares(parameters: Sequence[Parameter], scored: Scored) -> dict[str, tuple[float, float]]:
    """Returns the share and the largest share from shuffled scores, by key."""
    scores = np.array([score for _, score in scored])
    if len(scored) < MIN_LEARNED or not parameters or np.ptp(scores) == 0:
        return {}
    rows = [{one.key: _coordinate(one, point[one.key]) for one in parameters} for point, _ in scored]
    shares = _fanova(parameters, rows, scores)
    generator = np.random.default_rng(SEED)
    shuffled = [_fanova(parameters, rows, generator.permutation(scores)) for _ in range(SHUFFLES)]
    return {key: (share, max(one[key] for one in shuffled)) for key, share in shares.items()}


def _fanova(parameters: Sequence[Parameter], rows: Sequence[dict[str, Any]], scores: np.ndarray) -> dict[str, float]:
    distributions = {one.key: _distribution(one, [row[one.key] for row in rows]) for one in parameters}
    study = build_study(["minimize"], [[float(score)] for score in scores], rows, distributions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED).evaluate(study)
    return {key: float(share) for key, share in shares.items()}


def _coordinate(parameter: Parameter, value: Any) -> Any:
    """Returns the value that the study holds: fANOVA weighs a range evenly, so logarithmic parameters enter by their
    logarithm; categories enter as text, because a study knows few types."""
    if parameter.categorical:
        return canonical(value)
    return math.log10(value) if parameter.logarithmic else float(value)


def _distribution(parameter: Parameter, values: Sequence[Any]) -> BaseDistribution:
    if parameter.categorical:
        return CategoricalDistribution(sorted(set(values)))
    low, high = (_coordinate(parameter, end) for end in (parameter.low, parameter.high))
    return FloatDistribution(min(low, *values), max(high, *values))  # population-based training may leave the range
