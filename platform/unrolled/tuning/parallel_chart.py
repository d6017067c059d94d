"""Parallel coordinates: every point as a line through its parameters down to its score.

Axes lie below each other, so that the chart grows in height with the parameters and fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.charts import Chart, as_json, layout
from unrolled.evaluation.wording import finite
from unrolled.tuning.space_view import Parameter
from unrolled.tuning.view import BEST, LOST, OTHER, QUIET, View

AXIS = 84  # pixels from one to the next
UNUSED = 0.04
"""Where a point stands that does not use a parameter; its values begin at START."""
START = 0.14
LEADERS = 5
LETTERS = 11  # of a tick's label


def parallel_chart(view: View) -> Chart | None:
    """Returns the chart; None for a single point or parameter."""
    rows = view.found["ranking"]
    importance = {row["key"]: place for place, row in enumerate(view.found["importance"])}
    shown = [one for one in view.parameters.values() if _varies(one, rows)]
    shown.sort(key=lambda one: importance.get(one.key, len(importance)))
    bases = view.bases()
    if len(rows) < 2 or len(shown) < 2 or not bases:
        return None
    scores = view.scores(bases[0])
    axes = [_places(one, rows) for one in shown]
    figure = go.Figure(layout=layout(AXIS * (len(shown) + 1) + 70, hovermode="closest"))
    for name, mine, style in _groups(rows, scores):
        _lines(figure, view, name, mine, [*axes, _score_places(scores)], style)
    for depth, parameter in enumerate(shown):
        _axis(figure, depth, parameter.label, _ticks(parameter, rows))
    ends = (min(scores.values()), max(scores.values()))
    marks = [(0.0, view.goal.text(ends[0])), (1.0, view.goal.text(ends[1]))]
    _axis(figure, len(shown), f"{view.goal.word} {view.at(bases[0])}", marks)
    figure.update_xaxes(visible=False, range=[-0.03, 1.03])
    figure.update_yaxes(visible=False, range=[len(shown) + 0.45, -0.4])
    return Chart(
        "parallel",
        "Every point, from its parameters to its score",
        f"Parallel coordinates of {len(rows)} points over {', '.join(one.label for one in shown)} and the score.",
        "A line is a point; follow it from axis to axis, the most important parameter on top. “–” marks points that do "
        "not use a parameter. Touch a name of the legend to hide its lines, twice to see them alone.",
        as_json(figure),
    )


def _varies(parameter: Parameter, rows: Sequence[dict[str, Any]]) -> bool:
    return len({parameter.text(row["parameters"].get(parameter.key)) for row in rows}) > 1


def _groups(
    rows: Sequence[dict[str, Any]], scores: dict[int, float]
) -> list[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Returns the points as they are told apart, the leaders drawn last, on top."""
    scored = [row for row in rows if row["point"] in scores and row["state"] != "diverged"]
    leaders = [row for row in scored if row["state"] == "finished"][:LEADERS]
    finished = [row for row in scored if row["state"] == "finished" and row not in leaders]
    others = [row for row in scored if row["state"] != "finished"]
    lost = [row for row in rows if row["state"] == "diverged"]
    found = [
        ("diverged", lost, {"color": LOST, "width": 1.2, "dash": "dot"}),
        ("stopped early", others, {"color": QUIET, "width": 1}),
        ("finished", finished, {"color": OTHER, "width": 1.6}),
        (f"best {len(leaders)}", leaders, {"color": BEST, "width": 3}),
    ]
    return [group for group in found if group[1]]


def _lines(
    figure: go.Figure, view: View, name: str, rows: Sequence[dict[str, Any]], axes: Sequence[Any], style: dict[str, Any]
) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    labels: list[str] = []
    for row in rows:
        spots = [places.get(row["point"]) for places in axes]
        x += [*spots, None]
        y += [*(depth if spot is not None else None for depth, spot in enumerate(spots)), None]
        labels += [view.names[row["point"]]] * (len(axes) + 1)
    figure.add_scatter(
        x=x,
        y=y,
        text=labels,
        name=name,
        mode="lines+markers",
        line=style,
        marker={"size": 4, "color": style["color"]},
        opacity=0.6 if style["color"] == QUIET else 0.9,
        hovertemplate="%{text}<extra></extra>",
    )


def _places(parameter: Parameter, rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Returns where each point crosses the axis, 0 to 1; points of one category stand side by side, best first."""
    known = [row for row in rows if parameter.key in row["parameters"]]
    start = START if len(known) < len(rows) else 0.0
    spots = {row["point"]: UNUSED for row in rows}
    if not parameter.categorical:
        low, high = _ends(parameter, known)
        for row in known:
            share = (_measure(parameter, row["parameters"][parameter.key]) - low) / (high - low or 1.0)
            spots[row["point"]] = start + share * (1 - start)
        return spots
    width = (1 - start) / len(parameter.values)
    for place in range(len(parameter.values) + 1):
        mine = [row for row in known if parameter.place(row["parameters"][parameter.key]) == place]
        for number, row in enumerate(mine):
            aside = 0.6 * ((number + 0.5) / len(mine) - 0.5)
            spots[row["point"]] = start + width * (min(place, len(parameter.values) - 1) + 0.5 + aside)
    return spots


def _score_places(scores: dict[int, float]) -> dict[int, float]:
    low, high = min(scores.values()), max(scores.values())
    return {point: (score - low) / (high - low or 1.0) for point, score in scores.items()}


def _ticks(parameter: Parameter, rows: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    known = [row for row in rows if parameter.key in row["parameters"]]
    start = START if len(known) < len(rows) else 0.0
    unused = [(UNUSED, "–")] if start else []
    if parameter.categorical:
        width = (1 - start) / len(parameter.values)
        labels = [parameter.text(value) for value in parameter.values]
        labels = [escape(label if len(label) <= LETTERS else label[: LETTERS - 1] + "…") for label in labels]
        return unused + [(start + width * (place + 0.5), label) for place, label in enumerate(labels)]
    low, high = _ends(parameter, known)
    shares = (0.0, 0.5, 1.0)
    values = [low + share * (high - low) for share in shares]
    numbers = [10**value if parameter.logarithmic else value for value in values]
    return unused + [
        (start + share * (1 - start), f"{value:.3g}") for share, value in zip(shares, numbers, strict=True)
    ]


def _ends(parameter: Parameter, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    drawn = [_measure(parameter, row["parameters"][parameter.key]) for row in rows]
    ends = [_measure(parameter, end) for end in (parameter.low, parameter.high)]
    return min(ends[0], *drawn), max(ends[1], *drawn)


def _measure(parameter: Parameter, value: Any) -> float:
    number = finite(value) or 0.0
    return math.log10(number) if parameter.logarithmic else number


def _axis(figure: go.Figure, depth: int, label: str, ticks: Sequence[tuple[float, str]]) -> None:
    figure.add_shape(
        type="line", x0=0, x1=1, y0=depth, y1=depth, line={"color": "var(--line)", "width": 2}, layer="below"
    )
    plain = {"showarrow": False, "y": depth, "bgcolor": "var(--surface)", "borderpad": 1}
    name = {"xanchor": "left", "yanchor": "bottom", "yshift": 8, "font": {"color": "var(--ink)", "size": 13}}
    figure.add_annotation(x=0, text=f"<b>{escape(label)}</b>", **plain, **name)
    for place, words in ticks:
        side = "left" if place == 0 else "right" if place == 1 else "center"
        below = {"xanchor": side, "yanchor": "top", "yshift": -8, "font": {"color": "var(--muted)", "size": 11}}
        figure.add_annotation(x=place, text=words, **plain, **below)
