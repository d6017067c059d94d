"""Statistics of a sweep: comparisons, intervals, pairs of parameters and importance.

How sure a sweep can be: intervals of means and of differences, and a test of two groups of points.

The values of a categorical parameter compared: only points that trained equally long stand in one comparison.

Two categorical parameters at once: scores of their pairs of values, and the share of trials that diverged.

Which parameters moved the score: fANOVA on the trials of a sweep.

Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014: a forest of
regression trees learns the score from the parameters; a parameter's importance is the share of the forest's variance
over the whole space that it explains alone.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact, t

from unrolled.metrics import compact_letter_display, holm_correction, mean_interval, proportion_interval
from unrolled.reports.sweep_points import Objective, Parameter, Point, common_step, identity
from unrolled.reports.text import LEVEL

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


FEWEST = 3
"""Points of a value from which it is tested."""
SOUND = ("finished", "stopped")
"""States of points whose scores are compared."""


@dataclass(frozen=True)
class Basis:
    """Points that may be compared, with their scores.

    Attributes:
        step: at which they are; None: at the end of their training.
        scores: by the point's number.
    """

    step: int | None
    scores: Mapping[int, float]

    @property
    def text(self) -> str:
        """Where the scores are taken: ``at step 100`` or ``at the end``."""
        return "at the end" if self.step is None else f"at step {self.step:,}"


def bases(points: Sequence[Point], goal: Objective) -> list[Basis]:
    """Returns on what points can be compared fairly, the fairest first.

    Where trials were stopped early, that is all points at the last step that all of them reached: those that
    finished are the ones that led, whatever their values. The finished ones at their end come second, or alone
    where nothing was stopped. What diverged has no part in it: its loss says nothing but that it did.
    """
    step = common_step(points, goal.name)
    found = []
    if step is not None:
        early = {point.number: point.score_at(goal.name, step) for point in points if point.state in SOUND}
        found.append(Basis(step, {number: score for number, score in early.items() if score is not None}))
    ends = {point.number: point.score(goal.name) for point in points if point.state == "finished"}
    found.append(Basis(None, {number: score for number, score in ends.items() if score is not None}))
    return [basis for basis in found if basis.scores]


def comparison(parameter: Parameter, points: Sequence[Point], basis: Basis, goal: Objective) -> dict[str, Any]:
    """Returns the values of `parameter` from best to worst mean.

    Returns:
        ``step`` of the basis and ``values``: rows with ``value``, ``text``, ``points``, ``best``, ``mean`` and its
        ``interval``, ``behind``: the best mean's lead over it, with ``behind_interval`` and Holm-corrected ``p``, and
        significance ``letters``, both None where a value has fewer than FEWEST points.
    """
    groups = _groups(parameter, points, basis)
    rows = [_row(parameter, value, scores, goal) for value, scores in groups]
    order = sorted(range(len(rows)), key=lambda place: goal.loss(rows[place]["mean"]))
    rows = [rows[place] for place in order]
    values = [[score for _, score in groups[place][1]] for place in order]
    _tested(rows, values, goal)
    return {"step": basis.step, "values": rows}


def difference(one: Sequence[float], other: Sequence[float], goal: Objective) -> dict[str, Any]:
    """Returns by how much the mean of `one` is better than that of `other`: ``lead``, its ``interval`` and ``p``."""
    mine, others = ([goal.loss(score) for score in group] for group in (one, other))
    return {
        "lead": statistics.fmean(others) - statistics.fmean(mine),
        "interval": interval_of_difference(others, mine),
        "p": p_of_difference(mine, others) if min(len(one), len(other)) >= FEWEST else None,
    }


def _groups(parameter: Parameter, points: Sequence[Point], basis: Basis) -> list[tuple[Any, list[tuple[Point, float]]]]:
    """Returns the points of each value with their scores, in the space's order; values without any are left out."""
    groups: dict[str, tuple[Any, list[tuple[Point, float]]]] = {identity(one): (one, []) for one in parameter.values}
    for point in points:
        if parameter.key in point.parameters and point.number in basis.scores:
            value = point.parameters[parameter.key]
            groups.setdefault(identity(value), (value, []))[1].append((point, basis.scores[point.number]))
    return [group for group in groups.values() if group[1]]


def _row(parameter: Parameter, value: Any, scored: Sequence[tuple[Point, float]], goal: Objective) -> dict[str, Any]:
    scores = [score for _, score in scored]
    return {
        "value": value,
        "text": parameter.text(value),
        "points": len(scores),
        "best": min(scores, key=goal.loss),
        "mean": statistics.fmean(scores),
        "interval": interval_of_mean(scores),
        "behind": 0.0,
        "behind_interval": None,
        "p": None,
        "letters": None,
    }


def _tested(rows: Sequence[dict[str, Any]], values: Sequence[Sequence[float]], goal: Objective) -> None:
    """Adds to the rows, in place, how they stand to the best that can be tested."""
    places = [place for place, scores in enumerate(values) if len(scores) >= FEWEST]
    for row in rows:
        row["behind"] = abs(row["mean"] - rows[0]["mean"])
    if len(places) < 2:
        return
    p_values = np.ones((len(places), len(places)))
    for i, one in enumerate(places):
        for j, other in enumerate(places[:i]):
            p_values[i, j] = p_values[j, i] = p_of_difference(values[one], values[other])
    corrected = holm_correction(p_values)
    letters = compact_letter_display(corrected <= LEVEL, [-goal.loss(rows[place]["mean"]) for place in places])
    for i, place in enumerate(places):
        rows[place]["letters"] = letters[i]
        if i:
            found = difference(values[places[0]], values[place], goal)
            rows[place] |= {"behind": found["lead"], "behind_interval": found["interval"], "p": corrected[0, i]}


def named(parameters: Sequence[Parameter], ending: str) -> Parameter | None:
    """Returns the first categorical parameter of two values or more whose key ends so."""
    return next((one for one in parameters if one.key.endswith(ending) and len(one.values) > 1), None)


def chosen_pair(parameters: Sequence[Parameter], by_importance: Sequence[str]) -> tuple[Parameter, Parameter] | None:
    """Returns cell and truncation where a sweep varies both, else its two most important categorical parameters."""
    cell, truncation = named(parameters, "cell"), named(parameters, "truncate")
    if cell and truncation:
        return cell, truncation
    rank = {key: place for place, key in enumerate(by_importance)}
    varied = [one for one in parameters if len(one.values) > 1]
    varied.sort(key=lambda one: rank.get(one.key, len(rank)))
    return (varied[0], varied[1]) if len(varied) > 1 else None


def scores_of_pairs(
    rows: Parameter, columns: Parameter, points: Sequence[Point], bases: Sequence[Basis], goal: Objective
) -> dict[str, Any]:
    """Returns the cells of the table of both parameters, for each basis with ``points``, ``mean`` and ``best``; cells
    without points are absent."""
    tables = []
    for basis in bases:
        cells = []
        for row in rows.values:
            for column in columns.values:
                scores = [
                    basis.scores[point.number]
                    for point in points
                    if point.number in basis.scores
                    and rows.given(point.parameters, row)
                    and columns.given(point.parameters, column)
                ]
                if scores:
                    found = {"mean": statistics.fmean(scores), "best": min(scores, key=goal.loss)}
                    cells.append({"row": row, "column": column, "points": len(scores), **found})
        tables.append({"step": basis.step, "cells": cells})
    return {"rows": rows.key, "columns": columns.key, "bases": tables}


def divergence(rows: Parameter, columns: Parameter | None, points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns how many trials diverged by the values of one or two parameters; None where none diverged.

    Trials that failed or still run are not counted. Where `columns` has the value ``none`` (no clipping), ``p`` is
    that of Fisher's exact test of each other value against it, uncorrected.
    """
    cells = []
    for row in rows.values:
        for column in columns.values if columns else (None,):
            mine = [
                one
                for one in points
                if rows.given(one.parameters, row) and (not columns or columns.given(one.parameters, column))
            ]
            if share := diverged_share(mine):
                cells.append({"row": row, "column": column, **share})
    for cell in cells:
        free = next((one for one in cells if one["row"] == cell["row"] and one["column"] == "none"), None)
        cell["p"] = None if free is None or free is cell else p_of_shares(free, cell)
    if not any(cell["diverged"] for cell in cells):
        return None
    return {"rows": rows.key, "columns": columns.key if columns else None, "cells": cells}


def diverged_share(points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns ``trials``, how many ``diverged``, the ``share`` and its ``interval``; None where there are no trials."""
    states = [trial["state"] for point in points for trial in point.trials]
    counted = [state for state in states if state in ("finished", "stopped", "diverged")]
    if not counted:
        return None
    return _share(counted.count("diverged"), len(counted))


def pooled(cells: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Returns the `cells` of `divergence` summed up over its rows, by column, with ``p`` against ``none`` as there."""
    sums: dict[Any, dict[str, Any]] = {}
    columns = dict.fromkeys(cell["column"] for cell in cells)
    for column in sorted(columns, key=lambda one: one != "none"):
        mine = [cell for cell in cells if cell["column"] == column]
        share = _share(sum(cell["diverged"] for cell in mine), sum(cell["trials"] for cell in mine))
        sums[column] = {"column": column, **share, "p": None}
        if column != "none" and "none" in sums:
            sums[column]["p"] = p_of_shares(sums["none"], sums[column])
    return sums


def p_of_shares(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the p of Fisher's exact test of two groups of trials, of which some diverged."""
    counts = [[group["diverged"], group["trials"] - group["diverged"]] for group in (one, other)]
    return float(fisher_exact(counts).pvalue)


def _share(diverged: int, trials: int) -> dict[str, Any]:
    share = {"share": diverged / trials, "interval": proportion_interval(diverged, trials)}
    return {"trials": trials, "diverged": diverged, **share}


FEWEST_TRIALS = 8
"""Points from which a forest has something to learn."""
IMPORTANCE_SHUFFLES = 19
"""Fits to shuffled scores: the largest share that they give a parameter is reached by chance once in 20."""
TREES, SEED = 16, 1
Scored = Sequence[tuple[dict[str, Any], float]]
"""Parameters of points, by key, and their scores."""


def importance(parameters: Sequence[Parameter], scored: Scored) -> list[dict[str, Any]]:
    """Returns the importance of each parameter, largest first.

    fANOVA needs every parameter in every point. One that is in use only under conditions is therefore assessed among
    the points that use it, together with those that all of these have; its share is one of their variance.

    Returns:
        rows with ``key``, ``share`` of the variance (0 to 1), ``chance``: what shuffled scores give at most, ``points``
        that were used, and ``among``: whether only those that use the parameter. None for a parameter that has one
        value only or is used by fewer than FEWEST points.
    """
    rows = []
    everywhere = _shares(_used_by_all(parameters, scored), scored)
    for parameter in parameters:
        own = [(point, score) for point, score in scored if parameter.key in point]
        found = everywhere if len(own) == len(scored) else _shares(_used_by_all(parameters, own), own)
        if parameter.key in found:
            share, chance = found[parameter.key]
            among = len(own) < len(scored)
            rows.append({"key": parameter.key, "share": share, "chance": chance, "points": len(own), "among": among})
    return sorted(rows, key=lambda row: -row["share"])


def _used_by_all(parameters: Sequence[Parameter], scored: Scored) -> list[Parameter]:
    """Returns the parameters that every point has and that differ between them."""
    return [
        one
        for one in parameters
        if all(one.key in point for point, _ in scored) and len({identity(point[one.key]) for point, _ in scored}) > 1
    ]


def _shares(parameters: Sequence[Parameter], scored: Scored) -> dict[str, tuple[float, float]]:
    """Returns the share and the one that chance gives, by key."""
    scores = np.array([score for _, score in scored])
    if len(scored) < FEWEST_TRIALS or not parameters or np.ptp(scores) == 0:
        return {}
    rows = [{one.key: _coordinate(one, point[one.key]) for one in parameters} for point, _ in scored]
    found = _fanova(parameters, rows, scores)
    generator = np.random.default_rng(SEED)
    shuffled = [_fanova(parameters, rows, generator.permutation(scores)) for _ in range(IMPORTANCE_SHUFFLES)]
    return {key: (share, max(one[key] for one in shuffled)) for key, share in found.items()}


def _fanova(parameters: Sequence[Parameter], rows: Sequence[dict[str, Any]], scores: np.ndarray) -> dict[str, float]:
    # Optuna takes a second to import, and only a report needs it.
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {one.key: _distribution(one, [row[one.key] for row in rows]) for one in parameters}
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=row, distributions=distributions, value=float(score))
            for row, score in zip(rows, scores, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED).evaluate(study)
    return {key: float(share) for key, share in shares.items()}


def _coordinate(parameter: Parameter, value: Any) -> Any:
    """Returns what a study holds for a value: fANOVA weighs a range evenly, so what is drawn by its logarithm enters
    as one; a category enters as text, for a study knows few types."""
    if parameter.categorical:
        return identity(value)
    return math.log10(value) if parameter.logarithmic else float(value)


def _distribution(parameter: Parameter, values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if parameter.categorical:
        return CategoricalDistribution(sorted(set(values)))
    low, high = (_coordinate(parameter, end) for end in (parameter.low, parameter.high))
    return FloatDistribution(min(low, *values), max(high, *values))  # mutated ones may lie outside
