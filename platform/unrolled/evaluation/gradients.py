"""Gradient flow of a whole model: one training batch, its loss, and what reaches every recurrent layer step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.config_file import load_config, runs_folder
from unrolled.errors import UserError
from unrolled.recurrence.diagnostics import EXPLODING, VANISHING, Flow, gradient_flow
from unrolled.tasks import Prepared, Task, make_task, prepare
from unrolled.training.checkpoint import load_model
from unrolled.training.run import choose_checkpoint, open_run

DISTANCES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
COLUMNS = 6
"""Distances that a table of 100 columns has room for."""
RULE = f"vanishing: less than {VANISHING:g} is left at the farthest step; exploding: more than {EXPLODING:g}"


@dataclass(frozen=True)
class Measurement:
    """What was measured, and on what.

    Attributes:
        name: of the run or config.
        parameters: whose they are, such as `checkpoint step-264`.
        targets: of the batch; the loss is their mean.
        page: where the HTML page belongs.
    """

    name: str
    parameters: str
    targets: int
    flows: list[Flow]
    page: Path


def measure(path: str | Path, *, overrides: Sequence[str] = (), checkpoint: str | None = None) -> Measurement:
    """Measures a trained run, or the fresh model of a config, on the first training batch; on the CPU, in float64.

    Args:
        path: a run's folder, or a YAML file.
        overrides: of the config, such as ``model.decoder.cell=lstm``.
        checkpoint: of a run: `best` (default), `last`, `step-N`, `average` or `average-N`.

    Raises:
        UserError: something given cannot be used.
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
    page = runs_folder(config) / f"{config.name}.gradients.html"
    return Measurement(config.name, "fresh parameters", targets, flows, page)


def _on_first_batch(task: Task, model: nn.Module, data: Prepared) -> tuple[int, list[Flow]]:
    batch = task.plan(data, epoch=0)[0]
    part = batch.part(0, 1)
    model.double().eval()
    return batch.tokens, gradient_flow(model, lambda: _loss(task, model, part) / batch.tokens)


def _loss(task: Task, model: nn.Module, part: Any) -> Tensor:
    """The loss in one piece. An encoder that training walks back by itself, window after window, is not behind it."""
    return torch.stack([piece.loss for piece in task.losses(model, part, None)]).sum()


def distances(flows: Sequence[Flow]) -> list[int]:
    """Returns the distances that a table shows: `COLUMNS` at most, the nearest and the farthest among them."""
    reached = [d for d in DISTANCES if d < max((len(flow.left) for flow in flows), default=0)]
    if len(reached) <= COLUMNS:
        return reached
    return [reached[round(i * (len(reached) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]


def table(measurement: Measurement) -> list[str]:
    """Returns the lines that the command prints, 100 columns at most."""
    flows = measurement.flows
    shown = distances(flows)
    head = f"{'layer':<13}{'cell':<13}{'σ(W)':>5}{'σ(J)':>6}{'growth':>8}  {'':<9}"
    lines = [
        f"{measurement.name}, {measurement.parameters}: first training batch, {measurement.targets:,} targets",
        "share of the last step's gradient that is left so many steps back:",
        (head + "".join(f"{distance:>7}" for distance in shown)).rstrip(),
    ]
    for flow in flows:
        numbers = f"{max(flow.matrices, default=0.0):>5.2f}{flow.jacobian:>6.2f}{flow.growth:>8.3f}  {flow.verdict:<9}"
        left = "".join(f"{flow.left[d]:>7.0e}" if d < len(flow.left) else " " * 7 for d in shown)
        lines.append(f"{flow.layer[:12]:<13}{flow.cell[:12]:<13}{numbers}{left}".rstrip())
    return [
        *lines,
        "σ(W), σ(J): largest singular value of a recurrent matrix, of the step Jacobian; growth: a step",
        RULE,
    ]
