"""Findings of a sweep, in numbers and sentences.

What a sweep says in words: which values are better, and the lecture's three questions where they were asked.

The sentences that a sweep's report opens with: which point won, by how much, and how sure that is.

Everything that the report of a sweep shows, as plain data.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from unrolled.metrics import metric_info
from unrolled.reports.sweep_points import (
    WORDS,
    Entry,
    Objective,
    Parameter,
    Point,
    fronts,
    objective_value,
    objectives,
    parameters_of,
    ranked_points,
)
from unrolled.reports.sweep_statistics import (
    Basis,
    bases,
    chosen_pair,
    comparison,
    difference,
    diverged_share,
    divergence,
    importance,
    interval_of_mean,
    named,
    p_of_shares,
    pooled,
    scores_of_pairs,
)
from unrolled.reports.text import LEVEL, finite, joined, written

UNGATED = ("rnn", "irnn")
FEW = 3  # values that a sentence names


def statement(rows: Sequence[dict[str, Any]], basis: Basis, parameter: Parameter, goal: Objective) -> str:
    """Returns what a comparison of values shows, in one or two sentences."""
    best, *others = rows
    name = f"{parameter.label} {best['text']}"
    score = f"mean {goal.word} {goal.text(best['mean'])}"
    if best["interval"]:
        score += f", 95 % interval {span(best['interval'], goal)}"
    count = f"{best['points']} point{'s' if best['points'] != 1 else ''}"
    claim = f"{basis.text.capitalize()}, {name} is best on average ({score}, {count})"
    if not others:
        return f"{claim}; no other value has a point there."
    if best["letters"] is None:
        return f"{claim}, with too few points to tell whether it differs from the others."
    alike = [row["text"] for row in others if row["letters"] and set(row["letters"]) & set(best["letters"])]
    worse = [row for row in others if row["letters"] and not set(row["letters"]) & set(best["letters"])]
    parts = []
    if worse:
        told = [f"{row['text']} by {_behind(row, goal)}" for row in worse[:FEW]]
        more = f" and {len(worse) - FEW} more" if len(worse) > FEW else ""
        parts.append(f"Significantly worse: {joined(told)}{more}.")
    if alike:
        parts.append(f"{joined(alike)} {'do' if len(alike) > 1 else 'does'} not differ significantly from it.")
    return f"{claim}. {' '.join(parts)}".strip()


def gating(cell: Parameter, points: Sequence[Point], basis: Basis, goal: Objective) -> dict[str, Any] | None:
    """Returns whether gated cells beat the plain ones, in score or by diverging less; None where a sweep has not
    both."""
    groups: dict[bool, list[Point]] = {True: [], False: []}
    for point in points:
        if cell.key in point.parameters:
            groups[point.parameters[cell.key] not in UNGATED].append(point)
    if not groups[True] or not groups[False]:
        return None
    gated, plain = (joined([cell.text(one) for one in cell.values if (one not in UNGATED) is kind]) for kind in groups)
    scores = {
        kind: [basis.scores[one.number] for one in of if one.number in basis.scores] for kind, of in groups.items()
    }
    found: dict[str, Any] = {"lead": None, "interval": None, "p": None}
    parts, shown = [], []
    if scores[True] and scores[False]:
        found = difference(scores[True], scores[False], goal)
        side = "better" if found["lead"] >= 0 else "worse"
        size = f"Gated cells ({gated}) are on average {goal.text(abs(found['lead']))} {side} than {plain}"
        numbers = f"({len(scores[True])} and {len(scores[False])} points)"
        parts.append(f"{size} {basis.text}, {_certainty(found, goal)} {numbers}")
        if found["p"] is not None and found["p"] <= LEVEL and found["interval"][0] * found["interval"][1] > 0:
            shown.append(found["lead"] > 0)
    mine, others = diverged_share(groups[True]), diverged_share(groups[False])
    if mine and others and mine["diverged"] + others["diverged"]:
        p = p_of_shares(mine, others)
        parts.append(f"{_share(others)} trials of {plain} diverged, {_share(mine)} of gated cells, {_p(p)}")
        if p <= LEVEL:
            shown.append(mine["share"] < others["share"])
    verdict = "Not shown" if len(set(shown)) != 1 else "Yes" if shown[0] else "No"
    text = f"{verdict}. {'. '.join(parts)}."
    return {"question": "Does gating beat the vanilla RNN?", "answer": text, "basis": basis.text, **found}


def truncation(rows: Sequence[dict[str, Any]], basis: Basis, goal: Objective) -> dict[str, Any]:
    """Returns from which window length on the score no longer differs from the best; full is the longest.

    A window hurts that is significantly worse than the best; truncation is to blame only if all shorter ones hurt, too.
    """
    ordered = sorted(rows, key=lambda row: (row["value"] is None, row["value"] or 0))
    tested = [row for row in ordered if row["letters"] is not None]
    base = {"question": "From which k on does truncation stop hurting?", "basis": basis.text, "from": None}
    if len(tested) < len(ordered):
        missing = joined([f"k = {row['text']}" for row in ordered if row not in tested])
        return base | {"answer": f"Not shown {basis.text}: too few points of {missing} to test."}
    hurts = [row["p"] is not None and row["p"] <= LEVEL for row in ordered]
    costs = joined(
        [f"k = {row['text']} costs {_behind(row, goal)}" for row, bad in zip(ordered, hurts, strict=True) if bad]
    )
    start = hurts.index(False)
    if not any(hurts):
        spread = goal.text(max(row["behind"] for row in ordered))
        text = (
            f"No k hurts measurably {basis.text}: none differs significantly from the best; means lie within {spread}."
        )
        return base | {"answer": text, "from": ordered[0]["value"]}
    if any(hurts[start:]):
        return base | {"answer": f"Not shown {basis.text}: {costs}, but a shorter window does not hurt."}
    text = (
        f"From k = {ordered[start]['text']} on: there none differs significantly from the best {basis.text}. {costs}."
    )
    return base | {"answer": text, "from": ordered[start]["value"]}


def rescue(cell: Parameter, kind: Parameter, cells: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns which clipping keeps what from diverging, over all cells and cell by cell; None where no trial went
    unclipped."""
    free = {row["row"]: row for row in cells if row["column"] == "none"}
    if not free:
        return None
    told = []
    for value, without in free.items():
        if saves := _saves(without, [row for row in cells if row["row"] == value]):
            told.append(
                f"{cell.text(value)} diverged without clipping in {_share(without)}, with {_shares(kind, saves)}"
            )
    by_cell = f"Cell by cell: {'; '.join(told)}." if told else "No cell alone has trials enough to show it."
    text = f"{_over_all_cells(kind, pooled(cells))} {by_cell} (Wilson’s intervals; Fisher’s exact test at 5 %.)"
    return {"question": "Which clipping saves which cell from divergence?", "answer": text, "basis": "all trials"}


def _over_all_cells(kind: Parameter, rows: dict[Any, dict[str, Any]]) -> str:
    without = rows["none"]
    saves = _saves(without, list(rows.values()))
    others = [row for row in rows.values() if row is not without and row not in saves]
    text = f"Over all cells, {_share(without)} trials diverged without clipping"
    if saves:
        text += f", but with {_shares(kind, saves)}"
    if others:
        text += f"; {_shares(kind, others)} {'do' if len(others) > 1 else 'does'} not differ significantly"
    return f"{text}."


def _shares(kind: Parameter, rows: Sequence[dict[str, Any]]) -> str:
    return joined([f"{kind.text(row['column'])} {_share(row)}" for row in rows])


def _saves(without: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of which significantly fewer diverged than without clipping."""
    return [row for row in rows if row["p"] is not None and row["p"] <= LEVEL and row["share"] < without["share"]]


def questions(
    parameters: Sequence[Parameter],
    points: Sequence[Point],
    basis: Basis,
    compared: dict[str, list[dict[str, Any]]],
    diverged: dict[str, Any] | None,
    goal: Objective,
) -> list[dict[str, Any]]:
    """Returns the lecture's questions with their answers, as far as the sweep asked them.

    Args:
        compared: rows of `comparison` on `basis` by the parameter's key.
        diverged: what `divergence` found for cell and clipping.
    """
    cell, truncate, kind = (named(parameters, ending) for ending in ("cell", "truncate", "clipping.kind"))
    ordered = truncate is not None and all(one is None or finite(one) is not None for one in truncate.values)
    found = [
        gating(cell, points, basis, goal) if cell else None,
        truncation(rows, basis, goal)
        if truncate and ordered and len(rows := compared.get(truncate.key, [])) > 1
        else None,
        rescue(cell, kind, diverged["cells"]) if cell and kind and diverged and diverged["columns"] else None,
    ]
    return [one for one in found if one is not None]


def span(interval: Sequence[float], goal: Objective) -> str:
    """Returns an interval as printed, such as ``1.42–1.51``."""
    low, high = (goal.text(end) for end in interval)
    return f"{low} to {high}" if interval[0] < 0 else f"{low}–{high}"


def _behind(row: dict[str, Any], goal: Objective) -> str:
    interval = f" ({span(row['behind_interval'], goal)})" if row["behind_interval"] else ""
    return f"{goal.text(row['behind'])}{interval}"


def _certainty(found: dict[str, Any], goal: Objective) -> str:
    if found["interval"] is None or found["p"] is None:
        return "too few points to test"
    # The sentence says better or worse: the interval is of the distance it names.
    ends = found["interval"] if found["lead"] >= 0 else sorted(-end for end in found["interval"])
    return f"95 % interval {span(ends, goal)}, {_p(found['p'])}"


def _p(value: float) -> str:
    p = written(value)
    return f"p {p if p.startswith('<') else f'= {p}'}".replace(" ", "\N{NO-BREAK SPACE}")


def _share(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['diverged']} of {row['trials']} (95 % {100 * low:.0f}–{100 * high:.0f} %)"


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
        x, y = (metric_info(front[axis]).label.lower() for axis in ("x", "y"))
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
            "mean": objective_value(point, goal),
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
