"""What a trial's own files say of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from unrolled.config import Config
from unrolled.metrics import metric
from unrolled.training import checkpoint
from unrolled.training.run import RunFolder

SPEED = "tokens_per_second"
NO_SCORES = ("kind", "step", "epoch", "seconds", "best")
"""What else stands in a row of a validation."""

HOPELESS = 2.0
"""See `diverged`; a loss that only rests where it began is not meant."""
WRITTEN_SECONDS = 5.0
"""How long the first checkpoint of a trial may be on its way to the disk when its first validation is known."""

Row = dict[str, Any]


def better(name: str, value: float, than: float) -> bool:
    """Returns whether `value` is the better score; more speed is better than less."""
    return value > than if name == SPEED else metric(name).better(value, than)


def mode(name: str) -> str:
    """Returns `min` or `max`: which values of a score are good."""
    return "max" if better(name, 1, 0) else "min"


def scores(row: Row) -> dict[str, float]:
    """Returns the scores in a row of a validation."""
    return {name: value for name, value in row.items() if name not in NO_SCORES}


def measure(run: RunFolder) -> dict[str, Any]:
    """Returns the numbers of sweep.json for one trial, from its metrics.jsonl: best scores, steps, seconds, speed, all
    validations, and what its gradients were; none of which is known is left out."""
    rows = run.history()
    validations = [row for row in rows if row["kind"] == "validation"]
    updates = [row for row in rows if row["kind"] == "train"]
    found: dict[str, Any] = {
        "scores": _best(validations),
        "history": [{"step": row["step"], "scores": _finite(scores(row))} for row in validations],
    }
    if rows:
        found |= {"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]}
    if updates:
        norms = [row["gradient_norm"] for row in updates]
        found[SPEED] = statistics.median(row["tokens_per_second"] for row in updates)
        found["gradient_norm"] = {"median": statistics.median(norms), "largest": max(norms)}
        found["clipped"] = statistics.fmean(row["clipped"] for row in updates)
        found["scores"][SPEED] = found[SPEED]
    return found


def diverged(run: RunFolder) -> str | None:
    """Says in what way the training of a trial diverged whose numbers are all finite: the loss on what it learns from
    is more than `HOPELESS` times that of the untrained model."""
    deadline = time.monotonic() + WRITTEN_SECONDS
    while (newest := checkpoint.last(run.checkpoints)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first = None if newest is None else checkpoint.read_progress(newest).first_loss
    losses = [row["loss"] for row in run.history() if row["kind"] == "train"]
    if first is None or not losses or losses[-1] <= HOPELESS * first:
        return None
    return f"the loss rose from {first:.4g}, which the untrained model had, to {losses[-1]:.4g}"


def _best(validations: Sequence[Row]) -> dict[str, float]:
    best: dict[str, float] = {}
    for row in validations:
        for name, value in _finite(scores(row)).items():
            if name not in best or better(name, value, best[name]):
                best[name] = value
    return best


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Told:
    """What schedulers are told of a training: at every validation its progress and its score.

    Args:
        unit: share of a training that is a progress of 1.
        latest: whether the score is that of the validation, not the best up to then.
    """

    def __init__(self, config: Config, name: str, unit: float, *, latest: bool) -> None:
        self._training, self._name, self._unit, self._latest = config.training, name, unit, latest
        self._score: float | None = None

    def __call__(self, row: Row) -> dict[str, float]:
        value = row.get(self._name, math.nan)  # speed is no score of a validation
        if math.isfinite(value) and (self._score is None or self._latest or better(self._name, value, self._score)):
            self._score = value
        return {"progress": self._done(row) / self._unit} | ({} if self._score is None else {"score": self._score})

    def _done(self, row: Row) -> float:
        """The share of the training that is over, by whichever limit comes first."""
        training = self._training
        shares = [row["epoch"] / training.epochs]
        if training.max_steps:
            shares.append(row["step"] / training.max_steps)
        if training.max_minutes:
            shares.append(row["seconds"] / 60 / training.max_minutes)
        return float(min(1.0, max(shares)))
