"""The charts of a training run: learning curves, gradient norm and learning rate."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unrolled.evaluation.charts import Chart, Rows, as_json, layout, thin
from unrolled.evaluation.wording import finite
from unrolled.metrics import METRICS, metric

DECODED = " The validation score comes from decoded text, so it may improve while the loss rests."


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


def _best_step(validation: Rows) -> float | None:
    best = [row["step"] for row in validation if row.get("best")]
    return best[-1] if best else None
