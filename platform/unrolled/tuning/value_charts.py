"""The score against each parameter: its values compared, or its range with every point."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from unrolled.evaluation.charts import Chart, as_json
from unrolled.evaluation.wording import finite
from unrolled.tuning.space_view import Parameter, identity
from unrolled.tuning.view import BEST, LOST, OTHER, QUIET, SMALL, View, axes, paint, panels, text, ticks_of_logarithm

ROW, PANEL = 40, 250  # pixels of a value's row, of a panel with a range


def value_charts(view: View) -> list[Chart]:
    """Returns a chart a categorical parameter: every point, and the mean of each value with its interval."""
    return [_values_chart(view, one) for one in view.found["comparisons"]]


def range_charts(view: View) -> list[Chart]:
    """Returns a chart a numeric parameter: score against value; along its edge the points that diverged."""
    charts = (_range_chart(view, one) for one in view.parameters.values() if not one.categorical)
    return [chart for chart in charts if chart is not None]


def _values_chart(view: View, compared: dict[str, Any]) -> Chart:
    parameter, goal = view.parameters[compared["key"]], view.goal
    shown = compared["bases"]
    order = [value for value in parameter.values if any(_row(basis, value) for basis in shown)]
    labels = [text(parameter, value) for value in order]
    titles = [f"{goal.label} {view.at(basis['step'])}" for basis in shown]
    figure = panels(titles, [ROW * len(order)] * len(shown), showlegend=False)
    for number, basis in enumerate(shown, start=1):
        scores = view.scores(basis["step"])
        mine = [(row, scores[row["point"]]) for row in view.found["ranking"] if row["point"] in scores]
        mine = [(row, score) for row, score in mine if parameter.key in row["parameters"]]
        figure.add_scatter(
            x=[score for _, score in mine],
            y=[text(parameter, row["parameters"][parameter.key]) for row, _ in mine],
            text=[view.names[row["point"]] for row, _ in mine],
            mode="markers",
            marker={"color": QUIET, "size": 7, "opacity": 0.45},
            hovertemplate="%{text}: %{x:.4~g}<extra></extra>",
            **axes(number),
        )
        for place, row in enumerate(basis["values"]):
            _mean(figure, row, text(parameter, row["value"]), BEST if place == 0 else OTHER, goal.text, number)
        end = "" if number == 1 else str(number)
        category = {"type": "category", "categoryorder": "array", "categoryarray": labels}
        figure.update_layout(
            {
                f"yaxis{end}": {**category, "range": [len(order) - 0.5, -0.5], "showgrid": False},
                f"xaxis{end}": {
                    "range": _window([score for _, score in mine], basis["values"]),
                    "nticks": 5,
                    "tickangle": 0,
                },
            }
        )
    names = ", ".join(f"{row['text']} {goal.text(row['mean'])}" for row in shown[0]["values"])
    return Chart(
        f"value-{parameter.key}",
        parameter.label,
        f"Dot chart of {goal.word} by {parameter.label} {view.at(shown[0]['step'])}, means: {names}.",
        " ".join(basis["statement"] for basis in shown),
        as_json(figure),
    )


def _mean(figure: Any, row: dict[str, Any], label: str, colour: str, written: Any, number: int) -> None:
    low, high = row["interval"] or (row["mean"], row["mean"])
    hover = f"{label}: mean {written(row['mean'])}"
    hover += f"<br>95 % {written(low)} to {written(high)}" if row["interval"] else "<br>a single point"
    figure.add_scatter(
        x=[row["mean"]],
        y=[label],
        mode="markers",
        marker={"color": colour, "size": 12, "symbol": "diamond"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - row["mean"]],
            "arrayminus": [row["mean"] - low],
            "color": colour,
            "thickness": 2,
            "width": 5,
        },
        hovertemplate=f"{hover}<extra></extra>",
        **axes(number),
    )


def _window(scores: Sequence[float], rows: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the range that is shown: points and intervals, but of an interval of two values no more than half of
    what the points span on either side."""
    low, high = min(scores), max(scores)
    room = 0.5 * (high - low) or 1.0
    ends = [end for row in rows for end in row["interval"] or ()]
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    margin = 0.04 * (high - low) or room
    return [low - margin, high + margin]


def _row(basis: dict[str, Any], value: Any) -> bool:
    return any(identity(row["value"]) == identity(value) for row in basis["values"])


def _range_chart(view: View, parameter: Parameter) -> Chart | None:
    goal, by = view.goal, view.colours()
    rows = [row for row in view.found["ranking"] if finite(row["parameters"].get(parameter.key)) is not None]
    numbers = [row["parameters"][parameter.key] for row in rows]
    steps = [step for step in view.bases() if sum(row["point"] in view.scores(step) for row in rows) > 1]
    if len(set(numbers)) < 2 or not steps:
        return None
    titles = [f"{goal.label} {view.at(step)}" for step in steps]
    figure = panels(titles, [PANEL] * len(steps))
    low, high = min(parameter.low, *numbers), max(parameter.high, *numbers)
    named: set[str] = set()
    for number, step in enumerate(steps, start=1):
        scores = view.scores(step)
        for value in by.values if by else (None,):
            mine = [row for row in rows if row["point"] in scores and (not by or by.given(row["parameters"], value))]
            if mine:
                name = text(by, value) if by else "points"
                colour, symbol = paint(by, value)
                figure.add_scatter(
                    x=[row["parameters"][parameter.key] for row in mine],
                    y=[scores[row["point"]] for row in mine],
                    text=[view.names[row["point"]] for row in mine],
                    name=name,
                    legendgroup=name,
                    showlegend=bool(by) and name not in named,
                    mode="markers",
                    marker={"color": colour, "size": 9, "symbol": symbol, "opacity": 0.85},
                    hovertemplate="%{text}<br>%{x:.4~g}: %{y:.4~g}<extra></extra>",
                    **axes(number),
                )
                named.add(name)
        end = "" if number == 1 else str(number)
        axis = ticks_of_logarithm(low, high) if parameter.logarithmic else {"range": _padded(low, high)}
        figure.update_layout({f"xaxis{end}": {**axis, "tickangle": 0, "showgrid": False}})
    lost = [row for row in rows if row["state"] == "diverged"]
    if lost:
        _edge(figure, view, lost, parameter, view.scores(steps[0]))
    scale = ", a logarithmic axis" if parameter.logarithmic else ""
    return Chart(
        f"range-{parameter.key}",
        parameter.label,
        f"Scatter chart: {goal.word} {view.at(steps[0])} against {parameter.label}{scale}.",
        f"A point each that uses it. {'Crosses along the edge diverged. ' if lost else ''}"
        + (f"Below, those that finished, {view.at(None)}." if len(steps) > 1 else ""),
        as_json(figure),
    )


def _edge(figure: Any, view: View, lost: Any, parameter: Parameter, scores: dict[int, float]) -> None:
    """Adds the points that diverged at the worse edge of the first panel: they have no score."""
    ends = [min(scores.values()), max(scores.values())]
    room = 0.12 * (ends[1] - ends[0]) or 1.0
    at = ends[1] + room if view.goal.lower_is_better else ends[0] - room
    figure.add_scatter(
        x=[row["parameters"][parameter.key] for row in lost],
        y=[at] * len(lost),
        text=[view.names[row["point"]] for row in lost],
        name="diverged",
        mode="markers",
        marker={"color": LOST, "size": 8, "symbol": "x-thin", "line": {"color": LOST, "width": 2}},
        hovertemplate="%{text} diverged<br>%{x:.4~g}<extra></extra>",
    )


def _padded(low: float, high: float) -> list[float]:
    room = 0.04 * (high - low)
    return [low - room, high + room]


def importance_chart(view: View) -> Chart | None:
    """Returns how much of the score's variance each parameter explains, beside what chance alone gives it."""
    rows = view.found["importance"]
    if not rows:
        return None
    labels = [escape(view.parameters[row["key"]].label) + (" *" if row["among"] else "") for row in rows]
    figure = panels([""], [34 * len(rows)], bargap=0.4)
    figure.add_bar(
        x=[row["share"] for row in rows],
        y=[labels[place] for place in range(len(rows))],
        orientation="h",
        name="share of variance",
        marker={"color": [BEST if row["share"] > row["chance"] else QUIET for row in rows]},
        showlegend=False,
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
    )
    figure.add_scatter(
        x=[row["chance"] for row in rows],
        y=labels,
        mode="markers",
        name="reached by chance once in 20",
        marker={"symbol": "line-ns", "size": 18, "line": {"color": "var(--ink)", "width": 2}},
        hovertemplate="chance: up to %{x:.0%}<extra></extra>",
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", nticks=5)
    figure.update_yaxes(autorange="reversed", showgrid=False, tickfont=SMALL, ticksuffix="  ")
    told = ", ".join(f"{label} {row['share']:.0%}" for label, row in zip(labels, rows, strict=True))
    step = view.found["step"]
    some = any(row["among"] for row in rows)
    points = max(row["points"] for row in rows)
    return Chart(
        "importance",
        f"What moved the {view.goal.word} {view.at(step)}",
        f"Bar chart of importance: {told}.",
        "fANOVA: the share of the score’s variance over the whole space that a parameter explains alone, as a forest "
        "of regression trees has learned it; what is missing to 100 % is due to combinations and noise. The mark is "
        f"what shuffled scores reach once in 20: a bar that stays below it tells nothing. Learned from the "
        f"{points} points that have a score there."
        + (" * Only among the points that use it: a share of their variance." if some else ""),
        as_json(figure),
    )
