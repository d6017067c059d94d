"""The Pareto front of two objectives: the points that no other point beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.tuning.points import Objective, Point

SPEED = Objective("tokens_per_second", lower_is_better=False)


def fronts(points: Sequence[Point], goals: Sequence[Objective]) -> list[dict[str, Any]]:
    """Returns score against speed, and the first objective against each other one, of the points that finished.

    Returns:
        for each ``x`` and ``y``: names of what is measured, ``points`` with ``name``, ``x``, ``y`` and ``front``,
        sorted by x; pairs that fewer than two points have are left out.
    """
    against = [*goals[1:], *([SPEED] if all(goal.name != SPEED.name for goal in goals) else [])]
    found = []
    for other in against:
        known = []
        for point in points:
            x, y = value(point, other), value(point, goals[0])
            if point.state == "finished" and x is not None and y is not None:
                known.append({"name": point.name, "point": point.number, "x": x, "y": y})
        if len(known) > 1:
            for one in known:
                one["front"] = not any(_beats(rival, one, other, goals[0]) for rival in known)
            known.sort(key=lambda one: (one["x"], one["y"]))
            found.append({"x": other.name, "y": goals[0].name, "points": known})
    return found


def value(point: Point, goal: Objective) -> float | None:
    """Returns a point's mean score, or its speed where no score is called so."""
    score = point.score(goal.name)
    return point.mean(goal.name) if score is None and goal.name == SPEED.name else score


def _beats(one: dict[str, Any], other: dict[str, Any], x: Objective, y: Objective) -> bool:
    """Returns whether `one` is at least as good in both and better in one."""
    losses = [(x.loss(each["x"]), y.loss(each["y"])) for each in (one, other)]
    return losses[0] != losses[1] and all(mine <= theirs for mine, theirs in zip(*losses, strict=True))
