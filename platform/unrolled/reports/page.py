"""Report pages: templates, cards, the theme of charts, and the table of decoding strategies.

Colours of figures are names of the page's CSS variables (``var(--ink)``), which plotly keeps as they are; the page puts
the colours of the light or dark scheme in their place.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from unrolled.reports.text import (
    Results,
    differ_significantly,
    finite,
    metric_names,
    sample_statistics,
    scored_strategies,
    significance_letters,
    strategy_kind,
    strategy_options,
    strategy_title,
)
from unrolled.training.console import format_duration

Rows = Sequence[Mapping[str, Any]]

MAX_CURVE_POINTS = 1000
"""More than a screen has columns."""
LINE_COLOURS = ("series-beam", "series-greedy", "series-sample", "series-1", "series-2", "series-3")
DASHES = ("solid", "dash", "dot", "dashdot")
STRATEGY_STYLES = {
    "beam": ("series-beam", "circle"),
    "greedy": ("series-greedy", "diamond"),
    "sample": ("series-sample", "square"),
    "mbr": ("series-1", "triangle-up"),
    "best": ("series-2", "cross"),
}
"""Colour and marker of each kind of decoding strategy, the same in every report."""
OTHER_STYLE = ("series-3", "star")


@dataclass(frozen=True)
class Chart:
    """A figure with its heading.

    Attributes:
        id: unique within a page.
        label: text alternative for screen readers.
        note: caption.
    """

    id: str
    title: str
    label: str
    note: str
    figure: go.Figure


def line_style(number: int) -> tuple[str, str]:
    """Returns colour and dash of the line `number`; the first 24 lines all differ."""
    colour = LINE_COLOURS[number % len(LINE_COLOURS)]
    return f"var(--{colour})", DASHES[number // len(LINE_COLOURS) % len(DASHES)]


def strategy_colour(strategy: str) -> str:
    """Returns the CSS variable of a strategy's kind, such as ``var(--series-beam)``."""
    return f"var(--{STRATEGY_STYLES.get(strategy_kind(strategy), OTHER_STYLE)[0]})"


def strategy_marker(strategy: str) -> str:
    """Returns the marker of a strategy's kind, so that colour is never the only sign."""
    return STRATEGY_STYLES.get(strategy_kind(strategy), OTHER_STYLE)[1]


def layout(height: int, **settings: Any) -> go.Layout:
    """Returns the layout of every chart, `height` in pixels, updated with `settings` of plotly's layout."""
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


def axis_title(text: str) -> dict[str, Any]:
    """Returns the title of an axis, as plotly's layout takes it."""
    return {"text": text, "standoff": 6, "font": {"size": 13}}


def error_bars(values: Sequence[float], intervals: Sequence[Sequence[float]], colour: str) -> dict[str, Any]:
    """Returns plotly's error bars from values to the ends of their intervals."""
    pairs = list(zip(values, intervals, strict=True))
    ends = {
        "array": [high - value for value, (_, high) in pairs],
        "arrayminus": [value - low for value, (low, _) in pairs],
    }
    return {"type": "data", "symmetric": False, **ends, "color": colour, "thickness": 2, "width": 5}


def add_line(
    figure: go.Figure, x: Sequence[Any], y: Sequence[Any], name: str, style: tuple[str, str], hover: str
) -> None:
    """Adds a line in a colour and dash; a single value becomes a marker."""
    line = {"color": style[0], "width": 2, "dash": style[1]}
    mode = "lines" if len(y) > 1 else "markers"
    figure.add_scatter(x=list(x), y=list(y), name=name, mode=mode, line=line, hovertemplate=hover)


def add_heatmap(
    figure: go.Figure, across: Sequence[str], down: Sequence[str], colours: tuple[str, str], gap: int, **settings: Any
) -> None:
    """Adds a heatmap between two colours, with labels of its columns on top and of its rows from the top downwards;
    `settings` of plotly's trace."""
    scale = [[0, colours[0]], [1, colours[1]]]
    figure.add_heatmap(colorscale=scale, showscale=False, xgap=gap, ygap=gap, **settings)
    for labels, update in ((across, figure.update_xaxes), (down, figure.update_yaxes)):
        update(tickvals=list(range(len(labels))), ticktext=labels, tickfont={"color": "var(--ink)"}, showgrid=False)
        update(ticks="outside", tickcolor="rgba(0,0,0,0)")  # invisible, to keep labels off the cells
    figure.update_xaxes(side="top")
    figure.update_yaxes(autorange="reversed")


def downsample(rows: Rows) -> Rows:
    """Returns at most `MAX_CURVE_POINTS` of the rows, evenly spaced."""
    return rows[:: -(-len(rows) // MAX_CURVE_POINTS)] if rows else rows


def present(charts: Iterable[Chart | None]) -> list[Chart]:
    """Returns the charts that are not None."""
    return [chart for chart in charts if chart is not None]


@dataclass(frozen=True)
class Card:
    """A number in the row below the headline."""

    label: str
    value: str
    notes: Sequence[str] = ()


def write_page(path: Path, template: str, charts: Mapping[str, Sequence[Chart]], **content: Any) -> None:
    """Writes a self-contained page, which opens without a network; its folder is made.

    Args:
        template: name of the template.
        charts: charts by section.
        content: other variables of the template.

    Raises:
        RunFailed: the page cannot be written.
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
        figures={chart.id: json.loads(chart.figure.to_json()) for group in charts.values() for chart in group},
        plotly=Markup(get_plotlyjs()),  # the library itself, no data in it
        **content,
    )
    with explain_write_errors(path, RunFailed):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page, errors="replace")


def model_cards(results: Results, history: Rows) -> list[Card]:
    """Returns the cards of model size and training, the last of every evaluation report."""
    cards = []
    if parameters := results.get("parameters"):
        cards.append(Card("Parameters", _abbreviated(parameters), ["checkpoint", results["checkpoint"]]))
    if history:
        last = history[-1]
        seconds = finite(last.get("seconds"))
        cards.append(Card("Training", f"{last['step']:,}", ["steps", *([format_duration(seconds)] if seconds else [])]))
    return cards


def report_facts(results: Results) -> dict[str, str]:
    """Returns what is needed to repeat the evaluation, by name."""
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


def _abbreviated(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}\N{NO-BREAK SPACE}{letter}"
    return str(count)


def date(created: str) -> str:
    """Returns an ISO 8601 time in words, in UTC."""
    moment = datetime.fromisoformat(created).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


MEASUREMENTS = {
    "distinct_1": ("Distinct-1", "{:.1f}"),
    "distinct_2": ("Distinct-2", "{:.1f}"),
    "length_ratio": ("Length ratio", "{:.2f}"),
    "sentences_per_second": ("Outputs / s", "{:,.0f}"),
}


def strategy_table(results: Results, names: Sequence[str]) -> dict[str, Any]:
    """Returns ``columns`` and ``rows`` of the table, in the order of `names`, and the ``settings`` that they share.

    A score is marked ``best`` if it is the best of its metric or does not differ significantly from the best.
    """
    rows = results["strategies"]
    metrics = metric_names(results)
    measured = [key for key in MEASUREMENTS if any(finite(row.get(key)) is not None for row in rows.values())]
    shared = _shared_settings(results)
    return {
        "columns": [metric_info(name).label for name in metrics] + [MEASUREMENTS[key][0] for key in measured],
        "rows": [
            {
                "title": strategy_title(name),
                "colour": strategy_colour(name),
                "scores": [_score(results, one, name) for one in metrics],
                "measured": [_measurement(rows[name].get(key), MEASUREMENTS[key][1]) for key in measured],
                "settings": _spelled_out(
                    rows[name].get("settings") or {},
                    without={*shared["All strategies"], *shared.get(strategy_kind(name), ()), *strategy_options(name)},
                ),
            }
            for name in names
        ],
        "settings": {
            strategy_title(who): text for who, common in shared.items() if (text := _spelled_out(common, without=()))
        },
        "letters": any(significance_letters(results, name, one) for name in names for one in metrics),
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
    ranked = scored_strategies(results, name)
    best = finite(results["strategies"][ranked[0]].get(name))
    is_best = (
        known.format(value) == known.format(best) or differ_significantly(results, name, ranked[0], strategy) is False
    )
    return {
        "text": known.format(value),
        "value": value,
        "interval": interval(row, name),
        "letters": significance_letters(results, strategy, name),
        "samples": _samples(row, name),
        "best": len(ranked) > 1 and value is not None and is_best,
    }


def _samples(row: Mapping[str, Any], name: str) -> str:
    """Returns mean and deviation of a strategy's samples, such as ``28.6 ± 0.3``."""
    known = sample_statistics(row, name)
    return "{:.1f} ± {:.1f}".format(*known) if known else ""


def _measurement(value: Any, form: str) -> dict[str, Any]:
    number = finite(value)
    return {"text": "–" if number is None else form.format(number), "value": number}


def _shared_settings(results: Results) -> dict[str, dict[str, Any]]:
    """Returns the settings that all strategies share and, by kind, those that all of the kind share besides."""
    rows = results["strategies"]
    of_all = _common([row.get("settings") or {} for row in rows.values()]) if len(rows) > 1 else {}
    shared = {"All strategies": of_all}
    for what in dict.fromkeys(strategy_kind(name) for name in rows):
        common = _common([row.get("settings") or {} for name, row in rows.items() if strategy_kind(name) == what])
        shared[what] = {key: value for key, value in common.items() if key not in of_all}
    return shared


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = settings
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _spelled_out(settings: Mapping[str, Any], without: Collection[str]) -> list[str]:
    return [
        f"{key.replace('_', ' ')} {value}"
        for key, value in settings.items()
        if value is not None and key not in without
    ]
