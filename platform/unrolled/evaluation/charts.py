"""The report's charts, as plotly figures whose colours are names of the page's CSS variables.

plotly keeps ``var(--…)`` as it is; the page puts the colour of the moment in its place, light or dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unrolled.evaluation.wording import Results, finite, joined, metric_names, ranking, short, title
from unrolled.metrics import METRICS, metric

Rows = Sequence[Mapping[str, Any]]

DECODED = " The validation score comes from decoded text, so it may improve while the loss rests."
POINTS = 1000  # of a curve: more than a screen has columns
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
PAINT = ("series-beam", "series-greedy", "series-sample", "series-1", "series-2", "series-3")
DASHES = ("solid", "dash", "dot", "dashdot")
SERIES = ("beam", "greedy", "sample")  # their colours never change; other strategies take the spare ones


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


def colours(strategies: Sequence[str]) -> dict[str, str]:
    """Returns the CSS variable of each strategy, such as ``var(--series-beam)``."""
    spare = (f"var(--series-{number})" for number in (1, 2, 3) * len(strategies))
    return {name: f"var(--series-{name})" if name in SERIES else next(spare) for name in strategies}


def score_charts(results: Results) -> list[Chart]:
    """Returns one dot chart a metric: a dot a strategy, whiskers for its 95 % interval."""
    return [_score_chart(results, name) for name in metric_names(results)]


def length_chart(results: Results) -> Chart | None:
    """Returns the headline metric by sentence length, or None where no strategy has buckets."""
    strategies = {name: row["by_length"] for name, row in results["strategies"].items() if row.get("by_length")}
    names = [name for name in metric_names(results) if any(name in b for rows in strategies.values() for b in rows)]
    if not names:
        return None
    known, paint = metric(names[0]), colours(list(results["strategies"]))
    figure = go.Figure(layout=layout(380))
    for strategy in [name for name in ranking(results, names[0]) if name in strategies]:
        buckets = strategies[strategy]
        figure.add_scatter(
            x=[f"{_span(b)}<br>n = {b['examples']:,}" for b in buckets],
            y=[finite(b.get(names[0])) for b in buckets],
            name=title(strategy),
            mode="lines+markers",
            line={"color": paint[strategy], "width": 2},
            marker={"color": paint[strategy], "size": 9, "symbol": _symbol(results, strategy)},
            hovertemplate="%{y:.1f}" + known.unit,
        )
    figure.update_xaxes(type="category", showgrid=False, title={"text": "Words in the input", "font": {"size": 13}})
    figure.update_yaxes(rangemode="tozero", ticksuffix=known.unit)
    return Chart(
        "by-length",
        f"{known.label} by sentence length",
        f"Line chart: {known.label} by sentence length for {joined([short(name) for name in strategies])}.",
        "Each step of a recurrent model passes on a state of fixed size: a falling line says that longer sentences "
        "lose more on the way. Groups with few sentences (n) jump about by chance.",
        as_json(figure),
    )


def training_charts(history: Rows, headline: str) -> list[Chart]:
    """Returns the learning curves, gradient norm and learning rate of metrics.jsonl, as far as logged."""
    train = [row for row in history if row.get("kind") == "train"]
    validation = [row for row in history if row.get("kind") == "validation"]
    charts = [
        _learning_chart(thin(train), thin(validation), headline, _best_step(validation)),
        _gradient_chart(thin(train)),
        _rate_chart(thin(train)),
    ]
    return [chart for chart in charts if chart is not None]


def _score_chart(results: Results, name: str) -> Chart:
    known, paint = metric(name), colours(list(results["strategies"]))
    scored = [s for s in ranking(results, name) if finite(results["strategies"][s].get(name)) is not None]
    figure = go.Figure(layout=layout(56 + 52 * len(scored), showlegend=False, hovermode="closest"))
    ends: list[float] = []
    for strategy in scored:
        row = results["strategies"][strategy]
        value = row[name]
        low, high = (row.get("intervals") or {}).get(name) or (value, value)
        ends += [low, high]
        figure.add_scatter(
            x=[value],
            y=[title(strategy)],
            mode="markers+text",
            text=[f"<b>{known.text(value)}</b>"],
            textposition="top center",
            textfont={"color": "var(--ink)"},
            cliponaxis=False,
            marker={"color": paint[strategy], "size": 13, "symbol": _symbol(results, strategy)},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value],
                "arrayminus": [value - low],
                "color": paint[strategy],
                "thickness": 2,
                "width": 6,
            },
            hovertemplate=f"{title(strategy)}: {known.text(value)}<br>{low:.1f} to {high:.1f}<extra></extra>",
        )
    margin = 0.12 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - margin, max(ends) + margin], nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    values = joined([f"{short(s)} {known.text(results['strategies'][s][name])}" for s in scored])
    return Chart(f"score-{name}", known.label, f"Dot chart of {known.label}: {values}.", known.about, as_json(figure))


def _learning_chart(train: Rows, validation: Rows, headline: str, best: float | None) -> Chart | None:
    if not train and not validation:
        return None
    names = (headline, "bleu", "exact_match", "accuracy")
    scores = [name for name in names if name != "loss" and any(name in row for row in validation)]
    unit = "squared error" if any("mse" in row for row in validation) else "nats per token"
    titles = [f"Loss ({unit})", *(f"Validation {metric(name).label}" for name in scores[:1])]
    figure = _panels(titles, heights=[0.58, 0.42] if scores else [1.0], height=480 if scores else 320)
    _curve(figure, train, "loss", "Training loss", "var(--muted)", row=1)
    _curve(figure, validation, "loss", "Validation loss", "var(--series-greedy)", row=1, markers=True)
    for name in scores[:1]:
        _curve(figure, validation, name, metric(name).label, "var(--series-beam)", row=2, markers=True)
        figure.data[-1].showlegend = False  # its panel is named
    if best is not None:
        figure.add_vline(x=best, line={"color": "var(--ink)", "width": 1, "dash": "dot"})
        is_early = best < 0.5 * max(row["step"] for row in [*train, *validation])
        side = {"xanchor": "left", "xshift": 5} if is_early else {"xanchor": "right", "xshift": -5}
        figure.add_annotation(x=best, y=1, yref="y domain", text=f"best: step {best:,.0f}", showarrow=False, **side)
    ending = f"; the best step is {best:,.0f}" if best is not None else ""
    return Chart(
        "learning",
        "Learning curves",
        f"Line chart: training and validation loss by step{ending}.",
        "Both losses falling: the model still learns. Training falling while validation rises: it begins to learn its "
        "examples by heart." + (DECODED if scores and scores[0] in METRICS else ""),
        as_json(figure),
    )


def _gradient_chart(train: Rows) -> Chart | None:
    if not any(finite(row.get("gradient_norm")) is not None for row in train):
        return None
    clipped = any(finite(row.get("clipped")) is not None for row in train)
    titles = ["Gradient norm before clipping", *(["Share of steps clipped"] if clipped else [])]
    figure = _panels(titles, heights=[0.6, 0.4] if clipped else [1.0], height=380)
    _curve(figure, train, "gradient_norm", "Gradient norm", "var(--series-sample)", row=1)
    norms = [norm for row in train if (norm := finite(row.get("gradient_norm"))) is not None and norm > 0]
    if norms and max(norms) > 30 * min(norms):
        figure.update_yaxes(type="log", dtick=1, row=1, col=1)
    if clipped:
        _curve(figure, train, "clipped", "Clipped", "var(--series-sample)", row=2)
        figure.update_traces(fill="tozeroy", line_shape="hv", selector={"name": "Clipped"})
        figure.update_yaxes(range=[0, 1.04], tickformat=".0%", row=2, col=1)
    figure.update_layout(showlegend=False)
    return Chart(
        "gradients",
        "Gradients",
        "Line charts: norm of the gradient before clipping, and the share of clipped steps, by step.",
        "Gradients of recurrent models can explode; clipping caps their length. Spikes are normal. A share near "
        "100 % to the end means that the threshold, not the learning rate, sets the size of the steps.",
        as_json(figure),
    )


def _rate_chart(train: Rows) -> Chart | None:
    if not any(finite(row.get("learning_rate")) is not None for row in train):
        return None
    figure = _panels([""], heights=[1.0], height=380)
    _curve(figure, train, "learning_rate", "Learning rate", "var(--series-1)", row=1)
    figure.update_yaxes(rangemode="tozero", exponentformat="power")
    figure.update_layout(showlegend=False)
    return Chart(
        "learning-rate",
        "Learning rate",
        "Line chart: learning rate by step.",
        "How far each step goes along the gradient. Schedules often start small, because early gradients mislead, "
        "and shrink towards the end, to settle.",
        as_json(figure),
    )


def _curve(figure: go.Figure, rows: Rows, key: str, name: str, colour: str, row: int, markers: bool = False) -> None:
    """Adds `key` of the rows by step; a step without a number (a diverged loss) leaves a gap."""
    drawn = [item for item in rows if key in item]
    if drawn:
        figure.add_scatter(
            x=[item["step"] for item in drawn],
            y=[finite(item[key]) for item in drawn],
            name=name,
            mode="lines+markers" if markers else "lines",
            line={"color": colour, "width": 2},
            marker={"size": 7},
            hovertemplate="%{y:.4~g}",
            row=row,
            col=1,
        )


def _panels(titles: list[str], heights: list[float], height: int) -> go.Figure:
    """Returns panels one above the other over the same steps, each with its title at the left."""
    gap = 0.16 if len(titles) > 1 else 0.0
    figure = make_subplots(
        rows=len(titles), shared_xaxes=True, row_heights=heights, vertical_spacing=gap, subplot_titles=titles
    )
    figure.update_layout(layout(height))
    figure.update_annotations(x=0, xanchor="left", font={"size": 13, "color": "var(--muted)"})
    figure.update_xaxes(tickformat=",d", showgrid=False)
    figure.update_xaxes(title={"text": "Step", "standoff": 6, "font": {"size": 13}}, row=len(titles))
    return figure


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


def _symbol(results: Results, strategy: str) -> str:
    """Returns a marker shape of its own for each strategy, so that colour is never the only sign."""
    order = [*SERIES, *(name for name in results["strategies"] if name not in SERIES)]
    return SYMBOLS[order.index(strategy) % len(SYMBOLS)]


def _span(bucket: Mapping[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    return f"{first}" if first == last else f"{first}–{last}"


def _best_step(validation: Rows) -> float | None:
    best = [row["step"] for row in validation if row.get("best")]
    return best[-1] if best else None


def thin(rows: Rows) -> Rows:
    """Returns at most `POINTS` of the rows, evenly."""
    return rows[:: -(-len(rows) // POINTS)] if rows else rows


def as_json(figure: go.Figure) -> dict[str, Any]:
    """Returns the figure as plain lists and numbers, NaN as None."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain
