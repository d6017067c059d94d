"""Which strategies differ by more than chance, and the table of all pairs."""

from __future__ import annotations

from typing import Any

from unrolled.evaluation.wording import Results, finite, metric_names, scored, title
from unrolled.metrics import metric

LEVEL = 0.05


def differ(results: Results, name: str, one: str, other: str) -> bool | None:
    """Returns whether two strategies differ significantly by metric `name`, after Holm's correction; None where no
    test was made."""
    p = _p(results, name, "corrected", one, other)
    if p is not None:
        return p <= LEVEL
    rows = results["strategies"]
    letters = [set((rows[each].get("letters") or {}).get(name) or "") for each in (one, other)]
    return not letters[0] & letters[1] if all(letters) else None


def letters(results: Results, strategy: str, name: str) -> str:
    """Returns the significance letters of a strategy; none where no test was made or there is nothing to compare."""
    rows = results["strategies"]
    return (rows[strategy].get("letters") or {}).get(name) or "" if len(rows) > 1 else ""


def tables(results: Results) -> list[dict[str, Any]]:
    """Returns for each metric the Holm-corrected p-value of every two strategies, best first."""
    found = []
    for name in metric_names(results):
        systems = [one for one in scored(results, name) if _p(results, name, "corrected", one, one) is not None]
        if len(systems) < 2:
            continue
        rows = []
        for one in systems:
            cells = [_cell(results, name, one, other) if other != one else None for other in systems]
            rows.append({"title": title(one), "cells": cells})
        found.append({"label": metric(name).label, "rows": rows})
    return found


def _cell(results: Results, name: str, one: str, other: str) -> dict[str, Any]:
    raw, p = (_p(results, name, which, one, other) for which in ("p", "corrected"))
    return {
        "text": "–" if p is None else written(p),
        "raw": "" if raw is None else f"uncorrected {written(raw)}",
        "differ": p is not None and p <= LEVEL,
    }


def written(p: float) -> str:
    """Returns a p-value to three digits; what would be written as 0 is below 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p(results: Results, name: str, which: str, one: str, other: str) -> float | None:
    comparison = (results.get("comparisons") or {}).get(name) or {}
    systems = comparison.get("systems") or []
    if which not in comparison or one not in systems or other not in systems:
        return None
    return finite(comparison[which][systems.index(one)][systems.index(other)])
