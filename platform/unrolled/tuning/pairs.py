"""Two categorical parameters at once: scores of their pairs of values, and the share of trials that diverged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import fisher_exact

from unrolled.metrics import share_interval
from unrolled.tuning.comparisons import Basis
from unrolled.tuning.points import Objective, Point
from unrolled.tuning.space_view import Parameter


def named(parameters: Sequence[Parameter], ending: str) -> Parameter | None:
    """Returns the first categorical parameter of two values or more whose key ends so."""
    return next((one for one in parameters if one.key.endswith(ending) and len(one.values) > 1), None)


def chosen_pair(parameters: Sequence[Parameter], by_importance: Sequence[str]) -> tuple[Parameter, Parameter] | None:
    """Returns cell and truncation where a sweep varies both, else its two most important categorical parameters."""
    cell, truncation = named(parameters, "cell"), named(parameters, "truncate")
    if cell and truncation:
        return cell, truncation
    rank = {key: place for place, key in enumerate(by_importance)}
    varied = [one for one in parameters if len(one.values) > 1]
    varied.sort(key=lambda one: rank.get(one.key, len(rank)))
    return (varied[0], varied[1]) if len(varied) > 1 else None


def scores_of_pairs(
    rows: Parameter, columns: Parameter, points: Sequence[Point], bases: Sequence[Basis], goal: Objective
) -> dict[str, Any]:
    """Returns the cells of the table of both parameters, for each basis with ``points``, ``mean`` and ``best``; cells
    without points are absent."""
    tables = []
    for basis in bases:
        cells = []
        for row in rows.values:
            for column in columns.values:
                scores = [
                    basis.scores[point.number]
                    for point in points
                    if point.number in basis.scores
                    and rows.given(point.parameters, row)
                    and columns.given(point.parameters, column)
                ]
                if scores:
                    found = {"mean": statistics.fmean(scores), "best": min(scores, key=goal.loss)}
                    cells.append({"row": row, "column": column, "points": len(scores), **found})
        tables.append({"step": basis.step, "cells": cells})
    return {"rows": rows.key, "columns": columns.key, "bases": tables}


def divergence(rows: Parameter, columns: Parameter | None, points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns how many trials diverged by the values of one or two parameters; None where none diverged.

    Trials that failed or still run are not counted. Where `columns` has the value ``none`` (no clipping), ``p`` is
    that of Fisher's exact test of each other value against it, uncorrected.
    """
    cells = []
    for row in rows.values:
        for column in columns.values if columns else (None,):
            mine = [
                one
                for one in points
                if rows.given(one.parameters, row) and (not columns or columns.given(one.parameters, column))
            ]
            if share := diverged_share(mine):
                cells.append({"row": row, "column": column, **share})
    for cell in cells:
        free = next((one for one in cells if one["row"] == cell["row"] and one["column"] == "none"), None)
        cell["p"] = None if free is None or free is cell else p_of_shares(free, cell)
    if not any(cell["diverged"] for cell in cells):
        return None
    return {"rows": rows.key, "columns": columns.key if columns else None, "cells": cells}


def diverged_share(points: Sequence[Point]) -> dict[str, Any] | None:
    """Returns ``trials``, how many ``diverged``, the ``share`` and its ``interval``; None where there are no trials."""
    states = [trial["state"] for point in points for trial in point.trials]
    counted = [state for state in states if state in ("finished", "stopped", "diverged")]
    if not counted:
        return None
    return _share(counted.count("diverged"), len(counted))


def pooled(cells: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Returns the `cells` of `divergence` summed up over its rows, by column, with ``p`` against ``none`` as there."""
    sums: dict[Any, dict[str, Any]] = {}
    columns = dict.fromkeys(cell["column"] for cell in cells)
    for column in sorted(columns, key=lambda one: one != "none"):
        mine = [cell for cell in cells if cell["column"] == column]
        share = _share(sum(cell["diverged"] for cell in mine), sum(cell["trials"] for cell in mine))
        sums[column] = {"column": column, **share, "p": None}
        if column != "none" and "none" in sums:
            sums[column]["p"] = p_of_shares(sums["none"], sums[column])
    return sums


def p_of_shares(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the p of Fisher's exact test of two groups of trials, of which some diverged."""
    counts = [[group["diverged"], group["trials"] - group["diverged"]] for group in (one, other)]
    return float(fisher_exact(counts).pvalue)


def _share(diverged: int, trials: int) -> dict[str, Any]:
    share = {"share": diverged / trials, "interval": share_interval(diverged, trials)}
    return {"trials": trials, "diverged": diverged, **share}
