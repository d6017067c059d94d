"""The values of a categorical parameter compared: only points that trained equally long stand in one comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unrolled.evaluation.significance import LEVEL
from unrolled.metrics import compact_letters, holm
from unrolled.tuning.certainty import interval_of_difference, interval_of_mean, p_of_difference
from unrolled.tuning.points import Objective, Point, common_step
from unrolled.tuning.space_view import Parameter, identity

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
    corrected = holm(p_values)
    letters = compact_letters(corrected <= LEVEL, [-goal.loss(rows[place]["mean"]) for place in places])
    for i, place in enumerate(places):
        rows[place]["letters"] = letters[i]
        if i:
            found = difference(values[places[0]], values[place], goal)
            rows[place] |= {"behind": found["lead"], "behind_interval": found["interval"], "p": corrected[0, i]}
