"""Where the numbers of a run go besides metrics.jsonl."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from unrolled.config import Config
from unrolled.errors import RunFailed, UserError
from unrolled.files import writing
from unrolled.training.run import KEPT, RunFolder


class Tracker(Protocol):
    """Receives numbers by name."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """An event file in the run's folder. TensorBoard's own writers write in a thread, where a full disk cannot be
    answered.

    Raises:
        RunFailed: the disk does not take it; so do the methods.
    """

    def __init__(self, run: RunFolder) -> None:
        # Slow to import, and only one process needs them.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder, now = run.path / "tensorboard", time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        with writing(folder, RunFailed, KEPT):
            folder.mkdir(exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def log(self, values: Mapping[str, float], step: int) -> None:
        numbers = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary(value=numbers))

    def _write(self, **content: Any) -> None:
        with writing(self._path, RunFailed, KEPT):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        with writing(self._path, RunFailed, KEPT):
            self._file.close()


class MLflow:
    """A run of the experiment `unrolled` on the server of $MLFLOW_TRACKING_URI, or where MLflow writes by default. A
    resumed run goes on in its own."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "unrolled"))
        mark = run.path / "mlflow_run"
        known = mark.read_text(encoding="utf-8") if mark.exists() else None
        active = mlflow.start_run(run_id=known, run_name=run.name)
        if known is None:
            mark.write_text(active.info.run_id, encoding="utf-8")
            mlflow.log_params(_flat(config.model_dump()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of the project `unrolled`, or of $WANDB_PROJECT. A resumed run goes on in its own."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        import wandb

        mark = run.path / "wandb_run"
        if not mark.exists():
            mark.write_text(wandb.util.generate_id(), encoding="utf-8")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "unrolled"),
            name=run.name,
            id=mark.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(run.path),
            config=config.model_dump(),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(run: RunFolder, config: Config) -> list[Tracker]:
    """Opens TensorBoard and what `training.trackers` names."""
    known: dict[str, Callable[[RunFolder, Config], Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}
    return [TensorBoard(run), *(known[name](run, config) for name in config.training.trackers)]


def check_trackers(config: Config) -> None:
    """Raises UserError where a tracker's package is not installed."""
    for name in config.training.trackers:
        if find_spec(name) is None:
            raise UserError(f"training.trackers names {name}, which is not installed: pip install {name}.")


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl, by `train/loss` and the like; norms of layers by `gradient/…`."""
    kind = row["kind"]
    plain = {f"{kind}/{name}": value for name, value in row.items() if isinstance(value, float)}
    for name in ("seconds", "epoch"):
        plain.pop(f"{kind}/{name}", None)
    return plain | {f"gradient/{layer}": norm for layer, norm in row.get("layers", {}).items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
