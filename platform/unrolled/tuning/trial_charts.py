"""What the trials did: their learning curves, their gradients, and how fast they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from unrolled.evaluation.charts import Chart, as_json
from unrolled.metrics import metric
from unrolled.tuning.front import SPEED
from unrolled.tuning.space_view import Parameter
from unrolled.tuning.view import LOST, QUIET, View, axes, paint, panels, text, ticks_of_logarithm

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
    x, y = (metric(front[axis]) for axis in ("x", "y"))
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
