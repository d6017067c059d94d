"""Findings of a sweep, as numbers and as sentences.

The sentences name the point that won and its lead, the values of parameters that are better, and the answers to three
questions about recurrent networks where the sweep asked them: gating, truncation and clipping.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from unrolled.metrics import metric_info
from unrolled.reports.sweep_ranking import (
    WORDS,
    Findings,
    JsonObject,
    Objective,
    Parameter,
    Point,
    objective_value,
    objectives,
    parameters_of,
    pareto_fronts,
    ranked_points,
)
from unrolled.reports.sweep_statistics import (
    Basis,
    choose_pair,
    comparable_points,
    comparison,
    difference,
    diverged_share,
    divergence,
    find_categorical,
    importance,
    interval_of_mean,
    p_of_shares,
    pool_rows,
    scores_of_pairs,
)
from unrolled.reports.text import LEVEL, finite, joined, written_p

UNGATED = ("rnn", "irnn")
FEW = 3
"""Values that a sentence names."""


def findings(sweep: JsonObject) -> Findings:
    """Returns what the trials of a sweep show.

    Args:
        sweep: the content of sweep.json; single keys of trials may be missing.

    Returns:
        ``headline`` and ``summary`` in words; ``lead`` of the best point; ``objectives``; ``parameters``; ``counts`` of
        trials by state; ``step``, the last one that all points reached, where some were stopped early; ``ranking`` of
        the points; ``answers``; ``comparisons`` of the values of each categorical parameter; ``importance``; ``pairs``
        and ``divergence`` of two parameters; ``gradients`` and ``curves`` of the trials; ``fronts``. What a sweep
        does not show is empty or None.
    """
    all_objectives, parameters, points = objectives(sweep), parameters_of(sweep), ranked_points(sweep)
    objective = all_objectives[0]
    bases = comparable_points(points, objective)
    leader = lead(points, objective)
    fronts = pareto_fronts(points, all_objectives)
    compared = _comparisons(parameters, points, bases, objective)
    scores = bases[0].scores if bases else {}
    shares = importance(
        parameters, [(point.parameters, scores[point.number]) for point in points if point.number in scores]
    )
    order = {row["key"]: index for index, row in enumerate(shares)}
    by_importance = sorted(parameters, key=lambda one: order.get(one.key, len(order)))
    pair = choose_pair(by_importance)
    diverged = _divergence(parameters, points)
    first = {one["key"]: one["bases"][0]["values"] for one in compared if one["bases"][0]["step"] == bases[0].step}
    return {
        "headline": headline(points, by_importance, objective, leader),
        "summary": summary(points, objective, leader, fronts),
        "lead": leader,
        "objectives": [{"name": one.name, "mode": one.direction[:3], "label": one.label} for one in all_objectives],
        "parameters": [_described(one) for one in parameters],
        "counts": dict(Counter(trial["state"] for trial in sweep["trials"])),
        "step": bases[0].step if bases else None,
        "ranking": [_ranking_row(rank, point, all_objectives, bases) for rank, point in enumerate(points, start=1)],
        "answers": questions(parameters, points, bases[0], first, diverged, objective) if bases else [],
        "comparisons": compared,
        "importance": shares,
        "pairs": scores_of_pairs(*pair, points, bases, objective) if pair and bases else None,
        "divergence": diverged,
        "gradients": _gradients(points),
        "curves": _curves(points, objective),
        "fronts": fronts,
    }


def _described(parameter: Parameter) -> dict[str, Any]:
    return {
        "key": parameter.key,
        "label": parameter.label,
        "values": list(parameter.values),
        "range": None if parameter.categorical else [parameter.low, parameter.high],
        "logarithmic": parameter.logarithmic,
    }


def _ranking_row(rank: int, point: Point, objectives: Sequence[Objective], bases: Sequence[Basis]) -> dict[str, Any]:
    scores = {}
    for objective in objectives:
        values = point.scores(objective.name)
        scores[objective.name] = {
            "values": values,
            "mean": objective_value(point, objective),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "interval": interval_of_mean(values),
        }
    early = next((basis for basis in bases if basis.step is not None), None)
    return {
        "rank": rank,
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
    parameters: Sequence[Parameter], points: Sequence[Point], bases: Sequence[Basis], objective: Objective
) -> list[dict[str, Any]]:
    comparisons = []
    for parameter in (one for one in parameters if len(one.values) > 1):
        tables = [(basis, comparison(parameter, points, basis, objective)) for basis in bases]
        compared = [
            table | {"statement": statement(table["values"], basis, parameter, objective)}
            for basis, table in tables
            if len(table["values"]) > 1
        ]
        if compared:
            cells = (divergence(parameter, None, points) or {"cells": []})["cells"]
            comparisons.append({"key": parameter.key, "bases": compared, "divergence": cells})
    return comparisons


def _divergence(parameters: Sequence[Parameter], points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns divergence by cell and clipping, by the one of them that the sweep varies, or None."""
    cell, kind = find_categorical(parameters, "cell"), find_categorical(parameters, "clipping.kind")
    rows, columns = (cell, kind) if cell and kind else (cell or kind, None)
    return divergence(rows, columns, points) if rows else None


def _gradients(points: Sequence[Point]) -> list[dict[str, Any]]:
    rows = []
    for trial, ends in _trials(points):
        norm = trial.get("gradient_norm") or {}
        row = {key: finite(norm.get(key)) for key in ("median", "largest")} | {"clipped": finite(trial.get("clipped"))}
        if any(number is not None for number in row.values()):
            rows.append(ends | row)
    return rows


def _curves(points: Sequence[Point], objective: Objective) -> list[dict[str, Any]]:
    rows = []
    for trial, ends in _trials(points):
        history = [(row["step"], finite(row["scores"].get(objective.name))) for row in trial.get("history") or []]
        if known := [pair for pair in history if pair[1] is not None]:
            steps, scores = map(list, zip(*known, strict=True))
            rows.append({**ends, "steps": steps, "scores": scores, "last_step": finite(trial.get("steps"))})
    return rows


def _trials(points: Sequence[Point]) -> list[tuple[JsonObject, dict[str, Any]]]:
    """Returns the trials of all points, each with the beginning of its row."""
    trials = [(point, trial) for point in points for trial in point.trials]
    return [(trial, {"trial": trial["name"], "point": one.number, "state": trial["state"]}) for one, trial in trials]


def lead(points: Sequence[Point], objective: Objective) -> dict[str, Any] | None:
    """Returns the best point, by how much it leads the next, and how sure that is; None where no point has a score.

    Returns:
        ``point``, ``score``, ``interval`` over its seeds, and where another point finished too ``next``, ``lead``,
        ``lead_interval`` and ``p``; the last two are None for one seed per point.
    """
    scored = [point for point in points if point.score(objective.name) is not None]
    # Points in other states were not trained as long, so a lead over them says nothing.
    scored = [point for point in scored if point.state == scored[0].state]
    if not scored or scored[0].state not in ("finished", "stopped"):
        return None
    best, *others = scored
    leader: dict[str, Any] = {
        "point": best.number,
        "score": best.score(objective.name),
        "interval": interval_of_mean(best.scores(objective.name)),
        "next": None,
    }
    if others and (best.state == "finished" or best.steps == others[0].steps):
        distance = difference(best.scores(objective.name), others[0].scores(objective.name), objective)
        leader |= {"next": others[0].number, "lead": distance["lead"]}
        leader |= {"lead_interval": distance["interval"], "p": distance["p"]}
    return leader


def headline(
    points: Sequence[Point], parameters: Sequence[Parameter], objective: Objective, leader: dict[str, Any] | None
) -> str:
    """Returns the finding in one sentence."""
    if leader is None:
        return _without_winner(points)
    best = next(point for point in points if point.number == leader["point"])
    values = [f"{one.label} {one.text(best.parameters[one.key])}" for one in parameters if one.key in best.parameters]
    chosen = f" with {joined(values[:FEW])}" if values else ""
    score = f"{objective.word} {objective.text(leader['score'])}"
    name = best.name[0].upper() + best.name[1:]
    if leader["next"] is None:
        return f"{name} reaches {score}{chosen}; no other point compares with it."
    by, side = objective.text(leader["lead"]), "below" if objective.lower_is_better else "above"
    distance = "level with" if by == objective.text(0.0) else f"{by} {side}"
    return f"{name} wins{chosen}: {score}, {distance} the next of {len(points)} points."


def summary(
    points: Sequence[Point], objective: Objective, leader: dict[str, Any] | None, fronts: Sequence[dict[str, Any]]
) -> str:
    """Returns the sentences below the headline: certainty, how the trials ended, and Pareto fronts."""
    parts = []
    if leader is not None:
        seeds = min(
            len(point.scores(objective.name)) for point in points if point.number in (leader["point"], leader["next"])
        )
        parts += _certainty_of_lead(objective, leader, seeds)
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
    who, verb = (f"All {len(points)} points", "are") if len(points) > 1 else ("The only point", "is")
    if len(states) == 1:
        ends = {"diverged": "diverged", "failed": "failed", "running": f"{verb} still running"}
        return f"{who} {ends.get(states.pop(), 'ended without a score')}."
    return "No point has a score yet." if "running" in states else "No point ended with a score."


def _certainty_of_lead(objective: Objective, leader: dict[str, Any], seeds: int) -> list[str]:
    if leader["next"] is None:
        return []
    if seeds < 2:
        return [
            "Each point was trained with one seed, so how much of the lead is luck cannot be told; the best of many is "
            "flattered by luck. Run the first points again with several seeds before relying on it."
        ]
    low, high = (objective.text(end) for end in leader["lead_interval"])
    chance = "" if leader["lead_interval"][0] > 0 else ", so the lead may be chance"
    return [
        f"With 95 % confidence the lead lies between {low} and {high} ({seeds} seeds, Welch’s t){chance}. "
        "The best of many is flattered by luck: expect a little less of it."
    ]


def statement(rows: Sequence[dict[str, Any]], basis: Basis, parameter: Parameter, objective: Objective) -> str:
    """Returns what a comparison of values shows, in one or two sentences."""
    best, *others = rows
    name = f"{parameter.label} {best['text']}"
    score = f"mean {objective.word} {objective.text(best['mean'])}"
    if best["interval"]:
        score += f", 95 % interval {_interval(best['interval'], objective)}"
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
        named = [f"{row['text']} by {_distance(row, objective)}" for row in worse[:FEW]]
        more = f" and {len(worse) - FEW} more" if len(worse) > FEW else ""
        parts.append(f"Significantly worse: {joined(named)}{more}.")
    if alike:
        parts.append(f"{joined(alike)} {'do' if len(alike) > 1 else 'does'} not differ significantly from it.")
    return f"{claim}. {' '.join(parts)}".strip()


def questions(
    parameters: Sequence[Parameter],
    points: Sequence[Point],
    basis: Basis,
    compared: dict[str, list[dict[str, Any]]],
    diverged: dict[str, Any] | None,
    objective: Objective,
) -> list[dict[str, Any]]:
    """Returns the questions about gating, truncation and clipping that the sweep can answer, with the answers.

    Args:
        compared: rows of `comparison` on `basis` by the parameter's key.
        diverged: the result of `divergence` for cell and clipping.
    """
    cell, truncate, kind = (find_categorical(parameters, key) for key in ("cell", "truncate", "clipping.kind"))
    ordered = truncate is not None and all(one is None or finite(one) is not None for one in truncate.values)
    answers = [
        gating(cell, points, basis, objective) if cell else None,
        truncation(rows, basis, objective)
        if truncate and ordered and len(rows := compared.get(truncate.key, [])) > 1
        else None,
        clipping(cell, kind, diverged["cells"]) if cell and kind and diverged and diverged["columns"] else None,
    ]
    return [one for one in answers if one is not None]


def gating(cell: Parameter, points: Sequence[Point], basis: Basis, objective: Objective) -> dict[str, Any] | None:
    """Returns whether gated cells beat plain ones, in score or by diverging less; None unless the sweep has both."""
    groups: dict[bool, list[Point]] = {True: [], False: []}
    for point in points:
        if cell.key in point.parameters:
            groups[point.parameters[cell.key] not in UNGATED].append(point)
    if not groups[True] or not groups[False]:
        return None
    gated, plain = (joined([cell.text(one) for one in cell.values if (one not in UNGATED) is kind]) for kind in groups)
    scores = {
        kind: [basis.scores[one.number] for one in group if one.number in basis.scores]
        for kind, group in groups.items()
    }
    distance: dict[str, Any] = {"lead": None, "interval": None, "p": None}
    parts, significant = [], []
    if scores[True] and scores[False]:
        distance = difference(scores[True], scores[False], objective)
        side = "better" if distance["lead"] >= 0 else "worse"
        size = f"Gated cells ({gated}) are on average {objective.text(abs(distance['lead']))} {side} than {plain}"
        numbers = f"({len(scores[True])} and {len(scores[False])} points)"
        parts.append(f"{size} {basis.text}, {_certainty(distance, objective)} {numbers}")
        if (
            distance["p"] is not None
            and distance["p"] <= LEVEL
            and distance["interval"][0] * distance["interval"][1] > 0
        ):
            significant.append(distance["lead"] > 0)
    with_gates, without = diverged_share(groups[True]), diverged_share(groups[False])
    if with_gates and without and with_gates["diverged"] + without["diverged"]:
        p = p_of_shares(with_gates, without)
        parts.append(f"{_share(without)} trials of {plain} diverged, {_share(with_gates)} of gated cells, {_p(p)}")
        if p <= LEVEL:
            significant.append(with_gates["share"] < without["share"])
    verdict = "Not shown" if len(set(significant)) != 1 else "Yes" if significant[0] else "No"
    text = f"{verdict}. {'. '.join(parts)}."
    return {"question": "Does gating beat the vanilla RNN?", "answer": text, "basis": basis.text, **distance}


def truncation(rows: Sequence[dict[str, Any]], basis: Basis, objective: Objective) -> dict[str, Any]:
    """Returns from which window length on the score no longer differs from the best; full is the longest.

    A window hurts if it is significantly worse than the best; the cause is truncation only if all shorter windows hurt,
    too.
    """
    ordered = sorted(rows, key=lambda row: (row["value"] is None, row["value"] or 0))
    tested = [row for row in ordered if row["letters"] is not None]
    base = {"question": "From which k on does truncation stop hurting?", "basis": basis.text, "from": None}
    if len(tested) < len(ordered):
        missing = joined([f"k = {row['text']}" for row in ordered if row not in tested])
        return base | {"answer": f"Not shown {basis.text}: too few points of {missing} to test."}
    hurts = [row["p"] is not None and row["p"] <= LEVEL for row in ordered]
    worse = [row for row, hurt in zip(ordered, hurts, strict=True) if hurt]
    costs = joined([f"k = {row['text']} costs {_distance(row, objective)}" for row in worse])
    start = hurts.index(False)
    if not any(hurts):
        spread = objective.text(max(row["behind"] for row in ordered))
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


def clipping(cell: Parameter, kind: Parameter, cells: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns which kind of clipping prevents divergence, over all cells and for each; None where all trials clip."""
    unclipped = {row["row"]: row for row in cells if row["column"] == "none"}
    if not unclipped:
        return None
    parts = []
    for value, without in unclipped.items():
        if better := _fewer_diverged(without, [row for row in cells if row["row"] == value]):
            parts.append(
                f"{cell.text(value)} diverged without clipping in {_share(without)}, with {_shares(kind, better)}"
            )
    by_cell = f"Cell by cell: {'; '.join(parts)}." if parts else "No cell alone has trials enough to show it."
    text = f"{_over_all_cells(kind, pool_rows(cells))} {by_cell} (Wilson’s intervals; Fisher’s exact test at 5 %.)"
    return {"question": "Which clipping saves which cell from divergence?", "answer": text, "basis": "all trials"}


def _over_all_cells(kind: Parameter, rows: dict[Any, dict[str, Any]]) -> str:
    without = rows["none"]
    better = _fewer_diverged(without, list(rows.values()))
    others = [row for row in rows.values() if row is not without and row not in better]
    text = f"Over all cells, {_share(without)} trials diverged without clipping"
    if better:
        text += f", but with {_shares(kind, better)}"
    if others:
        text += f"; {_shares(kind, others)} {'do' if len(others) > 1 else 'does'} not differ significantly"
    return f"{text}."


def _shares(kind: Parameter, rows: Sequence[dict[str, Any]]) -> str:
    return joined([f"{kind.text(row['column'])} {_share(row)}" for row in rows])


def _fewer_diverged(without: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows in which significantly fewer trials diverged than without clipping."""
    return [row for row in rows if row["p"] is not None and row["p"] <= LEVEL and row["share"] < without["share"]]


def _interval(interval: Sequence[float], objective: Objective) -> str:
    """Returns an interval as printed, such as ``1.42–1.51``."""
    low, high = (objective.text(end) for end in interval)
    return f"{low} to {high}" if interval[0] < 0 else f"{low}–{high}"


def _distance(row: dict[str, Any], objective: Objective) -> str:
    interval = f" ({_interval(row['behind_interval'], objective)})" if row["behind_interval"] else ""
    return f"{objective.text(row['behind'])}{interval}"


def _certainty(distance: dict[str, Any], objective: Objective) -> str:
    if distance["interval"] is None or distance["p"] is None:
        return "too few points to test"
    # The sentence says "better" or "worse", so the interval is of the distance.
    ends = distance["interval"] if distance["lead"] >= 0 else sorted(-end for end in distance["interval"])
    return f"95 % interval {_interval(ends, objective)}, {_p(distance['p'])}"


def _p(value: float) -> str:
    p = written_p(value)
    return f"p {p if p.startswith('<') else f'= {p}'}".replace(" ", "\N{NO-BREAK SPACE}")


def _share(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['diverged']} of {row['trials']} (95 % {100 * low:.0f}–{100 * high:.0f} %)"
