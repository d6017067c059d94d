"""What all charts share: plotly figures whose colours are names of the page's CSS variables.

plotly keeps ``var(--…)`` as it is; the page puts the colour of the moment in its place, light or dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.wording import kind

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
