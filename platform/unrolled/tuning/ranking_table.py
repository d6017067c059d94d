"""The table of a sweep's points: a row each, best first, its parameters, scores and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.evaluation.wording import finite
from unrolled.training.console import duration
from unrolled.tuning.points import WORDS, Objective
from unrolled.tuning.space_view import Parameter
from unrolled.tuning.view import View

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
    return Cell(duration(value) if key == "seconds" else f"{value:,.0f}", value, number=True)
