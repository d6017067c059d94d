"""Sweep reports.

The table of a sweep's points: a row each, best first, its parameters, scores and what it cost.

The report of a sweep: one HTML file that opens without a network, and its findings as JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.config.load import format_value
from unrolled.errors import RunFailed
from unrolled.files import explain_write_errors, write_atomic
from unrolled.reports.page import Card, Chart, date, write_page
from unrolled.reports.sweep_analysis import Findings, findings
from unrolled.reports.sweep_plots import (
    View,
    divergence_chart,
    importance_chart,
    pair_charts,
    range_charts,
    value_charts,
    view,
)
from unrolled.reports.sweep_points import WORDS, Entry, Objective, Parameter
from unrolled.reports.sweep_trial_plots import curves_chart, front_charts, gradient_charts, parallel_chart
from unrolled.reports.text import finite, joined
from unrolled.training.console import format_duration

MEASURED = {"steps": "Steps", "tokens_per_second": "Tokens / s", "seconds": "Time"}


@dataclass(frozen=True)
class Cell:
    """What stands in a place of the table.

    Attributes:
        value: a number to sort by; text sorts by itself.
        small: lines below the text.
        about: shown when the cell is pointed at.
        score: it is one of the objectives.
    """

    text: str
    value: float | None = None
    number: bool = False
    small: Sequence[str] = ()
    about: str = ""
    score: bool = False


def ranking_table(view: View) -> dict[str, Any]:
    """Returns ``columns`` and ``rows``, each with its ``cells``."""
    rows = view.found["ranking"]
    parameters = [one for one in view.parameters.values() if any(one.key in row["parameters"] for row in rows)]
    early = view.found["step"] is not None
    measured = [key for key in MEASURED if any(row[key] is not None for row in rows)]
    # A speed that is sought stands among the scores already.
    measured = [key for key in measured if all(goal.name != key for goal in view.goals)]
    columns = [(goal.label, True) for goal in view.goals]
    columns += [(f"At step {view.found['step']:,}", True)] if early else []
    columns += [("State", False), *((one.label, not one.categorical) for one in parameters)]
    columns += [(MEASURED[key], True) for key in measured]
    won = (view.found["lead"] or {}).get("point")
    return {
        "columns": [{"label": label, "number": number} for label, number in columns],
        "seeds": any(len(row["trials"]) > 1 for row in rows),
        "rows": [
            {
                "rank": row["rank"],
                "title": row["name"][0].upper() + row["name"][1:],
                "best": row["point"] == won,
                "state": row["state"],
                "cells": [
                    *(_score(row["scores"][goal.name], goal) for goal in view.goals),
                    *([Cell(view.goal.text(row["at_step"]), row["at_step"], number=True)] if early else []),
                    _state(row),
                    *(_parameter(one, row["parameters"]) for one in parameters),
                    *(_measurement(row, key) for key in measured),
                ],
            }
            for row in rows
        ],
    }


def _score(score: dict[str, Any], goal: Objective) -> Cell:
    small = [] if score["deviation"] is None else [f"± {goal.text(score['deviation'])}"]
    if score["interval"]:
        small.append("–".join(goal.text(end) for end in score["interval"]))
    return Cell(goal.text(score["mean"]), score["mean"], number=True, small=small, score=True)


def _state(row: dict[str, Any]) -> Cell:
    count = row["states"][row["state"]]
    of = f"{count} of {len(row['trials'])} " if count < len(row["trials"]) else ""
    return Cell(of + WORDS[row["state"]], about="; ".join(row["reasons"]))


def _parameter(parameter: Parameter, values: dict[str, Any]) -> Cell:
    if parameter.key not in values:
        return Cell("–", number=not parameter.categorical)
    value = values[parameter.key]
    if parameter.categorical:
        return Cell(parameter.text(value))
    return Cell(parameter.text(value), finite(value), number=True)


def _measurement(row: dict[str, Any], key: str) -> Cell:
    value = row[key]
    if value is None:
        return Cell("–", number=True)
    return Cell(format_duration(value) if key == "seconds" else f"{value:,.0f}", value, number=True)


def write_report(sweep: dict[str, Any], page: Path) -> None:
    """Writes a sweep as one self-contained HTML file, and every figure in it as JSON beside it.

    Args:
        sweep: the content of sweep.json; what it lacks, the page leaves out.
        page: the HTML file; its folder is made. The JSON has the same name and ends in .json.

    Raises:
        RunFailed: one of them cannot be written.
    """
    found = findings(sweep)
    drawn = view(sweep, found)
    charts = {
        "importance": _present([importance_chart(drawn), parallel_chart(drawn)]),
        "values": value_charts(drawn),
        "ranges": range_charts(drawn),
        "pairs": pair_charts(drawn),
        "curves": _present([curves_chart(drawn)]),
        "gradients": _present([divergence_chart(drawn), *gradient_charts(drawn)]),
        "fronts": front_charts(drawn),
    }
    write_page(
        page,
        "sweep.html.j2",
        charts,
        results=sweep,
        headline=found["headline"],
        summary=found["summary"],
        cards=_cards(drawn, sweep),
        table=ranking_table(drawn),
        won=found["lead"] is not None,
        answers=found["answers"],
        caveats=_caveats(found, sweep.get("sampler")),
        about_seeds=_about_seeds(found),
        pair=_pair(drawn),
        facts=_facts(sweep),
        space=_space(sweep),
        config_yaml=sweep.get("best_config"),
        best=sweep.get("best"),
    )
    data = json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False, default=str)
    path = page.with_suffix(".json")
    with explain_write_errors(path, RunFailed):
        write_atomic(path, data + "\n", errors="replace")


def _present(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _cards(drawn: View, sweep: Entry) -> list[Card]:
    """Returns the main numbers: the best score of each objective, what became of the trials, what it took."""
    found, cards = drawn.found, []
    for goal in drawn.goals:
        scored = [row for row in found["ranking"] if row["state"] == "finished"]
        scored = [row for row in scored if row["scores"][goal.name]["mean"] is not None]
        if scored:
            best = min(scored, key=lambda row: goal.loss(row["scores"][goal.name]["mean"]))
            score = best["scores"][goal.name]
            notes = [f"best, {best['name']}"]
            if score["deviation"] is not None:
                notes.append(f"± {goal.text(score['deviation'])} over {len(score['values'])} seeds")
            cards.append(Card(goal.label, goal.text(score["mean"]), notes))
    counts = found["counts"]
    total = sum(counts.values())
    cards.append(Card("Trials", f"{total:,}", _points(len(found["ranking"]))))
    if counts.get("stopped"):
        cards.append(
            Card("Stopped early", f"{counts['stopped']:,}", [f"{counts.get('finished', 0):,} ran to their end"])
        )
    if counts.get("diverged"):
        cards.append(Card("Diverged", f"{counts['diverged'] / total:.0%}", [f"{counts['diverged']} of {total} trials"]))
    if seconds := sweep.get("seconds"):
        workers = sweep.get("workers")
        cards.append(Card("Time", format_duration(seconds), [f"{workers} workers"] if workers else []))
    return cards


def _points(count: int) -> list[str]:
    return [f"at {count:,} points"] if count > 1 else []


def _caveats(found: Findings, sampler: str | None) -> list[str]:
    """Returns what early stopping and an adaptive sampler do to the comparisons of values."""
    adaptive = (
        f"The sampler ({sampler}) chose points by the scores of earlier ones: values that it favoured met better "
        "values of the others, so their leads are flattered. Random points compare fairly."
    )
    return [*filter(None, [_pruned(found)]), *([adaptive] if sampler not in (None, "random", "grid") else [])]


def _pruned(found: Findings) -> str:
    counts = found["counts"]
    if not counts.get("stopped"):
        return ""
    trials = f"Early stopping gave up {counts['stopped']} trials that were behind"
    if found["step"] is None:
        return (
            f"{trials}. They share no step with all others, so only those that finished are compared: they are the "
            "ones that led on the way, so their means flatter every value."
        )
    return (
        f"{trials}. Points are therefore compared at step {found['step']:,}, the last that all reached but those that "
        "diverged, which are in no mean: nothing else was selected there, but slow starters look worse than they would "
        "end. The points that finished are compared at their end too; they are the ones that led on the way, so their "
        "means flatter every value, most of all one of which little is left."
    )


def _about_seeds(found: Findings) -> str:
    if any(len(row["trials"]) > 1 for row in found["ranking"]):
        return "± is the standard deviation over seeds; small numbers are the 95 % interval of the mean (Student’s t)."
    return "One seed a point: how far a score would move with another seed is not known."


def _pair(drawn: View) -> str:
    pairs = drawn.found["pairs"]
    return joined([drawn.parameters[pairs[axis]].label for axis in ("rows", "columns")]) if pairs else ""


def _facts(sweep: Entry) -> dict[str, str]:
    facts = {
        "Sweep": sweep["name"],
        "Task": str(sweep["task"]).replace("_", " "),
        "Sampler": sweep.get("sampler"),
        "Scheduler": sweep.get("scheduler"),
        "Seeds a point": sweep.get("seeds"),
        "Workers": sweep.get("workers"),
        "Made": date(sweep["created"]),
        "Version": f"unrolled {sweep['version']}",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _space(sweep: Entry) -> list[str]:
    """Returns the search space, a line a parameter."""
    lines = []
    for key, entry in (sweep.get("space") or {}).items():
        values = entry.get("values")
        what = format_value(list(values)) if values is not None else f"{entry['low']} to {entry['high']}"
        when = [f"{other} in {format_value(list(chosen))}" for other, chosen in (entry.get("when") or {}).items()]
        lines.append(f"{key}: {entry['kind']} {what}" + (f", when {joined(when)}" if when else ""))
    return lines
