"""What a sweep says in words: which values are better, and the lecture's three questions where they were asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.evaluation.significance import LEVEL, written
from unrolled.evaluation.wording import finite, joined
from unrolled.tuning.comparisons import Basis, difference
from unrolled.tuning.pairs import diverged_share, named, p_of_shares, pooled
from unrolled.tuning.points import Objective, Point
from unrolled.tuning.space_view import Parameter

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
