"""Sweep reports: one self-contained HTML page, and its findings as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.config.load import format_value
from unrolled.errors import RunFailed
from unrolled.files import explain_write_errors, write_atomic
from unrolled.reports.page import Card, date, write_page
from unrolled.reports.sweep_analysis import findings
from unrolled.reports.sweep_plots import sweep_charts
from unrolled.reports.sweep_ranking import WORDS, Findings, JsonObject, Objective, Parameter, SweepData
from unrolled.reports.text import finite, joined
from unrolled.training.console import format_duration

MEASURED = {"steps": "Steps", "tokens_per_second": "Tokens / s", "seconds": "Time"}


@dataclass(frozen=True)
class Cell:
    """A cell of the ranking table.

    Attributes:
        value: a number to sort by; text sorts by itself.
        number: whether the cell is aligned as a number.
        small: lines below the text.
        about: tooltip.
        score: whether the cell holds an objective.
    """

    text: str
    value: float | None = None
    number: bool = False
    small: Sequence[str] = ()
    about: str = ""
    score: bool = False


def ranking_table(data: SweepData) -> dict[str, Any]:
    """Returns ``columns`` and ``rows`` of the table of points, best first, each row with its ``cells``."""
    rows, step = data.findings["ranking"], data.findings["step"]
    parameters = [one for one in data.parameters.values() if any(one.key in row["parameters"] for row in rows)]
    measured = [key for key in MEASURED if any(row[key] is not None for row in rows)]
    # A speed that is an objective stands among the scores already.
    measured = [key for key in measured if all(objective.name != key for objective in data.objectives)]
    columns = [(objective.label, True) for objective in data.objectives]
    columns += [] if step is None else [(f"At step {step:,}", True)]
    columns += [("State", False), *((one.label, not one.categorical) for one in parameters)]
    columns += [(MEASURED[key], True) for key in measured]
    best = (data.findings["lead"] or {}).get("point")
    return {
        "columns": [{"label": label, "number": number} for label, number in columns],
        "rows": [
            {
                "rank": row["rank"],
                "title": row["name"][0].upper() + row["name"][1:],
                "best": row["point"] == best,
                "state": row["state"],
                "cells": [
                    *(_score(row["scores"][objective.name], objective) for objective in data.objectives),
                    *([] if step is None else [Cell(data.objective.text(row["at_step"]), row["at_step"], number=True)]),
                    _state(row),
                    *(_parameter(one, row["parameters"]) for one in parameters),
                    *(_measurement(row, key) for key in measured),
                ],
            }
            for row in rows
        ],
    }


def _score(score: dict[str, Any], objective: Objective) -> Cell:
    small = [] if score["deviation"] is None else [f"± {objective.text(score['deviation'])}"]
    if score["interval"]:
        small.append("–".join(objective.text(end) for end in score["interval"]))
    return Cell(objective.text(score["mean"]), score["mean"], number=True, small=small, score=True)


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
    """Writes the report of a sweep as one self-contained HTML file, and its findings as JSON beside it.

    Args:
        sweep: content of sweep.json; sections whose data are missing are left out.
        page: path of the HTML file; its folder is made. The JSON file has the same name and ends in .json.

    Raises:
        RunFailed: one of the files cannot be written.
    """
    analysis = findings(sweep)
    data = SweepData.of(sweep, analysis)
    write_page(
        page,
        "sweep.html.j2",
        sweep_charts(data),
        results=sweep,
        headline=analysis["headline"],
        summary=analysis["summary"],
        cards=_cards(data, sweep),
        table=ranking_table(data),
        won=analysis["lead"] is not None,
        answers=analysis["answers"],
        caveats=_caveats(analysis, sweep.get("sampler")),
        about_seeds=_about_seeds(analysis),
        pair=_pair(data),
        facts=_facts(sweep),
        space=_space(sweep),
        config_yaml=sweep.get("best_config"),
        best=sweep.get("best"),
    )
    text = json.dumps(analysis, ensure_ascii=False, indent=1, allow_nan=False, default=str)
    path = page.with_suffix(".json")
    with explain_write_errors(path, RunFailed):
        write_atomic(path, text + "\n", errors="replace")


def _cards(data: SweepData, sweep: JsonObject) -> list[Card]:
    """Returns the main numbers: the best score of each objective, counts of trials, and time."""
    rows, cards = data.findings["ranking"], []
    for objective in data.objectives:
        finished = [(row["scores"][objective.name], row["name"]) for row in rows if row["state"] == "finished"]
        if scored := [(score, name) for score, name in finished if score["mean"] is not None]:
            score, name = min(scored, key=lambda pair: objective.loss(pair[0]["mean"]))
            notes = [f"best, {name}"]
            if score["deviation"] is not None:
                notes.append(f"± {objective.text(score['deviation'])} over {len(score['values'])} seeds")
            cards.append(Card(objective.label, objective.text(score["mean"]), notes))
    counts = data.findings["counts"]
    total, stopped, diverged = sum(counts.values()), counts.get("stopped"), counts.get("diverged")
    cards.append(Card("Trials", f"{total:,}", [f"at {len(rows):,} points"] if len(rows) > 1 else []))
    if stopped:
        cards.append(Card("Stopped early", f"{stopped:,}", [f"{counts.get('finished', 0):,} ran to their end"]))
    if diverged:
        cards.append(Card("Diverged", f"{diverged / total:.0%}", [f"{diverged} of {total} trials"]))
    if seconds := sweep.get("seconds"):
        workers = sweep.get("workers")
        cards.append(Card("Time", format_duration(seconds), [f"{workers} workers"] if workers else []))
    return cards


def _caveats(analysis: Findings, sampler: str | None) -> list[str]:
    """Returns how early stopping and an adaptive sampler bias the comparisons of values."""
    adaptive = (
        f"The sampler ({sampler}) chose points by the scores of earlier ones: values that it favoured met better "
        "values of the others, so their leads are flattered. Random points compare fairly."
    )
    return [*filter(None, [_pruned(analysis)]), *([adaptive] if sampler not in (None, "random", "grid") else [])]


def _pruned(analysis: Findings) -> str:
    counts, step = analysis["counts"], analysis["step"]
    if not counts.get("stopped"):
        return ""
    trials = f"Early stopping gave up {counts['stopped']} trials that were behind"
    if step is None:
        return (
            f"{trials}. They share no step with all others, so only those that finished are compared: they are the "
            "ones that led on the way, so their means flatter every value."
        )
    return (
        f"{trials}. Points are therefore compared at step {step:,}, the last that all reached but those that "
        "diverged, which are in no mean: nothing else was selected there, but slow starters look worse than they would "
        "end. The points that finished are compared at their end too; they are the ones that led on the way, so their "
        "means flatter every value, most of all one of which little is left."
    )


def _about_seeds(analysis: Findings) -> str:
    if any(len(row["trials"]) > 1 for row in analysis["ranking"]):
        return "± is the standard deviation over seeds; small numbers are the 95 % interval of the mean (Student’s t)."
    return "One seed per point: how far a score would move with another seed is not known."


def _pair(data: SweepData) -> str:
    pairs = data.findings["pairs"]
    return joined([data.parameters[pairs[axis]].label for axis in ("rows", "columns")]) if pairs else ""


def _facts(sweep: JsonObject) -> dict[str, str]:
    facts = {
        "Sweep": sweep["name"],
        "Task": str(sweep["task"]).replace("_", " "),
        "Sampler": sweep.get("sampler"),
        "Scheduler": sweep.get("scheduler"),
        "Seeds per point": sweep.get("seeds"),
        "Workers": sweep.get("workers"),
        "Made": date(sweep["created"]),
        "Version": f"unrolled {sweep['version']}",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _space(sweep: JsonObject) -> list[str]:
    """Returns the search space, one line per parameter."""
    lines = []
    for key, entry in (sweep.get("space") or {}).items():
        values = entry.get("values")
        what = format_value(list(values)) if values is not None else f"{entry['low']} to {entry['high']}"
        when = [f"{other} in {format_value(list(chosen))}" for other, chosen in (entry.get("when") or {}).items()]
        lines.append(f"{key}: {entry['kind']} {what}" + (f", when {joined(when)}" if when else ""))
    return lines
