"""Plots of a sweep: scores by parameter value and by pairs of parameters.

What the charts of a sweep share: findings with their parameters, colours of values, names that are no markup.

Two parameters at once as heatmaps: scores by pairs of values, and which of them diverged.

The score against each parameter: its values compared, or its range with every point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from unrolled.reports.page import Chart, as_json, layout, look
from unrolled.reports.sweep_analysis import Findings
from unrolled.reports.sweep_points import Entry, Objective, Parameter, identity, objectives, parameters_of
from unrolled.reports.sweep_statistics import named
from unrolled.reports.text import finite

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "pentagon")
BEST, OTHER, LOST, QUIET = "var(--series-beam)", "var(--series-greedy)", "var(--missing)", "var(--muted)"
SMALL = {"size": 11}
MARKS = 6  # of a logarithmic axis


@dataclass(frozen=True)
class View:
    """A sweep as it is drawn."""

    found: Findings
    parameters: Mapping[str, Parameter]
    goals: Sequence[Objective]

    @property
    def goal(self) -> Objective:
        """The first objective, which ranks the points."""
        return self.goals[0]

    @property
    def names(self) -> dict[int, str]:
        """Names of the points by number, as text of a chart."""
        return {row["point"]: escape(row["name"]) for row in self.found["ranking"]}

    def colours(self) -> Parameter | None:
        """Returns the parameter whose values give points their colours: the cell, or the most important one."""
        cell = named(list(self.parameters.values()), "cell")
        if cell:
            return cell
        keys = [row["key"] for row in self.found["importance"]]
        ranked = [self.parameters[key] for key in keys] or list(self.parameters.values())
        return next((one for one in ranked if 1 < len(one.values) <= len(SYMBOLS)), None)

    def at(self, step: int | None) -> str:
        """Returns where scores are taken: ``at step 100`` or ``at the end``."""
        return "at the end" if step is None else f"at step {step:,}"

    def scores(self, step: int | None) -> dict[int, float]:
        """Returns the scores of a basis by point: at `step`, or of the points that finished."""
        rows = self.found["ranking"]
        if step is not None:
            return {row["point"]: row["at_step"] for row in rows if row["at_step"] is not None}
        ends = {row["point"]: row["scores"][self.goal.name]["mean"] for row in rows if row["state"] == "finished"}
        return {point: score for point, score in ends.items() if score is not None}

    def bases(self) -> list[int | None]:
        """Returns the steps at which points are compared, the fairest first; None is the end."""
        steps = [None] if self.found["step"] is None else [self.found["step"], None]
        return [step for step in steps if self.scores(step)]


def view(sweep: Entry, found: Findings) -> View:
    """Returns the findings of a sweep ready to be drawn."""
    return View(found, {one.key: one for one in parameters_of(sweep)}, objectives(sweep))


def text(parameter: Parameter, value: Any) -> str:
    """Returns a value as text of a chart: plotly reads markup, so what looks like it stays what it is."""
    return escape(parameter.text(value))


def paint(parameter: Parameter | None, value: Any) -> tuple[str, str]:
    """Returns colour and marker of a value."""
    if parameter is None:
        return BEST, SYMBOLS[0]
    place = parameter.place(value)
    return look(place)[0], SYMBOLS[place % len(SYMBOLS)]


def panels(titles: Sequence[str], heights: Sequence[int], **settings: Any) -> go.Figure:
    """Returns charts of `heights` pixels below each other, each with its title at the left."""
    gaps = 62  # pixels between two: tick labels of the upper, title of the lower
    total = sum(heights) + gaps * len(heights)
    figure = go.Figure(layout=layout(total, hovermode="closest", **settings))
    top = 1.0
    for number, (title, height) in enumerate(zip(titles, heights, strict=True), start=1):
        end = "" if number == 1 else str(number)
        low = max(0.0, top - height / (total - 36))
        place = {f"xaxis{end}": {"anchor": f"y{end}"}, f"yaxis{end}": {"anchor": f"x{end}", "domain": [low, top]}}
        figure.update_layout(place)
        if title:
            heading = {"xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left", "yanchor": "bottom"}
            figure.add_annotation(text=title, showarrow=False, font={"color": "var(--ink)", "size": 13}, **heading)
        top = low - gaps / (total - 36)
    return figure


def axes(number: int) -> dict[str, str]:
    """Returns the axes of the panel `number`, from 1, as a trace names them."""
    end = "" if number == 1 else str(number)
    return {"xaxis": f"x{end}", "yaxis": f"y{end}"}


def ticks_of_logarithm(low: float, high: float) -> dict[str, Any]:
    """Returns an x axis from `low` to `high` by the logarithm, marked at a few powers of ten."""
    first, last = math.log10(low), math.log10(high)
    room = 0.04 * (last - first) or 0.1
    axis: dict[str, Any] = {"type": "log", "range": [first - room, last + room]}
    powers = range(math.floor(first), math.ceil(last) + 1)
    if len(powers) > 2:
        powers = powers[:: -(-len(powers) // MARKS)]
        # Long rows of zeros are hard to count.
        labels = [f"{10.0**power:g}" if -4 < power < 5 else f"10<sup>{power}</sup>" for power in powers]
        axis |= {"tickvals": [10.0**power for power in powers], "ticktext": labels}
    return axis


CELL = 52  # pixels
BY = {"mean": "Mean", "best": "Best"}


def pair_charts(view: View) -> list[Chart]:
    """Returns mean and best score by two categorical parameters, for each basis; a reader chooses one."""
    pairs = view.found["pairs"]
    if not pairs or len(view.found["ranking"]) < 2:
        return []
    rows, columns = view.parameters[pairs["rows"]], view.parameters[pairs["columns"]]
    charts: list[Chart] = []
    for basis in pairs["bases"]:
        for by, word in BY.items():
            title = f"{word} {view.goal.word} {view.at(basis['step'])}"
            charts.append(_score_chart(view, rows, columns, basis["cells"], by, title, len(charts)))
    return charts


def divergence_chart(view: View) -> Chart | None:
    """Returns the share of trials that diverged, by cell and clipping where the sweep varies both."""
    found = view.found["divergence"]
    if not found:
        return None
    rows = view.parameters[found["rows"]]
    columns = view.parameters[found["columns"]] if found["columns"] else None
    cells = [
        cell | {"shade": cell["share"], "text": f"{cell['diverged']} of {cell['trials']}", "hover": _share(cell)}
        for cell in found["cells"]
    ]
    figure = _heatmap(rows, columns, cells, "var(--missing)", ends=(0.0, 1.0))
    names = f"{rows.label} and {columns.label}" if columns else rows.label
    told = ", ".join(
        f"{rows.text(cell['row'])}{' ' + columns.text(cell['column']) if columns else ''} {cell['text']}"
        for cell in found["cells"]
        for cell in [cell | {"text": f"{cell['diverged']} of {cell['trials']}"}]
    )
    return Chart(
        "divergence",
        f"Trials that diverged, by {names}",
        f"Heatmap of diverged trials by {names}: {told}.",
        "Trials whose loss or gradient stopped being finite, of all that ended. A recurrent gradient is a product over "
        "time: where its factors exceed 1 it explodes, and clipping caps the step that follows. Touch a cell for its "
        "95 % interval (Wilson).",
        as_json(figure),
    )


def _score_chart(
    view: View,
    rows: Parameter,
    columns: Parameter,
    found: Sequence[dict[str, Any]],
    by: str,
    title: str,
    number: int,
) -> Chart:
    goal = view.goal
    cells = [
        cell
        | {
            "shade": -goal.loss(cell[by]),
            "text": f"{goal.text(cell[by])}<br>n = {cell['points']}",
            "hover": f"{goal.text(cell['mean'])} mean, {goal.text(cell['best'])} best of {cell['points']}",
        }
        for cell in found
    ]
    told = ", ".join(f"{rows.text(cell['row'])} {columns.text(cell['column'])} {goal.text(cell[by])}" for cell in found)
    return Chart(
        f"pairs-{number}",
        title,
        f"Heatmap of {title.lower()} by {rows.label} and {columns.label}: {told}.",
        f"{rows.label} downwards, {columns.label} across; the stronger the colour, the better; n counts points. Empty "
        "cells have none.",
        as_json(_heatmap(rows, columns, cells, "var(--accent)", "var(--accent-soft)")),
    )


def _share(cell: dict[str, Any]) -> str:
    low, high = cell["interval"]
    return f"{cell['share']:.0%} diverged<br>95 % {low:.0%} to {high:.0%}"


def _heatmap(
    rows: Parameter,
    columns: Parameter | None,
    cells: Sequence[dict[str, Any]],
    colour: str,
    weakest: str = "var(--surface)",
    ends: tuple[float, float] | None = None,
) -> go.Figure:
    """Returns a heatmap of ``shade``, from `weakest` to `colour`, with the ``text`` of each cell in it."""
    down = {identity(value): place for place, value in enumerate(rows.values)}
    across = {identity(value): place for place, value in enumerate(columns.values if columns else (None,))}
    table = [[None] * len(across) for _ in down]
    low, high = ends or (min(cell["shade"] for cell in cells), max(cell["shade"] for cell in cells))
    figure = go.Figure(layout=layout(CELL * len(down) + 56, hovermode="closest", showlegend=False))

    def spread(key: str) -> list[list[Any]]:
        filled: list[list[Any]] = [list(line) for line in table]
        for cell in cells:
            filled[down[identity(cell["row"])]][across[identity(cell["column"])]] = cell[key]
        return filled

    figure.add_heatmap(
        z=spread("shade"),
        customdata=spread("hover"),
        zmin=low,
        zmax=high if high > low else low + 1,
        colorscale=[[0, weakest], [1, colour]],
        showscale=False,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertemplate="%{customdata}<extra></extra>",
    )
    for cell in cells:
        is_strong = (cell["shade"] - low) / (high - low or 1.0) > 0.55
        figure.add_annotation(
            x=across[identity(cell["column"])],
            y=down[identity(cell["row"])],
            text=cell["text"],
            showarrow=False,
            font={"color": "var(--surface)" if is_strong else "var(--ink)", "size": 12},
        )
    _category(figure.update_xaxes, [text(columns, value) for value in columns.values] if columns else [""])
    _category(figure.update_yaxes, [text(rows, value) for value in rows.values])
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="top", tickangle=0)
    return figure


def _category(update: Callable[..., Any], labels: Sequence[str]) -> None:
    unseen = {"ticks": "outside", "tickcolor": "rgba(0,0,0,0)"}  # they keep labels off the cells
    font = {**SMALL, "color": "var(--ink)"}
    update(tickvals=list(range(len(labels))), ticktext=labels, showgrid=False, tickfont=font, **unseen)


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
