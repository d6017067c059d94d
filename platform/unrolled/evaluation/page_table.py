"""The table of strategies: a row each, scores with their certainty, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from unrolled.evaluation.charts import colour
from unrolled.evaluation.significance import differ, letters
from unrolled.evaluation.wording import Results, finite, kind, metric_names, samples, scored, spelled, title
from unrolled.metrics import metric

MEASURED = {
    "distinct_1": ("Distinct-1", "{:.1f}"),
    "distinct_2": ("Distinct-2", "{:.1f}"),
    "length_ratio": ("Length ratio", "{:.2f}"),
    "sentences_per_second": ("Outputs / s", "{:,.0f}"),
}


def strategy_table(results: Results, names: Sequence[str]) -> dict[str, Any]:
    """Returns ``columns`` and ``rows`` of the table, in the order of `names`, and the ``settings`` that many share.

    A score is marked ``best`` if it is the best of its metric or does not differ significantly from the best.
    """
    rows = results["strategies"]
    metrics = metric_names(results)
    measured = [key for key in MEASURED if any(finite(row.get(key)) is not None for row in rows.values())]
    shared = _shared(results)
    return {
        "columns": [metric(name).label for name in metrics] + [MEASURED[key][0] for key in measured],
        "rows": [
            {
                "title": title(name),
                "colour": colour(name),
                "scores": [_score(results, one, name) for one in metrics],
                "measured": [_measurement(rows[name].get(key), MEASURED[key][1]) for key in measured],
                "settings": _written(
                    rows[name].get("settings") or {},
                    without={*shared["All strategies"], *shared.get(kind(name), ()), *spelled(name)},
                ),
            }
            for name in names
        ],
        "settings": {title(who): text for who, common in shared.items() if (text := _written(common, without=()))},
        "letters": any(letters(results, name, one) for name in names for one in metrics),
        "samples": any(row.get("samples") for row in rows.values()),
        "distinct": "distinct_1" in measured or "distinct_2" in measured,
    }


def interval(row: Mapping[str, Any], name: str) -> str:
    """Returns a strategy's 95 % interval of metric `name`, such as ``36.5–39.8``; nothing where there is none."""
    ends = (row.get("intervals") or {}).get(name)
    return f"{ends[0]:.1f}–{ends[1]:.1f}" if ends else ""


def _score(results: Results, name: str, strategy: str) -> dict[str, Any]:
    known, row = metric(name), results["strategies"][strategy]
    value = finite(row.get(name))
    ranked = scored(results, name)
    top = finite(results["strategies"][ranked[0]].get(name))
    same = known.text(value) == known.text(top) or differ(results, name, ranked[0], strategy) is False
    return {
        "text": known.text(value),
        "value": value,
        "interval": interval(row, name),
        "letters": letters(results, strategy, name),
        "samples": _samples(row, name),
        "best": len(ranked) > 1 and value is not None and same,
    }


def _samples(row: Mapping[str, Any], name: str) -> str:
    """Returns mean and deviation of a strategy's samples, such as ``28.6 ± 0.3``."""
    known = samples(row, name)
    return "{:.1f} ± {:.1f}".format(*known) if known else ""


def _measurement(value: Any, form: str) -> dict[str, Any]:
    number = finite(value)
    return {"text": "–" if number is None else form.format(number), "value": number}


def _shared(results: Results) -> dict[str, dict[str, Any]]:
    """Returns the settings that all strategies share and, by kind, those that all of the kind share beyond that."""
    rows = results["strategies"]
    everyones = _common([row.get("settings") or {} for row in rows.values()]) if len(rows) > 1 else {}
    shared = {"All strategies": everyones}
    for what in dict.fromkeys(kind(name) for name in rows):
        common = _common([row.get("settings") or {} for name, row in rows.items() if kind(name) == what])
        shared[what] = {key: value for key, value in common.items() if key not in everyones}
    return shared


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = settings
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _written(settings: Mapping[str, Any], without: Collection[str]) -> list[str]:
    return [
        f"{key.replace('_', ' ')} {value}"
        for key, value in settings.items()
        if value is not None and key not in without
    ]
