"""Gradient-flow reports: how far the gradient of a model reaches back in time, on its first training batch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.config.load import load_config, resolve_storage
from unrolled.errors import UserError
from unrolled.recurrence.gradient_flow import (
    EXPLODING,
    VANISHING,
    LayerGradientFlow,
    gradient_flow,
    textbook_gradient_flow,
)
from unrolled.reports.page import Chart, add_line, axis_title, layout, line_style, write_page
from unrolled.reports.text import joined
from unrolled.tasks import PreparedData, Task, make_task, prepare
from unrolled.training.checkpoint import load_model
from unrolled.training.run_dir import choose_checkpoint, open_run

DISTANCES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MAX_DISTANCES = 6
"""As many fit into a table of 100 characters."""
RULE = f"vanishing: less than {VANISHING:g} is left at the farthest step; exploding: more than {EXPLODING:g}"


@dataclass(frozen=True)
class Measurement:
    """The gradient flow of a model.

    Attributes:
        name: name of the run or config.
        parameters: origin of the parameters, such as `checkpoint step-264`.
        targets: number of targets in the batch, over which the loss is a mean.
        flows: one per recurrent layer.
        page: path of the HTML page.
    """

    name: str
    parameters: str
    targets: int
    flows: list[LayerGradientFlow]
    page: Path


def measure(path: str | Path, *, overrides: Sequence[str] = (), checkpoint: str | None = None) -> Measurement:
    """Measures a trained run, or the untrained model of a config, on the first training batch; on the CPU in float64.

    Args:
        path: a run's folder, or a YAML file.
        overrides: overrides of the config, such as ``model.decoder.cell=lstm``.
        checkpoint: checkpoint of a run: `best` (default), `last`, `step-N`, `average` or `average-N`.

    Raises:
        UserError: an argument cannot be used.
    """
    if Path(path).suffix in (".yaml", ".yml"):
        return _measure_config(load_config(path, overrides), path, checkpoint)
    run = open_run(path)
    if overrides:
        raise UserError(f"{overrides[0]}: a run keeps its config; overrides go with a config file.")
    config, chosen = run.config(), choose_checkpoint(run, checkpoint or "best")
    data = prepare(config)
    if (run.vocabulary / "fingerprint").read_text(encoding="utf-8") != data.fingerprint:
        raise UserError(f"data.source: the data have changed since {run.path} was trained, so its batches are gone.")
    task = make_task(config, run.vocabulary)
    model = task.build_model()
    load_model(chosen.folders, model)
    targets, flows = _on_first_batch(task, model, data)
    return Measurement(run.name, f"checkpoint {chosen.name}", targets, flows, run.path / "gradients.html")


def _measure_config(config: Config, path: str | Path, checkpoint: str | None) -> Measurement:
    if checkpoint is not None:
        raise UserError(f"--checkpoint {checkpoint}: {path} is a config, whose model is fresh; give a run's folder.")
    data = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        data.save(Path(folder))
        task = make_task(config, Path(folder))
    torch.manual_seed(config.seed)  # the parameters with which training starts
    targets, flows = _on_first_batch(task, task.build_model(), data)
    page = resolve_storage(config.storage) / f"{config.name}.gradients.html"
    return Measurement(config.name, "fresh parameters", targets, flows, page)


def _on_first_batch(task: Task, model: nn.Module, data: PreparedData) -> tuple[int, list[LayerGradientFlow]]:
    batch = task.plan(data, epoch=0)[0]
    shard = batch.shard(0, 1)

    def loss() -> Tensor:  # an encoder whose gradient training propagates separately has none here
        return torch.stack([window.loss for window in task.losses(model, shard, None)]).sum() / batch.tokens

    model.double().eval()
    return batch.tokens, gradient_flow(model, loss)


def table_distances(flows: Sequence[LayerGradientFlow]) -> list[int]:
    """Returns up to `MAX_DISTANCES` distances for the table, with the nearest and the farthest."""
    reached = [d for d in DISTANCES if d < max((len(flow.remaining) for flow in flows), default=0)]
    if len(reached) <= MAX_DISTANCES:
        return reached
    return [reached[round(i * (len(reached) - 1) / (MAX_DISTANCES - 1))] for i in range(MAX_DISTANCES)]


def table(measurement: Measurement) -> list[str]:
    """Returns the table as lines of at most 100 characters."""
    flows = measurement.flows
    columns = table_distances(flows)
    head = f"{'layer':<13}{'cell':<13}{'σ(W)':>5}{'σ(J)':>6}{'growth':>8}  {'':<9}"
    lines = [
        f"{measurement.name}, {measurement.parameters}: first training batch, {measurement.targets:,} targets",
        "share of the last step's gradient that is left so many steps back:",
        (head + "".join(f"{distance:>7}" for distance in columns)).rstrip(),
    ]
    for flow in flows:
        numbers = f"{max(flow.matrices, default=0.0):>5.2f}{flow.jacobian:>6.2f}{flow.growth:>8.3f}  {flow.verdict:<9}"
        left = "".join(f"{flow.remaining[d]:>7.0e}" if d < len(flow.remaining) else " " * 7 for d in columns)
        lines.append(f"{flow.layer[:12]:<13}{flow.cell[:12]:<13}{numbers}{left}".rstrip())
    return [
        *lines,
        "σ(W), σ(J): largest singular value of a recurrent matrix, of the step Jacobian; growth: per step",
        RULE,
    ]


VERBS = {"exploding": "explodes", "vanishing": "vanishes", "steady": "stays steady"}
FLOOR = 1e-20
"""Lower edge of the charts; smaller gradients train nothing."""


def write_report(measurement: Measurement, *, version: str) -> None:
    """Writes `measurement.page` as one self-contained HTML file; its folder is made."""
    flows = measurement.flows
    write_page(
        measurement.page,
        "gradients.html.j2",
        {"flow": [_distance_chart(flows), _step_chart(flows)] if flows else [], "textbook": [_textbook_chart()]},
        measurement=measurement,
        headline=_headline(flows),
        rule=RULE,
        version=version,
    )


def _headline(flows: Sequence[LayerGradientFlow]) -> str:
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


def _distance_chart(flows: Sequence[LayerGradientFlow]) -> Chart:
    curves = {flow.layer: flow.remaining for flow in flows}
    return Chart(
        "distance",
        "How far the last step's gradient reaches",
        f"Line chart: share of the gradient left by distance for {joined([flow.layer for flow in flows])}.",
        "The gradient of the last step that the loss reaches, followed back through the state alone; 1 is its norm "
        "there. A straight line is a constant factor per step: downwards it vanishes, upwards it explodes. "
        "Geometric mean over the examples.",
        _log_figure("Steps back", "Share of the gradient left", curves),
    )


def _step_chart(flows: Sequence[LayerGradientFlow]) -> Chart:
    figure = _log_figure("Step, in the order of reading", "‖∂L/∂h‖", {flow.layer: flow.norms for flow in flows})
    norms = [norm for flow in flows for norm in flow.norms if norm > 0]
    if max(norms) < 100 * min(norms):
        figure.update_yaxes(dtick="D2", tickformat=".0e")  # 1, 2 and 5, not every digit
    return Chart(
        "steps",
        "The whole gradient at every step",
        f"Line chart: norm of the gradient by step for {joined([flow.layer for flow in flows])}.",
        "The loss of the batch by the state h of each step, every loss and every way included. A layer that "
        "reads ← begins at the end of the sequence. Root mean square over the examples that have the step.",
        figure,
    )


def _textbook_chart() -> Chart:
    flows, styles = textbook_gradient_flow(), []
    colours = {
        "RNN": iter(("series-1", "series-2", "series-3", "series-sample", "ink")),
        "LSTM": iter(["series-beam"] * 2),
    }
    for name in flows:
        kind = name.split(",")[0]
        dash = {"RNN": "solid", "LSTM": "dash", "GRU": "dashdot"}[kind]
        colour = next(colours[kind]) if kind in colours else "series-greedy"
        styles.append((f"var(--{colour})", "dot" if name.endswith("4") else dash))
    curves = {name: flow.remaining for name, flow in flows.items()}
    return Chart(
        "textbook",
        "Exploding, vanishing, and the highway",
        f"Line chart: share of the gradient left by distance for {joined(list(flows))}.",
        _textbook_note(flows),
        _log_figure("Steps back", "Share of the gradient left", curves, styles),
    )


def _textbook_note(flows: Mapping[str, LayerGradientFlow]) -> str:
    factors = {name: f"{flow.growth:.2f}" for name, flow in flows.items()}
    return (
        "Fresh cells with 64 features, small random inputs, a loss at the last step alone. Vanilla networks have an "
        f"orthogonal matrix times σ: below 1 the gradient vanishes (σ = 0.5: {factors['RNN, σ = 0.5']} per step), "
        "above it explodes, though less than σ per step where tanh saturates "
        f"(σ = 1.5: {factors['RNN, σ = 1.5']}). The LSTM's memory passes its gradient on times the forget gate: "
        f"σ(1) ≈ 0.73 as it starts, nearly 1 with a forget bias of 4, the open highway that training can build."
    )


def _log_figure(
    x: str, y: str, curves: Mapping[str, Sequence[float]], styles: Sequence[tuple[str, str]] = ()
) -> go.Figure:
    figure = go.Figure(layout=layout(440))
    for number, (name, values) in enumerate(curves.items()):
        style = styles[number] if styles else line_style(number)
        add_line(figure, range(len(values)), [max(value, FLOOR) for value in values], name, style, "%{y:.2e}")
    figure.update_xaxes(title=axis_title(x), showgrid=False, rangemode="tozero")
    figure.update_yaxes(type="log", exponentformat="power", nticks=9, title=axis_title(y))
    figure.update_layout(showlegend=True, margin={"b": 8})
    return figure
