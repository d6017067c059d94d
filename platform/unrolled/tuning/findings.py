"""Everything that the report of a sweep shows, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from unrolled.evaluation.wording import finite
from unrolled.tuning.answers import questions, statement
from unrolled.tuning.certainty import interval_of_mean
from unrolled.tuning.comparisons import Basis, bases, comparison
from unrolled.tuning.front import fronts, value
from unrolled.tuning.importance import importance
from unrolled.tuning.pairs import chosen_pair, divergence, named, scores_of_pairs
from unrolled.tuning.points import Objective, Point, objectives, ranked_points
from unrolled.tuning.space_view import Entry, Parameter, parameters_of
from unrolled.tuning.verdict import deviation, headline, lead, summary

Findings = dict[str, Any]


def findings(sweep: Entry) -> Findings:
    """Returns what the trials of a sweep show.

    Args:
        sweep: the content of sweep.json; single keys of trials may be missing.

    Returns:
        ``headline`` and ``summary`` in words; ``lead`` of the best point; ``objectives``; ``parameters``; ``counts`` of
        trials by state; ``step``, the last one that all points reached, where some were stopped early; ``ranking`` of
        the points; ``answers``; ``comparisons`` of the values of each categorical parameter; ``importance``; ``pairs``
        and ``divergence`` of two parameters; ``gradients`` and ``curves`` of the trials; ``fronts``. What a sweep does
        not tell is empty or None.
    """
    goals, parameters, points = objectives(sweep), parameters_of(sweep), ranked_points(sweep)
    goal = goals[0]
    fair = bases(points, goal)
    won = lead(points, goal)
    front = fronts(points, goals)
    compared = _comparisons(parameters, points, fair, goal)
    shares = _importance(parameters, points, fair[0]) if fair else []
    pair = chosen_pair(parameters, [row["key"] for row in shares])
    diverged = _divergence(parameters, points)
    first = {one["key"]: one["bases"][0]["values"] for one in compared if one["bases"][0]["step"] == fair[0].step}
    return {
        "headline": headline(points, _by_importance(parameters, shares), goal, won),
        "summary": summary(points, goal, won, front),
        "lead": won,
        "objectives": [
            {"name": one.name, "mode": "min" if one.lower_is_better else "max", "label": one.label} for one in goals
        ],
        "parameters": [_described(one) for one in parameters],
        "counts": dict(Counter(trial["state"] for trial in sweep["trials"])),
        "step": fair[0].step if fair else None,
        "ranking": [_ranked(place, point, goals, fair) for place, point in enumerate(points, start=1)],
        "answers": questions(parameters, points, fair[0], first, diverged, goal) if fair else [],
        "comparisons": compared,
        "importance": shares,
        "pairs": scores_of_pairs(*pair, points, fair, goal) if pair and fair else None,
        "divergence": diverged,
        "gradients": _gradients(points),
        "curves": _curves(points, goal),
        "fronts": front,
    }


def _by_importance(parameters: Sequence[Parameter], shares: Sequence[dict[str, Any]]) -> list[Parameter]:
    rank = {row["key"]: place for place, row in enumerate(shares)}
    return sorted(parameters, key=lambda one: rank.get(one.key, len(rank)))


def _described(parameter: Parameter) -> dict[str, Any]:
    range_ = None if parameter.categorical else [parameter.low, parameter.high]
    return {
        "key": parameter.key,
        "label": parameter.label,
        "values": list(parameter.values),
        "range": range_,
        "logarithmic": parameter.logarithmic,
    }


def _ranked(place: int, point: Point, goals: Sequence[Objective], fair: Sequence[Basis]) -> dict[str, Any]:
    scores = {}
    for goal in goals:
        values = point.scores(goal.name)
        scores[goal.name] = {
            "values": values,
            "mean": value(point, goal),
            "deviation": deviation(values),
            "interval": interval_of_mean(values),
        }
    early = next((basis for basis in fair if basis.step is not None), None)
    return {
        "rank": place,
        "point": point.number,
        "name": point.name,
        "state": point.state,
        "states": dict(Counter(trial["state"] for trial in point.trials)),
        "trials": [trial["name"] for trial in point.trials],
        "parameters": dict(point.parameters),
        "scores": scores,
        "at_step": early.scores.get(point.number) if early else None,
        "steps": point.mean("steps"),
        "seconds": point.mean("seconds"),
        "tokens_per_second": point.mean("tokens_per_second"),
        "reasons": list(dict.fromkeys(str(trial["reason"]) for trial in point.trials if trial.get("reason"))),
    }


def _comparisons(
    parameters: Sequence[Parameter], points: Sequence[Point], fair: Sequence[Basis], goal: Objective
) -> list[dict[str, Any]]:
    found = []
    for parameter in parameters:
        if len(parameter.values) < 2:
            continue
        rows = [comparison(parameter, points, basis, goal) for basis in fair]
        shown = [(basis, one) for basis, one in zip(fair, rows, strict=True) if len(one["values"]) > 1]
        for basis, one in shown:
            one["statement"] = statement(one["values"], basis, parameter, goal)
        if shown:
            outcome = divergence(parameter, None, points)
            found.append(
                {
                    "key": parameter.key,
                    "bases": [one for _, one in shown],
                    "divergence": outcome["cells"] if outcome else [],
                }
            )
    return found


def _importance(parameters: Sequence[Parameter], points: Sequence[Point], basis: Basis) -> list[dict[str, Any]]:
    scored = [(dict(point.parameters), basis.scores[point.number]) for point in points if point.number in basis.scores]
    return importance(parameters, scored)


def _divergence(parameters: Sequence[Parameter], points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns that of cell and clipping, of the one that the sweep varies, or of no parameter."""
    cell, kind = named(parameters, "cell"), named(parameters, "clipping.kind")
    rows, columns = (cell, kind) if cell and kind else (cell or kind, None)
    return divergence(rows, columns, points) if rows else None


def _gradients(points: Sequence[Point]) -> list[dict[str, Any]]:
    rows = []
    for point in points:
        for trial in point.trials:
            norm = trial.get("gradient_norm") or {}
            row = {key: finite(norm.get(key)) for key in ("median", "largest")}
            row["clipped"] = finite(trial.get("clipped"))
            if any(number is not None for number in row.values()):
                rows.append({"trial": trial["name"], "point": point.number, "state": trial["state"], **row})
    return rows


def _curves(points: Sequence[Point], goal: Objective) -> list[dict[str, Any]]:
    rows = []
    for point in points:
        for trial in point.trials:
            history = [(row["step"], finite(row["scores"].get(goal.name))) for row in trial.get("history") or []]
            known = [(step, score) for step, score in history if score is not None]
            if known:
                steps, scores = map(list, zip(*known, strict=True))
                ends = {"trial": trial["name"], "point": point.number, "state": trial["state"]}
                rows.append({**ends, "steps": steps, "scores": scores, "last_step": finite(trial.get("steps"))})
    return rows
