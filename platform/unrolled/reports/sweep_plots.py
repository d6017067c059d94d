"""Plots of a sweep: importance, parallel coordinates, slices, heatmaps, learning curves, gradients and Pareto fronts.

Optuna draws what it can; its figures then get the page's theme, the names of the points and the colours of one
parameter's values. Plotly reads markup in labels, so names and values are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from optuna import visualization
from optuna.trial import TrialState, create_trial

from unrolled.metrics import metric_info
from unrolled.reports.page import Chart, add_heatmap, axis_title, error_bars, layout, line_style, present
from unrolled.reports.sweep_ranking import SPEED, Objective, Parameter, SweepData, at_step, build_study, canonical
from unrolled.reports.sweep_statistics import find_categorical
from unrolled.reports.text import truncated

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "pentagon")
BEST, OTHER, MUTED = "var(--series-beam)", "var(--series-greedy)", "var(--muted)"
LEADERS = 5
"""Points that stand out among parallel coordinates."""
OUTLYING = 3
"""Scores further from the best than so many times the 90th percentile lie outside the chart of learning curves."""
LOG_AXIS = {"type": "log", "nticks": 5, "exponentformat": "power"}
PANEL, ROW, AXIS, CELL = 300, 44, 84, 52
"""Heights in pixels: of a scatter chart, of a category, between parallel axes, of a heatmap's cell."""


def sweep_charts(data: SweepData) -> dict[str, list[Chart]]:
    """Returns the charts by the section of the page they belong to."""
    sections: dict[str, Sequence[Chart | None]] = {
        "importance": [_importance_chart(data), _parallel_chart(data)],
        "values": [_categorical_chart(data, one) for one in data.findings["comparisons"]],
        "ranges": [_numeric_chart(data, one) for one in data.parameters.values() if not one.categorical],
        "pairs": _pair_charts(data),
        "curves": [_curves_chart(data), _history_chart(data)],
        "gradients": [_divergence_chart(data), *_gradient_charts(data)],
        "fronts": [_front_chart(data, front) for front in data.findings["fronts"]],
    }
    return {section: present(charts) for section, charts in sections.items()}


def _importance_chart(data: SweepData) -> Chart | None:
    """Returns the share of the score's variance that each parameter explains, beside what shuffled scores reach.

    Optuna's own chart normalizes the shares, and has only parameters that all points use.
    """
    rows = data.findings["importance"]
    if not rows:
        return None
    labels = [escape(data.parameters[row["key"]].label) + (" *" if row["among"] else "") for row in rows]
    figure = go.Figure(layout=layout(34 * len(rows) + 62, hovermode="closest", bargap=0.4))
    figure.add_bar(
        x=[row["share"] for row in rows],
        y=labels,
        orientation="h",
        marker={"color": [BEST if row["share"] > row["chance"] else MUTED for row in rows]},
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
    figure.update_yaxes(autorange="reversed", showgrid=False, ticksuffix="  ")
    shares = ", ".join(f"{label} {row['share']:.0%}" for label, row in zip(labels, rows, strict=True))
    return Chart(
        "importance",
        f"What moved the {data.score_label(data.step)}",
        f"Bar chart of importance: {shares}.",
        "fANOVA: the share of the score’s variance over the whole space that a parameter explains alone, as a forest "
        "of regression trees has learned it; what is missing to 100 % is due to combinations and noise. The mark is "
        f"what shuffled scores reach once in 20: a bar that stays below it tells nothing. Learned from the "
        f"{max(row['points'] for row in rows)} points that have a score there."
        + (" * Only among the points that use it: a share of their variance." if any(r["among"] for r in rows) else ""),
        figure,
    )


def _parallel_chart(data: SweepData) -> Chart | None:
    """Returns parallel coordinates of all points that have a score; None for a single point or parameter.

    Optuna's axes stand side by side; here they lie below each other, so that the chart fits a phone.
    """
    scores, score = data.scores(data.step), data.score_label(data.step)
    used = {one.label: data.values(one) for one in data.parameters.values()}
    varied = [label for label, by in used.items() if len({canonical(by.get(point)) for point in scores}) > 1]
    if len(scores) < 2 or len(varied) < 2:
        return None
    drawn = visualization.plot_parallel_coordinate(data.study(scores), [*map(escape, varied)], target_name=score)
    names = drawn.layout.xaxis.ticktext
    leaders = sorted(scores, key=lambda point: data.objective.loss(scores[point]))[:LEADERS]
    lines = dict(zip(scores, drawn.data[:-1], strict=True))  # the colour scale comes last
    figure = go.Figure(layout=layout(AXIS * len(names) + 40, hovermode="closest", showlegend=False))
    for point in sorted(lines, key=leaders.__contains__):  # the leaders on top
        line, is_leader = lines[point], point in leaders
        figure.add_scatter(
            x=line.y,
            y=line.x,
            customdata=line.customdata,
            mode="lines",
            line={"color": BEST, "width": 3} if is_leader else {"color": MUTED, "width": 1},
            opacity=0.9 if is_leader else 0.5,
            hovertemplate=f"{escape(data.rows[point]['name'])}<br>{line.hovertemplate}",
        )
    label = {"showarrow": False, "bgcolor": "var(--surface)", "borderpad": 1}
    for depth, name in enumerate(names):
        figure.add_hline(y=depth, line={"color": "var(--line)", "width": 2}, layer="below")
        place = {"x": 0, "y": depth, "xanchor": "left", "yanchor": "bottom", "yshift": 8}
        figure.add_annotation(text=f"<b>{name}</b>", font={"color": "var(--ink)"}, **place, **label)
    for tick in drawn.layout.annotations:
        side = "left" if tick.y == 0 else "right" if tick.y == 1 else "center"
        place = {"x": tick.y, "y": tick.x, "xanchor": side, "yanchor": "top", "yshift": -8}
        text = "–" if tick.text == "None" else escape(truncated(unescape(tick.text), 11))
        figure.add_annotation(text=text, font={"size": 11}, **place, **label)
    figure.update_xaxes(visible=False, range=[-0.03, 1.03])
    figure.update_yaxes(visible=False, range=[len(names) - 0.55, -0.4])
    return Chart(
        "parallel",
        "Every point, from its score to its parameters",
        f"Parallel coordinates of {len(scores)} points over the score and {', '.join(varied)}.",
        f"A line is a point; follow it from axis to axis. The best {len(leaders)} are drawn thick. “–” marks points "
        "that do not use a parameter.",
        figure,
    )


def _slice(data: SweepData, parameter: Parameter, values: Mapping[int, float]) -> go.Figure:
    """Returns Optuna's slice plot: numbers by point against a parameter that all of them use. Categories, whose names
    need room, lie below each other."""
    drawn = visualization.plot_slice(data.study(values), [escape(parameter.label)])
    (dots,) = drawn.data
    chosen = [list(values)[number] for number in dots.marker.color]  # Optuna's colour is the number of the trial
    is_wide = parameter.categorical
    height = ROW * len(parameter.values) + 50 if is_wide else PANEL
    figure = go.Figure(layout=layout(height, hovermode="closest"))
    figure.add_scatter(
        x=dots.y if is_wide else dots.x,
        y=dots.x if is_wide else dots.y,
        text=[escape(data.rows[point]["name"]) for point in chosen],
        mode="markers",
        marker={"size": 9, "opacity": 0.85} | _markers(data, chosen),
        showlegend=False,
        hovertemplate="%{text}: " + ("%{x:.4~g}" if is_wide else "%{y:.4~g} at %{x:.4~g}") + "<extra></extra>",
    )
    figure.update_xaxes(tickangle=0, nticks=5, showgrid=is_wide)
    if is_wide:
        order = list(drawn.layout.xaxis.categoryarray)  # each is the repr of a text
        category = {"type": "category", "categoryorder": "array", "categoryarray": order, "showgrid": False}
        labels = [escape(truncated(parameter.text(value), 24)) for value in parameter.values]
        figure.update_yaxes(range=[len(order) - 0.5, -0.5], tickvals=order, ticktext=labels, **category)
        return figure
    if parameter.logarithmic:
        figure.update_xaxes(**LOG_AXIS)
    _add_legend(figure, data, chosen)
    return figure


def _colour_parameter(data: SweepData) -> Parameter | None:
    """Returns the parameter whose values give points their colours: the cell, or the most important categorical one."""
    if cell := find_categorical(list(data.parameters.values()), "cell"):
        return cell
    by_importance = [data.parameters[row["key"]] for row in data.findings["importance"]]
    candidates = by_importance or list(data.parameters.values())
    return next((one for one in candidates if 1 < len(one.values) <= len(SYMBOLS)), None)


def _markers(data: SweepData, points: Sequence[int]) -> dict[str, list[str]]:
    """Returns colours and symbols of points, by the parameter that gives colours."""
    parameter = _colour_parameter(data)
    values = data.values(parameter) if parameter else {}
    indices = [parameter.index(values[p]) if parameter and p in values else 0 for p in points]
    return {
        "color": [line_style(index)[0] for index in indices],
        "symbol": [SYMBOLS[index % len(SYMBOLS)] for index in indices],
    }


def _add_legend(figure: go.Figure, data: SweepData, points: Sequence[int], mode: str = "markers") -> None:
    """Adds the values that give `points` their colours to the legend."""
    if (parameter := _colour_parameter(data)) is None:
        return
    values = data.values(parameter)
    shown = sorted((point for point in points if point in values), key=lambda point: parameter.index(values[point]))
    for name, point in {escape(parameter.text(values[point])): point for point in shown}.items():
        style = _markers(data, [point])
        line = {"color": style["color"][0], "width": 3}
        figure.add_scatter(
            x=[None], y=[None], mode=mode, name=name, marker={"size": 9} | style, line=line, showlegend=True
        )


def _categorical_chart(data: SweepData, compared: Mapping[str, Any]) -> Chart:
    """Returns every point by the value of a categorical parameter, and the mean of each value with its interval."""
    parameter, objective, basis = data.parameters[compared["key"]], data.objective, compared["bases"][0]
    used, score = data.values(parameter), data.score_label(basis["step"])
    scores = {point: value for point, value in data.scores(basis["step"]).items() if point in used}
    figure = _slice(data, parameter, scores)
    figure.update_traces(marker={"color": MUTED, "size": 7, "opacity": 0.45, "symbol": "circle"})
    for place, row in enumerate(basis["values"]):
        mean, colour = row["mean"], BEST if place == 0 else OTHER
        low, high = row["interval"] or (mean, mean)
        interval = f"95 % {objective.text(low)} to {objective.text(high)}" if row["interval"] else "a single point"
        figure.add_scatter(
            x=[mean],
            y=[repr(escape(row["text"]))],
            mode="markers",
            marker={"color": colour, "size": 12, "symbol": "diamond"},
            error_x=error_bars([mean], [(low, high)], colour),
            showlegend=False,
            hovertemplate=f"mean {objective.text(mean)} of {row['points']}<br>{interval}<extra></extra>",
        )
    # Intervals of two points may be many times as long as all scores: they are cut.
    low, high = min(scores.values()), max(scores.values())
    room = 0.3 * (high - low) or 1.0
    figure.update_xaxes(range=[low - room, high + room])
    means = ", ".join(f"{row['text']} {objective.text(row['mean'])}" for row in basis["values"])
    return Chart(
        f"value-{parameter.key}",
        f"{parameter.label}: {score}",
        f"Dot chart of {score} by {parameter.label}, means: {means}.",
        " ".join(one["statement"] for one in compared["bases"]),
        figure,
    )


def _numeric_chart(data: SweepData, parameter: Parameter) -> Chart | None:
    used, score = data.values(parameter), data.score_label(data.step)
    scores = {point: value for point, value in data.scores(data.step).items() if point in used}
    if len({used[point] for point in scores}) < 2:
        return None
    return Chart(
        f"range-{parameter.key}",
        f"{parameter.label}: {score}",
        f"Scatter chart: {score} against {parameter.label}.",
        "Every point that uses it and has a score there.",
        _slice(data, parameter, scores),
    )


def _pair_charts(data: SweepData) -> list[Chart]:
    """Returns mean and best score by two categorical parameters, at each step at which points are compared."""
    pairs, objective = data.findings["pairs"], data.objective
    if not pairs or len(data.rows) < 2:
        return []
    rows, columns = data.parameters[pairs["rows"]], data.parameters[pairs["columns"]]
    charts: list[Chart] = []
    for table, by in [(table, by) for table in pairs["bases"] for by in ("mean", "best")]:
        for cell in (cells := [dict(cell) for cell in table["cells"]]):
            cell["text"], cell["shade"] = (
                f"{objective.text(cell[by])}<br>n = {cell['points']}",
                -objective.loss(cell[by]),
            )
            cell["hover"] = f"{objective.text(cell['mean'])} mean, {objective.text(cell['best'])} best"
        title = f"{by.capitalize()} {objective.word} {at_step(table['step'])}"
        charts.append(
            Chart(
                f"pairs-{len(charts)}",
                title,
                f"Heatmap of {title.lower()} by {_spoken(rows, columns, cells)}.",
                f"{rows.label} downwards, {columns.label} across; the stronger the colour, the better; n counts "
                "points. Empty cells have none.",
                _heatmap(rows, columns, cells, ("var(--accent-soft)", "var(--accent)")),
            )
        )
    return charts


def _divergence_chart(data: SweepData) -> Chart | None:
    """Returns the share of trials that diverged, by cell and clipping where the sweep varies both."""
    divergence = data.findings["divergence"]
    if not divergence:
        return None
    rows, columns = data.parameters[divergence["rows"]], data.parameters.get(divergence["columns"] or "")
    for cell in (cells := [dict(cell) for cell in divergence["cells"]]):
        low, high = cell["interval"]
        cell["text"], cell["shade"] = f"{cell['diverged']} of {cell['trials']}", cell["share"]
        cell["hover"] = f"{cell['share']:.0%} diverged<br>95 % {low:.0%} to {high:.0%}"
    return Chart(
        "divergence",
        f"Trials that diverged, by {rows.label}{f' and {columns.label}' if columns else ''}",
        f"Heatmap of diverged trials by {_spoken(rows, columns, cells)}.",
        "Trials whose loss or gradient stopped being finite, of all that ended. A recurrent gradient is a product over "
        "time: where its factors exceed 1 it explodes, and clipping caps the step that follows. Touch a cell for its "
        "95 % interval (Wilson).",
        _heatmap(rows, columns, cells, ("var(--surface)", "var(--missing)"), (0.0, 1.0)),
    )


def _spoken(rows: Parameter, columns: Parameter | None, cells: Sequence[Mapping[str, Any]]) -> str:
    names = rows.label + (f" and {columns.label}" if columns else "")
    values = [f"{rows.text(cell['row'])} {columns.text(cell['column']) if columns else ''}".strip() for cell in cells]
    texts = (cell["text"].partition("<br>")[0] for cell in cells)
    return f"{names}: {', '.join(f'{value} {text}' for value, text in zip(values, texts, strict=True))}"


def _heatmap(
    rows: Parameter,
    columns: Parameter | None,
    cells: Sequence[Mapping[str, Any]],
    colours: tuple[str, str],
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """Returns a heatmap of ``shade`` between two colours, with the ``text`` of each cell in it."""
    low, high = limits or (min(cell["shade"] for cell in cells), max(cell["shade"] for cell in cells))
    shape = len(rows.values), len(columns.values) if columns else 1
    shades, hovers = np.full(shape, None, dtype=object), np.full(shape, None, dtype=object)
    figure = go.Figure(layout=layout(CELL * shape[0] + 56, hovermode="closest", showlegend=False))
    for cell in cells:
        y, x = rows.index(cell["row"]), columns.index(cell["column"]) if columns else 0
        shades[y, x], hovers[y, x] = cell["shade"], cell["hover"]
        is_strong = (cell["shade"] - low) / (high - low or 1.0) > 0.55
        font = {"color": "var(--surface)" if is_strong else "var(--ink)", "size": 12}
        figure.add_annotation(x=x, y=y, text=cell["text"], showarrow=False, font=font)
    down, across = ([escape(one.text(value)) for value in one.values] if one else [""] for one in (rows, columns))
    values = {"z": shades.tolist(), "zmin": low, "zmax": high if high > low else low + 1, "hoverongaps": False}
    hover = {"customdata": hovers.tolist(), "hovertemplate": "%{customdata}<extra></extra>"}
    add_heatmap(figure, across, down, colours, 2, **values, **hover)
    figure.update_xaxes(tickangle=0, tickfont_size=11)
    figure.update_yaxes(tickfont_size=11)
    return figure


def _curves_chart(data: SweepData) -> Chart | None:
    """Returns the learning curves of all trials; how a trial ended shows in its line."""
    best, objective = (data.findings["lead"] or {}).get("point"), data.objective
    # The winner is drawn last, on top.
    curves = sorted(data.findings["curves"], key=lambda one: (one["state"] == "finished", one["point"] == best))
    if not any(len(curve["steps"]) > 1 for curve in curves):
        return None
    study = build_study(["minimize"], [])
    for curve in curves:
        history = dict(zip(curve["steps"], curve["scores"], strict=True))
        study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values=history))
    figure = go.Figure(visualization.plot_intermediate_values(study).data, layout(PANEL + 100, hovermode="closest"))
    for curve, line in zip(curves, figure.data, strict=True):
        is_finished, is_best = curve["state"] == "finished", curve["point"] == best
        colour = _markers(data, [curve["point"]])["color"][0]
        dash = {"stopped": "dash", "diverged": "dot"}.get(curve["state"], "solid")
        line.update(
            mode="lines" if len(curve["steps"]) > 1 else "markers",
            marker={"color": colour, "size": 5},
            line={"color": colour, "width": 4 if is_best else 2 if is_finished else 1.2, "dash": dash},
            opacity=1.0 if is_best else 0.85 if is_finished else 0.5,
            showlegend=False,
            hovertemplate=f"{escape(data.rows[curve['point']]['name'])}<br>step %{{x:,d}}: %{{y:.4~g}}<extra></extra>",
        )
    _add_legend(figure, data, [curve["point"] for curve in curves], "lines")
    figure.update_yaxes(range=_curve_range(objective, curves))
    figure.update_xaxes(title=axis_title("Step"), tickformat=",d", showgrid=False)
    states = data.findings["counts"]
    notes = ["The winner is drawn thick."] if best is not None and len(curves) > 1 else []
    notes += ["Dashed lines end where early stopping gave a trial up."] if states.get("stopped") else []
    notes += ["Dotted lines end with the last validation of a trial that diverged."] if states.get("diverged") else []
    return Chart(
        "curves",
        f"Validation {objective.word} of all trials",
        f"Line chart: {objective.word} by step of {len(curves)} trials.",
        " ".join(notes),
        figure,
    )


def _curve_range(objective: Objective, curves: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the range of scores shown, without outliers, which would press the rest flat."""
    whole = [curve for curve in curves if curve["state"] != "diverged"] or curves
    losses = [objective.loss(score) for curve in whole for score in curve["scores"]]
    low = min(losses)
    high = min(max(losses), low + OUTLYING * (float(np.quantile(losses, 0.9)) - low))
    margin = 0.06 * (high - low) or 0.5
    return sorted([objective.loss(low - margin), objective.loss(high + margin)])


def _history_chart(data: SweepData) -> Chart | None:
    """Returns the score of each point in the order of the search, and the best up to then."""
    scores, score = data.scores(data.step), data.score_label(data.step)
    if len(scores) < 2:
        return None
    dots, best, _ = visualization.plot_optimization_history(data.study(scores), target_name="points").data
    figure = go.Figure([dots, best], layout(PANEL, hovermode="closest"))
    names, hover = [escape(data.rows[point]["name"]) for point in scores], "%{text}: %{y:.4~g}<extra></extra>"
    figure.data[0].update(x=list(scores), text=names, hovertemplate=hover, marker={"color": MUTED, "size": 8})
    figure.data[1].update(x=list(scores), name="best so far", line={"color": BEST, "shape": "hv"}, hoverinfo="skip")
    figure.update_xaxes(title=axis_title("Number of the point"), showgrid=False, rangemode="tozero")
    return Chart(
        "history",
        f"The search: {score}",
        f"Scatter chart: {score} of {len(scores)} points in the order of the search, with the best so far.",
        "Points in the order in which they were tried. Where the best still improves at the end, a longer search may "
        "pay.",
        figure,
    )


def _gradient_charts(data: SweepData) -> list[Chart | None]:
    """Returns gradient norms by cell, and norm and share of clipped updates by threshold, as far as logged."""
    cell = _colour_parameter(data)
    threshold = next((one for one in data.parameters.values() if one.key.endswith("threshold")), None)
    norm, clipped = "median gradient norm before clipping", "share of updates clipped"
    rare = "Where the largest is far above the median, explosions are rare: a threshold between the two cuts them off."
    net = (
        "A share near 100 % means that the threshold, not the learning rate, sets the size of the steps; near 0 % "
        "clipping is a safety net that hardly ever touches an update."
    )
    return [
        _gradient_chart(data, cell, "median", norm, "A dot is the median of a point’s updates."),
        _gradient_chart(data, cell, "largest", "largest gradient norm before clipping", rare),
        _gradient_chart(data, threshold, "median", norm, "Of the points that clip."),
        _gradient_chart(data, threshold, "clipped", clipped, f"Of the points that clip. {net}"),
    ]


def _gradient_chart(data: SweepData, parameter: Parameter | None, key: str, what: str, note: str) -> Chart | None:
    used = data.values(parameter) if parameter else {}
    numbers: dict[int, list[float]] = {}
    for row in data.findings["gradients"]:
        if row["point"] in used and row[key] is not None and (row[key] > 0 or key == "clipped"):
            numbers.setdefault(row["point"], []).append(row[key])
    if parameter is None or len(numbers) < 2:
        return None
    figure = _slice(data, parameter, {point: float(np.mean(numbers[point])) for point in sorted(numbers)})
    axis = {"range": [-0.03, 1.03], "tickformat": ".0%"} if key == "clipped" else LOG_AXIS
    (figure.update_xaxes if parameter.categorical else figure.update_yaxes)(**axis)
    what = f"{what[0].upper()}{what[1:]}, by {parameter.label}"
    return Chart(f"gradient-{key}-{parameter.key}", what, f"Scatter chart: {what}.", note, figure)


def _front_chart(data: SweepData, front: Mapping[str, Any]) -> Chart:
    """Returns the first objective against another one, or speed, with the Pareto front."""
    x, y = (metric_info(front[axis]) for axis in ("x", "y"))
    values = {one["point"]: [one["x"], one["y"]] for one in front["points"]}  # sorted by x, as a line wants them
    objectives = {one.name: one for one in (SPEED, *data.objectives)}
    study = data.study(values, [objectives[front[axis]].direction for axis in ("x", "y")])
    drawn = visualization.plot_pareto_front(study, target_names=[x.label, y.label])
    figure = go.Figure(drawn.data, layout(PANEL + 60, hovermode="closest"))
    for dots, size, opacity in zip(figure.data, (8, 13), (0.55, 1.0), strict=True):
        chosen = [list(values)[number] for number in dots.marker.color or ()]
        dots.marker = {"size": size, "opacity": opacity} | _markers(data, chosen)
        dots.update(text=[escape(data.rows[point]["name"]) for point in chosen])
        dots.update(hovertemplate="%{text}<br>%{y:.4~g} at %{x:,.4~g}<extra></extra>")
    figure.data[1].update(mode="markers+lines", line={"color": "var(--ink)", "width": 1.5, "dash": "dot"})
    _add_legend(figure, data, list(values))
    figure.update_xaxes(title=axis_title(x.label), tickformat="~s", nticks=6, tickangle=0)
    speed = " Speeds compare only where trials had the machine alike." if front["x"] == SPEED.name else ""
    return Chart(
        f"front-{front['x']}",
        f"{y.label} against {x.label.lower()}",
        f"Scatter chart: {y.label} against {x.label.lower()} of {len(values)} points.",
        f"Points that finished. No other one is better in both than a large one on the dotted line.{speed}",
        figure,
    )
