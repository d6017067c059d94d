"""Two parameters at once as heatmaps: scores by pairs of values, and which of them diverged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.charts import Chart, as_json, layout
from unrolled.tuning.space_view import Parameter, identity
from unrolled.tuning.view import SMALL, View, text

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
