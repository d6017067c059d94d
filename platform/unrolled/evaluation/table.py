"""Scores of several systems as a person reads them on a console of 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.evaluation.evaluation import Report
from unrolled.metrics import metric

COLUMNS = 100
NAME = 28
"""The widest name that stands beside its numbers; a wider one stands above them."""


def table(metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a row a system and the signatures behind the scores.

    Scores come with 95 % intervals, where the line has room for them, and with letters where several systems are
    compared; those of several samples with their standard deviation instead.

    Args:
        systems: rows of results.json's `strategies` by name; `sentences_per_second` may be missing.
    """
    lines = _laid_out(_cells(metrics, systems, intervals=True))
    if max(map(len, lines)) > COLUMNS:
        lines = _laid_out(_cells(metrics, systems, intervals=False))
    signatures: dict[str, None] = {}
    for row in systems.values():
        signatures |= dict.fromkeys(f"signature of {name}: {text}" for name, text in row["signatures"].items())
    several = "the same letter: no significant difference (paired randomization, Holm, 5 %)"
    return [*lines, *([several] if _lettered(systems) else []), *signatures]


def together(reports: Sequence[Report]) -> list[str]:
    """Returns the lines of several reports: one table, where all were decoded and scored alike."""
    systems: dict[str, dict[str, Any]] = {}
    kinds = set()
    for report in reports:
        for name, row in report.scores.items():
            if not isinstance(row, dict):
                break
            kinds.add(tuple(row["intervals"]))
            # Tests were made within each report, so letters of different ones say nothing of each other.
            systems[" ".join((*report.of, name))] = {key: value for key, value in row.items() if key != "letters"}
    if len(kinds) == 1 and len(systems) == sum(len(report.scores) for report in reports):
        return table(list(kinds.pop()), systems)
    return [line for report in reports for line in (" ".join(report.of), *report.lines)]


def _lettered(systems: Mapping[str, Mapping[str, Any]]) -> bool:
    return len(systems) > 1 and any("letters" in row for row in systems.values())


def _cells(
    metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]], *, intervals: bool
) -> list[tuple[str, ...]]:
    timed = any("sentences_per_second" in row for row in systems.values())
    cells = [("", *(name.replace("_", " ") for name in metrics), *(["sentences/s"] if timed else []))]
    for name, row in systems.items():
        speed = row.get("sentences_per_second")
        scores = (_score(one, row, letters=_lettered(systems), interval=intervals) for one in metrics)
        cells.append((name, *scores, *([f"{speed:,.0f}" if speed else ""] if timed else [])))
    return cells


def _score(name: str, row: Mapping[str, Any], *, letters: bool, interval: bool) -> str:
    def text(value: float) -> str:
        return metric(name).text(value).rstrip("\N{NO-BREAK SPACE}%")

    if samples := row.get("samples"):
        parts = [f"{text(samples['mean'][name])} ± {text(samples['deviation'][name])}"]
    else:
        parts = [text(row[name])]
        if interval and name in row["intervals"]:
            parts.append("–".join(map(text, row["intervals"][name])))
    if letters and name in row["letters"]:
        parts.append(row["letters"][name])
    return " ".join(parts)


def _laid_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    first = max(len(row[0]) for row in rows if len(row[0]) <= NAME)
    widths = [first, *(max(map(len, column)) for column in list(zip(*rows, strict=True))[1:])]
    lines = []
    for name, *cells in rows:
        beside = name if len(name) <= NAME else ""
        if name != beside:
            lines.append(name)
        parts = [cell.ljust(width) for cell, width in zip((beside, *cells), widths, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines
