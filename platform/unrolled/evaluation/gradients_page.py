"""The page of `unrolled gradients`: how far the gradient reaches back, beside the picture of the textbooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unrolled.errors import RunFailed
from unrolled.evaluation.charts import Chart, as_json, layout, look
from unrolled.evaluation.gradients import RULE, Measurement
from unrolled.evaluation.wording import joined
from unrolled.files import write_whole, writing
from unrolled.recurrence.diagnostics import Flow, textbook

VERBS = {"exploding": "explodes", "vanishing": "vanishes", "steady": "stays steady"}
FLOOR = 1e-20
"""Smaller values are drawn on the lower edge: nothing trains on them."""


def write_page(measurement: Measurement, *, version: str) -> None:
    """Writes `measurement.page` as one self-contained HTML file; its folder is made."""
    charts = [_distance_chart(measurement.flows), _step_chart(measurement.flows)] if measurement.flows else []
    reference = _textbook_chart()
    environment = Environment(
        loader=PackageLoader("unrolled.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("gradients.html.j2").render(
        measurement=measurement,
        headline=_headline(measurement.flows),
        rows=[_row(flow) for flow in measurement.flows],
        charts=charts,
        reference=reference,
        figures={chart.id: chart.figure for chart in [*charts, reference]},
        rule=RULE,
        version=version,
        plotly=Markup(get_plotlyjs()),  # the library itself, no data in it
    )
    with writing(measurement.page, RunFailed):
        measurement.page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(measurement.page, page)


def _headline(flows: Sequence[Flow]) -> str:
    if not flows:
        return "No recurrent layer is reached by the loss"
    if len({flow.verdict for flow in flows}) == 1 and len(flows) > 1:
        return f"The gradient {VERBS[flows[0].verdict]} in every recurrent layer"
    parts = [
        f"{verb} in {joined(layers) if len(layers) < 3 else f'{len(layers)} layers'}"
        for verdict, verb in VERBS.items()
        if (layers := [flow.layer for flow in flows if flow.verdict == verdict])
    ]
    return f"The gradient {joined(parts)}"


def _row(flow: Flow) -> dict[str, Any]:
    return {
        "layer": flow.layer,
        "cell": flow.cell,
        "matrices": [f"{value:.2f}" for value in flow.matrices],
        "jacobian": f"{flow.jacobian:.2f}",
        "growth": f"{flow.growth:.3f}",
        "steps": f"{len(flow.left) - 1:,}",
        "left": f"{flow.left[-1]:.2g}",
        "verdict": flow.verdict,
    }


def _distance_chart(flows: Sequence[Flow]) -> Chart:
    figure = _log_figure("Steps back", "Share of the gradient left")
    for number, flow in enumerate(flows):
        _line(figure, flow.layer, flow.left, *look(number))
    return Chart(
        "distance",
        "How far the last step's gradient reaches",
        f"Line chart: share of the gradient left by distance for {joined([flow.layer for flow in flows])}.",
        "The gradient of the last step that the loss reaches, followed back through the state alone; 1 is its norm "
        "there. A straight line is a constant factor a step: downwards it vanishes, upwards it explodes. "
        "Geometric mean over the examples.",
        as_json(figure),
    )


def _step_chart(flows: Sequence[Flow]) -> Chart:
    figure = _log_figure("Step, in the order of reading", "‖∂L/∂h‖")
    for number, flow in enumerate(flows):
        _line(figure, flow.layer, flow.norms, *look(number))
    norms = [norm for flow in flows for norm in flow.norms if norm > 0]
    if max(norms) < 100 * min(norms):
        figure.update_yaxes(dtick="D2", tickformat=".0e")  # 1, 2 and 5, not every digit
    return Chart(
        "steps",
        "The whole gradient at every step",
        f"Line chart: norm of the gradient by step for {joined([flow.layer for flow in flows])}.",
        "The loss of the batch by the state h of each step, every loss and every way included. A layer that "
        "reads ← begins at the end of the sequence. Root mean square over the examples that have the step.",
        as_json(figure),
    )


def _textbook_chart() -> Chart:
    flows = textbook()
    figure = _log_figure("Steps back", "Share of the gradient left")
    colours = {
        "RNN": iter(("series-1", "series-2", "series-3", "series-sample", "ink")),
        "LSTM": iter(["series-beam"] * 2),
    }
    for name, flow in flows.items():
        kind = name.split(",")[0]
        dash = {"RNN": "solid", "LSTM": "dash", "GRU": "dashdot"}[kind]
        colour = next(colours[kind]) if kind in colours else "series-greedy"
        _line(figure, name, flow.left, f"var(--{colour})", "dot" if name.endswith("4") else dash)
    return Chart(
        "textbook",
        "Exploding, vanishing, and the highway",
        f"Line chart: share of the gradient left by distance for {joined(list(flows))}.",
        _textbook_note(flows),
        as_json(figure),
    )


def _textbook_note(flows: Mapping[str, Flow]) -> str:
    factors = {name: f"{flow.growth:.2f}" for name, flow in flows.items()}
    return (
        "Fresh cells with 64 features, small random inputs, a loss at the last step alone. Vanilla networks have an "
        f"orthogonal matrix times σ: below 1 the gradient vanishes (σ = 0.5: {factors['RNN, σ = 0.5']} a step), above "
        "it explodes, though less than σ a step where tanh saturates "
        f"(σ = 1.5: {factors['RNN, σ = 1.5']}). The LSTM's memory passes its gradient on times the forget gate: "
        f"σ(1) ≈ 0.73 as it starts, nearly 1 with a forget bias of 4, the open highway that training can build."
    )


def _line(figure: go.Figure, name: str, values: Sequence[float], colour: str, dash: str) -> None:
    figure.add_scatter(
        x=list(range(len(values))),
        y=[max(value, FLOOR) for value in values],
        name=name,
        mode="lines" if len(values) > 1 else "markers",
        line={"color": colour, "width": 2, "dash": dash},
        hovertemplate="%{y:.2e}",
    )


def _log_figure(x: str, y: str) -> go.Figure:
    figure = go.Figure(layout=layout(440))
    figure.update_xaxes(title={"text": x, "standoff": 6, "font": {"size": 13}}, showgrid=False, rangemode="tozero")
    figure.update_yaxes(type="log", exponentformat="power", nticks=9, title={"text": y, "font": {"size": 13}})
    figure.update_layout(showlegend=True, margin={"b": 8})
    return figure
