"""Plots of the trials of a sweep: learning curves, gradients, parallel coordinates.

Parallel coordinates: every point as a line through its parameters down to its score.

Axes lie below each other, so that the chart grows in height with the parameters and fits a phone.

What the trials did: their learning curves, their gradients, and how fast they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from unrolled.metrics import metric_info
from unrolled.reports.page import Chart, as_json, layout
from unrolled.reports.sweep_plots import BEST, LOST, OTHER, QUIET, View, axes, paint, panels, text, ticks_of_logarithm
from unrolled.reports.sweep_points import SPEED, Parameter
from unrolled.reports.text import finite

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
        low, high = _axis_ends(parameter, known)
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
    low, high = _axis_ends(parameter, known)
    shares = (0.0, 0.5, 1.0)
    values = [low + share * (high - low) for share in shares]
    numbers = [10**value if parameter.logarithmic else value for value in values]
    return unused + [
        (start + share * (1 - start), f"{value:.3g}") for share, value in zip(shares, numbers, strict=True)
    ]


def _axis_ends(parameter: Parameter, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
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


PANES = {"median": "Median gradient norm before clipping", "clipped": "Share of updates clipped"}
OUTLYING = 3  # times as far from the best as nine tenths of all scores


def curves_chart(view: View) -> Chart | None:
    """Returns all learning curves, with the ends of those that were stopped early or diverged marked."""
    curves = view.found["curves"]
    if not any(len(curve["steps"]) > 1 for curve in curves):
        return None
    by, won = view.colours(), (view.found["lead"] or {}).get("point")
    parameters = {row["point"]: row["parameters"] for row in view.found["ranking"]}
    figure = panels([f"{view.goal.label} in validation"], [400])
    if by:
        _legend(figure, by, [parameters[curve["point"]] for curve in curves])
    # The winner is drawn last, on top.
    for curve in sorted(curves, key=lambda one: (one["state"] == "finished", one["point"] == won)):
        value = parameters[curve["point"]].get(by.key) if by else None
        _curve(figure, view, curve, by, value, curve["point"] == won)
    for state, symbol, colour in (("stopped", "line-ns", QUIET), ("diverged", "x-thin", LOST)):
        ends = [curve for curve in curves if curve["state"] == state]
        if ends:
            _ends(figure, view, ends, state, symbol, colour)
    figure.update_yaxes(range=_window(view, curves))
    figure.update_xaxes(title={"text": "Step", "standoff": 6, "font": {"size": 13}}, tickformat=",d", showgrid=False)
    states = view.found["counts"]
    stopped = ", early stops marked" if states.get("stopped") else ""
    notes = ["The winner is drawn thick."] if won is not None and len(curves) > 1 else []
    notes += ["A bar ends a trial that early stopping gave up."] if states.get("stopped") else []
    notes += ["A cross is the last validation of one that diverged."] if states.get("diverged") else []
    return Chart(
        "curves",
        "Learning curves of all trials",
        f"Line chart: {view.goal.word} by step of {len(curves)} trials{stopped}.",
        " ".join(notes),
        as_json(figure),
    )


def _legend(figure: go.Figure, by: Parameter, drawn: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to the legend alone: those of the curves are of many strengths."""
    for value in by.values:
        if any(by.given(parameters, value) for parameters in drawn):
            name, line = text(by, value), {"color": paint(by, value)[0], "width": 3}
            figure.add_scatter(x=[None], y=[None], mode="lines", name=name, legendgroup=name, line=line)


def _curve(
    figure: go.Figure,
    view: View,
    curve: Mapping[str, Any],
    by: Parameter | None,
    value: Any,
    is_best: bool,
) -> None:
    colour = paint(by, value)[0]
    name = text(by, value) if by else "trials"
    finished = curve["state"] == "finished"
    figure.add_scatter(
        x=curve["steps"],
        y=curve["scores"],
        name=name,
        legendgroup=name,
        showlegend=False,
        mode="lines" if len(curve["steps"]) > 1 else "markers",
        line={"color": colour, "width": 4 if is_best else 2 if finished else 1.2},
        marker={"color": colour, "size": 5},
        opacity=1.0 if is_best else 0.85 if finished else 0.5,
        hovertemplate=f"{view.names[curve['point']]}, {name}<br>step %{{x:,d}}: %{{y:.4~g}}<extra></extra>",
    )


def _ends(
    figure: go.Figure, view: View, curves: Sequence[Mapping[str, Any]], state: str, symbol: str, colour: str
) -> None:
    figure.add_scatter(
        x=[curve["steps"][-1] for curve in curves],
        y=[curve["scores"][-1] for curve in curves],
        text=[view.names[curve["point"]] for curve in curves],
        name="stopped early" if state == "stopped" else state,
        mode="markers",
        marker={"symbol": symbol, "size": 9, "line": {"color": colour, "width": 2}, "color": colour},
        hovertemplate="%{text} " + ("stopped early" if state == "stopped" else state) + "<extra></extra>",
    )


def _window(view: View, curves: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the range of scores that is shown: without outliers, which would press the rest flat."""
    losses = [view.goal.loss(score) for curve in curves if curve["state"] != "diverged" for score in curve["scores"]]
    losses = losses or [view.goal.loss(score) for curve in curves for score in curve["scores"]]
    low = min(losses)
    high = min(max(losses), low + OUTLYING * (float(np.quantile(losses, 0.9)) - low))
    room = 0.06 * (high - low) or 0.5
    ends = [view.goal.loss(low - room), view.goal.loss(high + room)]
    return sorted(ends)


def gradient_charts(view: View) -> list[Chart]:
    """Returns gradient norms by cell, and norm and share of clipped updates by threshold, as far as logged."""
    rows = view.found["gradients"]
    parameters = {row["point"]: row["parameters"] for row in view.found["ranking"]}
    threshold = next((one for one in view.parameters.values() if one.key.endswith("threshold")), None)
    charts = [_norm_chart(view, [row for row in rows if row["median"]], parameters)]
    if threshold:
        using = [row for row in rows if threshold.key in parameters[row["point"]]]
        charts.append(_threshold_chart(view, using, parameters, threshold))
    return [chart for chart in charts if chart is not None]


def _norm_chart(view: View, rows: Sequence[dict[str, Any]], parameters: Mapping[int, Any]) -> Chart | None:
    by = view.colours()
    if not rows or by is None:
        return None
    values = [value for value in by.values if any(by.given(parameters[row["point"]], value) for row in rows)]
    figure = panels([""], [52 * len(values)])
    for which, symbol, size in (("largest", "line-ns", 11), ("median", "circle", 8)):
        mine = [row for row in rows if row[which] and row[which] > 0]
        colours = [paint(by, parameters[row["point"]].get(by.key))[0] for row in mine]
        figure.add_scatter(
            x=[row[which] for row in mine],
            y=[text(by, parameters[row["point"]].get(by.key)) for row in mine],
            text=[view.names[row["point"]] for row in mine],
            name=which,
            mode="markers",
            marker={"color": colours, "size": size, "symbol": symbol, "opacity": 0.75}
            | {"line": {"color": colours, "width": 2 if which == "largest" else 0}},
            hovertemplate="%{text}, " + which + " %{x:.3~g}<extra></extra>",
        )
    numbers = [row[which] for row in rows for which in ("median", "largest") if row[which] and row[which] > 0]
    figure.update_xaxes(**ticks_of_logarithm(min(numbers), max(numbers)), tickangle=0)
    labels = [text(by, value) for value in values]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=labels, autorange="reversed")
    return Chart(
        "gradient-norm",
        f"Gradient norm before clipping, by {by.label}",
        f"Dot chart on a logarithmic axis: median and largest gradient norm of each trial by {by.label}.",
        "A trial has a dot, the median of its updates, and a bar, the largest. Far apart: rare explosions, which a "
        "threshold between the two cuts off and leaves the rest as it is.",
        as_json(figure),
    )


def _threshold_chart(
    view: View, rows: Sequence[dict[str, Any]], parameters: Mapping[int, Any], threshold: Parameter
) -> Chart | None:
    panes = [(key, title) for key, title in PANES.items() if sum(row[key] is not None for row in rows) > 1]
    if not panes or threshold.categorical:
        return None
    figure = panels([title for _, title in panes], [220] * len(panes))
    numbers = [parameters[row["point"]][threshold.key] for row in rows]
    low, high = min(threshold.low, *numbers), max(threshold.high, *numbers)
    axis = ticks_of_logarithm(low, high) if threshold.logarithmic else {}
    for number, (key, _) in enumerate(panes, start=1):
        mine = [row for row in rows if row[key] is not None]
        _by_threshold(figure, view, mine, parameters, threshold, key, number)
        end = "" if number == 1 else str(number)
        scale = (
            {"range": [-0.03, 1.03], "tickformat": ".0%"}
            if key == "clipped"
            else {"type": "log", "nticks": 5, "exponentformat": "power"}
        )
        figure.update_layout({f"xaxis{end}": {**axis, "tickangle": 0, "showgrid": False}, f"yaxis{end}": scale})
    return Chart(
        "threshold",
        f"Gradients and clipping by {threshold.label}",
        f"Scatter charts: median gradient norm and share of clipped updates against {threshold.label}.",
        f"{threshold.label} across, of the trials that clip. A share near 100 % means that the threshold, not the "
        "learning rate, sets the size of the steps; near 0 % clipping is a safety net that hardly ever touches "
        "an update.",
        as_json(figure),
    )


def _by_threshold(
    figure: go.Figure,
    view: View,
    rows: Sequence[dict[str, Any]],
    parameters: Mapping[int, Any],
    threshold: Parameter,
    key: str,
    number: int,
) -> None:
    """Adds `key` of the trials against their threshold to the panel `number`, a colour a value."""
    by = view.colours()
    for value in by.values if by else (None,):
        mine = [row for row in rows if not by or by.given(parameters[row["point"]], value)]
        if mine:
            colour, symbol = paint(by, value)
            name = text(by, value) if by else "trials"
            figure.add_scatter(
                x=[parameters[row["point"]][threshold.key] for row in mine],
                y=[row[key] for row in mine],
                text=[view.names[row["point"]] for row in mine],
                name=name,
                legendgroup=name,
                showlegend=by is not None and number == 1,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
                hovertemplate="%{text}<br>threshold %{x:.3~g}: %{y:.3~g}<extra></extra>",
                **axes(number),
            )


def front_charts(view: View) -> list[Chart]:
    """Returns the first objective against speed and against each other objective, with their Pareto fronts."""
    return [_front_chart(view, front) for front in view.found["fronts"]]


def _front_chart(view: View, front: dict[str, Any]) -> Chart:
    by = view.colours()
    parameters = {row["point"]: row["parameters"] for row in view.found["ranking"]}
    x, y = (metric_info(front[axis]) for axis in ("x", "y"))
    figure = panels([y.label], [360])
    ends = [one for one in front["points"] if one["front"]]
    figure.add_scatter(
        x=[one["x"] for one in ends],
        y=[one["y"] for one in ends],
        mode="lines",
        name="Pareto front",
        line={"color": "var(--ink)", "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )
    for value in by.values if by else (None,):
        mine = [one for one in front["points"] if not by or by.given(parameters[one["point"]], value)]
        if mine:
            colour, symbol = paint(by, value)
            figure.add_scatter(
                x=[one["x"] for one in mine],
                y=[one["y"] for one in mine],
                text=[view.names[one["point"]] for one in mine],
                name=text(by, value) if by else "points",
                showlegend=by is not None,
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": symbol,
                    "size": [13 if one["front"] else 8 for one in mine],
                    "opacity": [1.0 if one["front"] else 0.55 for one in mine],
                },
                hovertemplate="%{text}<br>%{y:.4~g} at %{x:,.4~g}<extra></extra>",
            )
    figure.update_xaxes(title={"text": x.label, "font": {"size": 13}}, tickformat="~s", nticks=6, tickangle=0)
    speed = " Speeds compare only where trials had the machine alike." if front["x"] == SPEED.name else ""
    return Chart(
        f"front-{front['x']}",
        f"{y.label} against {x.label.lower()}",
        f"Scatter chart: {y.label} against {x.label.lower()} of {len(front['points'])} points, {len(ends)} on the "
        "front.",
        f"Points that finished. No other one is better in both than a large one on the dotted line.{speed}",
        as_json(figure),
    )
