"""Report pages: templates, cards, charts and score tables.

What all charts share: plotly figures whose colours are names of the page's CSS variables.

plotly keeps ``var(--…)`` as it is; the page puts the colour of the moment in its place, light or dark.

What the pages of all evaluations share.

The table of strategies: a row each, scores with their certainty, and what they cost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unrolled.errors import RunFailed
from unrolled.files import explain_write_errors, write_atomic
from unrolled.metrics import metric_info
from unrolled.reports.text import Results, differ, finite, kind, letters, metric_names, samples, scored, spelled, title
from unrolled.training.console import format_duration

Rows = Sequence[Mapping[str, Any]]

POINTS = 1000  # of a curve: more than a screen has columns
PAINT = ("series-beam", "series-greedy", "series-sample", "series-1", "series-2", "series-3")
DASHES = ("solid", "dash", "dot", "dashdot")
KINDS = {
    "beam": ("series-beam", "circle"),
    "greedy": ("series-greedy", "diamond"),
    "sample": ("series-sample", "square"),
    "mbr": ("series-1", "triangle-up"),
    "best": ("series-2", "cross"),
}
"""Colour and marker of each kind of strategy, the same in every report."""
OTHER = ("series-3", "star")


@dataclass(frozen=True)
class Chart:
    """A figure with what stands around it: its `label` for who cannot see it, its `note` for who learns."""

    id: str
    title: str
    label: str
    note: str
    figure: dict[str, Any]


def look(number: int) -> tuple[str, str]:
    """Returns colour and dash of the line `number`: no two of the first 24 look the same."""
    return f"var(--{PAINT[number % len(PAINT)]})", DASHES[number // len(PAINT) % len(DASHES)]


def colour(strategy: str) -> str:
    """Returns the CSS variable of a strategy's kind, such as ``var(--series-beam)``."""
    return f"var(--{KINDS.get(kind(strategy), OTHER)[0]})"


def symbol(strategy: str) -> str:
    """Returns the marker of a strategy's kind, so that colour is never the only sign."""
    return KINDS.get(kind(strategy), OTHER)[1]


def layout(height: int, **settings: Any) -> go.Layout:
    """Returns the look of every chart, `height` in pixels; `settings` of plotly's layout come on top."""
    axis = {
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
        "fixedrange": False,
    }
    hover = {"bgcolor": "var(--surface)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}}
    defaults: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 28, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--muted)", "size": 13},
        "hoverlabel": hover,
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        "template": {"layout": {"xaxis": axis, "yaxis": axis}},
    }
    return go.Layout(defaults | settings)


def thin(rows: Rows) -> Rows:
    """Returns at most `POINTS` of the rows, evenly."""
    return rows[:: -(-len(rows) // POINTS)] if rows else rows


def as_json(figure: go.Figure) -> dict[str, Any]:
    """Returns the figure as plain lists and numbers, NaN as None."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain


@dataclass(frozen=True)
class Card:
    """One number of the row below the headline."""

    label: str
    value: str
    notes: Sequence[str] = ()


def write_page(path: Path, template: str, charts: Mapping[str, Sequence[Chart]], **content: Any) -> None:
    """Writes a page that opens without a network.

    Args:
        charts: by the section they stand in.
        content: what else the template names.

    Raises:
        RunFailed: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("unrolled.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    page = environment.get_template(template).render(
        charts=charts,
        figures={chart.id: chart.figure for group in charts.values() for chart in group},
        plotly=Markup(get_plotlyjs()),  # the library itself, no data in it
        **content,
    )
    with explain_write_errors(path, RunFailed):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page, errors="replace")


def size_and_training(results: Results, history: Sequence[Mapping[str, Any]]) -> list[Card]:
    """Returns the cards that every report ends with."""
    cards = []
    if parameters := results.get("parameters"):
        cards.append(Card("Parameters", _compact(parameters), ["checkpoint", results["checkpoint"]]))
    if history:
        last = history[-1]
        seconds = finite(last.get("seconds"))
        cards.append(Card("Training", f"{last['step']:,}", ["steps", *([format_duration(seconds)] if seconds else [])]))
    return cards


def facts(results: Results) -> dict[str, str]:
    """Returns what else is needed to repeat the evaluation."""
    workers = results.get("workers")
    facts = {
        "Run": results["run"],
        "Checkpoint": results["checkpoint"],
        "Data": (results.get("data") or {}).get("source"),
        "Machine": f"{results.get('device', '')}, {workers} worker{'s' if workers != 1 else ''}" if workers else None,
        "Made": date(results["created"]),
        "Version": f"unrolled {results['version']}",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _compact(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}\N{NO-BREAK SPACE}{letter}"
    return str(count)


def date(created: str) -> str:
    """Returns an ISO moment as a reader writes it, in UTC."""
    moment = datetime.fromisoformat(created).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


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
        "columns": [metric_info(name).label for name in metrics] + [MEASURED[key][0] for key in measured],
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
    known, row = metric_info(name), results["strategies"][strategy]
    value = finite(row.get(name))
    ranked = scored(results, name)
    top = finite(results["strategies"][ranked[0]].get(name))
    same = known.format(value) == known.format(top) or differ(results, name, ranked[0], strategy) is False
    return {
        "text": known.format(value),
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
