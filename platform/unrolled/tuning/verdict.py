"""The sentences that a sweep's report opens with: which point won, by how much, and how sure that is."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from unrolled.evaluation.wording import joined
from unrolled.metrics import metric
from unrolled.tuning.certainty import interval_of_mean
from unrolled.tuning.comparisons import difference
from unrolled.tuning.points import WORDS, Objective, Point
from unrolled.tuning.space_view import Parameter

NAMED_PARAMETERS = 3  # that a headline has room for


def lead(points: Sequence[Point], goal: Objective) -> dict[str, Any] | None:
    """Returns the best point, by how much it leads the next, and how sure that is; None where no point has a score.

    Returns:
        ``point``, ``score``, ``interval`` over its seeds, and where another point finished too ``next``, ``lead``,
        its ``lead_interval`` and ``p``, the last three None for one seed a point.
    """
    scored = [point for point in points if point.score(goal.name) is not None]
    # Points of other states did not train as long: no lead over them can be told.
    scored = [point for point in scored if point.state == scored[0].state]
    if not scored or scored[0].state not in ("finished", "stopped"):
        return None
    best, *others = scored
    found: dict[str, Any] = {
        "point": best.number,
        "score": best.score(goal.name),
        "interval": interval_of_mean(best.scores(goal.name)),
        "next": None,
    }
    if others and (best.state == "finished" or best.steps == others[0].steps):
        apart = difference(best.scores(goal.name), others[0].scores(goal.name), goal)
        found |= {"next": others[0].number, "lead": apart["lead"]}
        found |= {"lead_interval": apart["interval"], "p": apart["p"]}
    return found


def headline(
    points: Sequence[Point], parameters: Sequence[Parameter], goal: Objective, won: dict[str, Any] | None
) -> str:
    """Returns the finding in one sentence."""
    if won is None:
        return _without_winner(points)
    best = next(point for point in points if point.number == won["point"])
    values = [f"{one.label} {one.text(best.parameters[one.key])}" for one in parameters if one.key in best.parameters]
    told = f" with {joined(values[:NAMED_PARAMETERS])}" if values else ""
    score = f"{goal.word} {goal.text(won['score'])}"
    name = best.name[0].upper() + best.name[1:]
    if won["next"] is None:
        return f"{name} reaches {score}{told}; no other point compares with it."
    by, side = goal.text(won["lead"]), "below" if goal.lower_is_better else "above"
    distance = "level with" if by == goal.text(0.0) else f"{by} {side}"
    return f"{name} wins{told}: {score}, {distance} the next of {len(points)} points."


def summary(
    points: Sequence[Point], goal: Objective, won: dict[str, Any] | None, fronts: Sequence[dict[str, Any]]
) -> str:
    """Returns the sentences below the headline: how sure it is, what became of the trials, what else is not beaten."""
    parts = []
    if won is not None:
        seeds = min(len(point.scores(goal.name)) for point in points if point.number in (won["point"], won["next"]))
        parts += _sure(goal, won, seeds)
    states = Counter(trial["state"] for point in points for trial in point.trials)
    counts = [f"{states[state]} {word}" for state, word in WORDS.items() if states[state]]
    total = sum(states.values())
    trials = f"{total:,} trial{'s' if total != 1 else ''}"
    spread = f" at {len(points):,} points" if len(points) != total else ""
    parts.append(f"{trials}{spread}: {joined(counts)}.")
    for front in fronts:
        ends = [one for one in front["points"] if one["front"]]
        x, y = (metric(front[axis]).label.lower() for axis in ("x", "y"))
        verb = "is" if len(ends) == 1 else "are"
        parts.append(f"Of {len(front['points'])} points {len(ends)} {verb} on the Pareto front of {y} and {x}.")
    return " ".join(parts)


def _without_winner(points: Sequence[Point]) -> str:
    states = {point.state for point in points}
    count = f"All {len(points)} points" if len(points) > 1 else "The only point"
    if len(states) == 1:
        verb = {"diverged": "diverged", "failed": "failed", "running": "still running"}.get(states.pop(), "no score")
        if verb == "still running":
            return f"{count} {'are' if len(points) > 1 else 'is'} {verb}."
        return f"{count} {verb}." if verb != "no score" else f"{count} ended without a score."
    return "No point has a score yet." if "running" in states else "No point ended with a score."


def _sure(goal: Objective, won: dict[str, Any], seeds: int) -> list[str]:
    if won["next"] is None:
        return []
    if seeds < 2:
        return [
            "Each point was trained with one seed, so how much of the lead is luck cannot be told; the best of many is "
            "flattered by luck. Run the first points again with several seeds before relying on it."
        ]
    low, high = (goal.text(end) for end in won["lead_interval"])
    chance = "" if won["lead_interval"][0] > 0 else ", so the lead may be chance"
    return [
        f"With 95 % confidence the lead lies between {low} and {high} ({seeds} seeds, Welch’s t){chance}. "
        "The best of many is flattered by luck: expect a little less of it."
    ]


def deviation(values: Sequence[float]) -> float | None:
    """Returns the standard deviation of a sample, None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
