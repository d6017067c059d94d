"""Sweep directories and the records of trials.

A sweep directory holds sweep.yaml, the config; trials.jsonl, from which a sweep is resumed; sweep.json, from which the
report is made; best.yaml, the config of the best trial; and a run directory per trial under trials/.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unrolled.config import Config
from unrolled.config.load import (
    dump_config,
    dump_stored_config,
    first_difference,
    load_stored_config,
    locate,
    replace_keys,
    resolve_storage,
    value_at,
)
from unrolled.errors import UserError
from unrolled.files import explain_write_errors, read_json_lines, write_atomic
from unrolled.metrics import metric_info
from unrolled.training import checkpoint
from unrolled.training.run_dir import RunDir
from unrolled.tuning.search_space import Point

CONFIG = "sweep.yaml"
CHANGEABLE = ("name", "storage", "tuning.trials", "tuning.minutes", "tuning.concurrent")
"""Keys that a resumed sweep may change."""


@dataclass(frozen=True)
class TrialConfig:
    """A trial: a point of the space, trained from a seed.

    Attributes:
        point: number of the point, from 0.
        parameters: values of the point by dotted key.
    """

    name: str
    point: int
    seed: int
    parameters: Point


@dataclass(frozen=True)
class SweepDir:
    """Paths and files of one sweep."""

    path: Path

    @property
    def run(self) -> RunDir:
        """The folder as a run directory: the lock, the log and the stop file."""
        return RunDir(self.path)

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def summary(self) -> Path:
        return self.path / "sweep.json"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def scratch(self) -> Path:
        """Files of Ray Tune, which are not needed again."""
        return self.path / ".tune"

    def trial(self, name: str) -> RunDir:
        """Returns the run directory of a trial."""
        return RunDir(self.trials / name)

    def config(self) -> Config:
        """Returns the config of the sweep."""
        return load_stored_config(self.path / CONFIG)

    def initialize(self, config: Config, *, resume: bool) -> None:
        """Makes the folder and writes the config; without `resume`, an older sweep there is removed."""
        with explain_write_errors(self.path):
            if not resume and self.path.exists():
                shutil.rmtree(self.path)
            self.trials.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.scratch, ignore_errors=True)
            # Drops a last line that a killed process left half written.
            write_atomic(self._rows, "".join(json.dumps(row) + "\n" for row in self.read_records()))
            write_atomic(self.path / CONFIG, dump_stored_config(config))

    def append(self, row: dict[str, Any]) -> None:
        """Appends the record of a trial to trials.jsonl; the last one of each trial counts."""
        with explain_write_errors(self._rows), self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_records(self) -> list[dict[str, Any]]:
        """Returns the last record of each trial in trials.jsonl, in the order of their names."""
        rows = {row["name"]: row for row in read_json_lines(self._rows)}
        return [rows[name] for name in sorted(rows)]

    @property
    def _rows(self) -> Path:
        return self.path / "trials.jsonl"


def resolve_config(config: str | Path, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Returns config file and overrides; `config` may be the folder of a sweep."""
    folder = Path(config)
    if not (folder / CONFIG).is_file():
        return folder, [*overrides]
    folder = folder.resolve()
    return folder / CONFIG, [*overrides, f"storage={folder.parent}", f"name={folder.name}"]


def run_config(config: Config, sweep: SweepDir, trial: TrialConfig, *, smoke: bool) -> Config:
    """Returns the config of a trial's run; `smoke`: few examples, few steps."""
    own = {"name": trial.name, "storage": str(sweep.trials), "seed": trial.seed, "tuning": None}
    changed = replace_keys(config, trial.parameters | own, "tuning.space")
    return changed.smoke_version() if smoke else changed


def resolve_sweep_dir(config: Config, *, resume: bool, overwrite: bool) -> SweepDir:
    """Returns the sweep's folder, checked but untouched.

    Raises:
        UserError: it exists and neither `resume` nor `overwrite` was given; there is no sweep to resume, or one with
            another config; it is not a sweep, so it is not overwritten.
    """
    sweep = SweepDir(resolve_storage(config.storage) / config.name)
    exists = sweep.path.exists() and (not sweep.path.is_dir() or any(sweep.path.iterdir()))
    is_sweep = (sweep.path / CONFIG).is_file()
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one of them.")
    if resume:
        if not is_sweep:
            raise UserError(f"{sweep.path}: there is no sweep to resume; leave --resume out to start it.")
        _check_resumable(sweep, config)
    elif exists and not overwrite:
        raise UserError(
            f"{sweep.path} exists already: give --resume to continue it, --overwrite to replace it, or name=OTHER."
        )
    elif exists and not is_sweep:
        raise UserError(f"{sweep.path} is not a sweep (it has no {CONFIG}), so --overwrite leaves it alone.")
    return sweep


def _check_resumable(sweep: SweepDir, config: Config) -> None:
    before, now = (_fixed_keys(values) for values in (sweep.config(), config))
    if changed := first_difference(before, now):
        key, old, new = changed
        raise UserError(
            f"{sweep.path} was begun with {key}={_shown(old)}, the config says {_shown(new)}: a resumed sweep keeps "
            "its space and all else but tuning.trials, tuning.minutes and tuning.concurrent; give another name=… for "
            "the change."
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a key of the space that was added or removed
        value = {name: given for name, given in value.items() if given}
    return "nothing" if value is None else str(value)


def _fixed_keys(config: Config) -> dict[str, Any]:
    values = config.model_dump(exclude_none=True)
    for key in CHANGEABLE:
        section, name = locate(values, key)
        section.pop(name, None)
    return values


SPEED = "tokens_per_second"
NOT_SCORES = ("kind", "step", "epoch", "seconds", "best")
"""Other keys in the row of a validation."""
DIVERGENCE_FACTOR = 2.0
"""Ratio of the training loss to that of the untrained model above which a trial counts as diverged."""
WRITE_SECONDS = 5.0
"""Time that the first checkpoint may take to be written once its validation is known."""

Row = dict[str, Any]


def is_better(name: str, value: float, than: float) -> bool:
    """Returns whether `value` is the better score; a higher speed is better."""
    return value > than if name == SPEED else metric_info(name).better(value, than)


def mode(name: str) -> str:
    """Returns `min` or `max`, the mode of a score."""
    return "max" if is_better(name, 1, 0) else "min"


def trial_metrics(run: RunDir) -> dict[str, Any]:
    """Returns the numbers of sweep.json for one trial, from its metrics.jsonl: best scores, steps, seconds, speed, all
    validations, and statistics of its gradients; unknown ones are left out."""
    rows = run.history()
    validations = [row for row in rows if row["kind"] == "validation"]
    updates = [row for row in rows if row["kind"] == "train"]
    metrics: dict[str, Any] = {
        "scores": _best(validations),
        "history": [{"step": row["step"], "scores": _scores(row)} for row in validations],
    }
    if rows:
        metrics |= {"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]}
    if updates:
        norms = [row["gradient_norm"] for row in updates]
        metrics[SPEED] = statistics.median(row["tokens_per_second"] for row in updates)
        metrics["gradient_norm"] = {"median": statistics.median(norms), "largest": max(norms)}
        metrics["clipped"] = statistics.fmean(row["clipped"] for row in updates)
        metrics["scores"][SPEED] = metrics[SPEED]
    return metrics


def divergence(run: RunDir) -> str | None:
    """Returns how a trial whose numbers are all finite diverged, or None: its training loss is more than
    `DIVERGENCE_FACTOR` times that of the untrained model."""
    deadline = time.monotonic() + WRITE_SECONDS
    while (newest := checkpoint.last(run.checkpoints)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first = None if newest is None else checkpoint.read_progress(newest).first_loss
    losses = [row["loss"] for row in run.history() if row["kind"] == "train"]
    if first is None or not losses or losses[-1] <= DIVERGENCE_FACTOR * first:
        return None
    return f"the loss rose from {first:.4g}, which the untrained model had, to {losses[-1]:.4g}"


def _best(validations: Sequence[Row]) -> dict[str, float]:
    best: dict[str, float] = {}
    for row in validations:
        for name, value in _scores(row).items():
            if name not in best or is_better(name, value, best[name]):
                best[name] = value
    return best


def _scores(validation: Row) -> dict[str, float]:
    return {name: value for name, value in validation.items() if name not in NOT_SCORES and math.isfinite(value)}


class ScoreTracker:
    """Progress and score of a training after each validation, as schedulers see them.

    Args:
        unit: fraction of a training that is a progress of 1.
        latest: whether the score is that of the last validation, not the best so far.
    """

    def __init__(self, config: Config, name: str, unit: float, *, latest: bool) -> None:
        self._training, self._name, self._unit, self._latest = config.training, name, unit, latest
        self._score: float | None = None

    def __call__(self, row: Row) -> dict[str, float]:
        value = row.get(self._name, math.nan)  # a validation has no speed
        if math.isfinite(value) and (self._score is None or self._latest or is_better(self._name, value, self._score)):
            self._score = value
        done = self._training.completed(epoch=row["epoch"], step=row["step"], seconds=row["seconds"])
        return {"progress": done / self._unit} | ({} if self._score is None else {"score": self._score})


RUNNING, FINISHED, STOPPED, DIVERGED, FAILED = "running", "finished", "stopped", "diverged", "failed"
"""States of a trial. A stopped trial was ended early, by the scheduler or the time limit; a diverged one has numbers
that are not finite, or a loss far above that of the untrained model."""
SCORED = (FINISHED, STOPPED)

Record = dict[str, Any]


@dataclass(frozen=True)
class SweepInfo:
    """Facts about a sweep for its report.

    Attributes:
        workers: concurrent trials.
    """

    command: str
    workers: int
    version: str


class TrialRecords:
    """The records of all trials of a sweep; thread-safe.

    Args:
        metrics: the scores that are optimized; the first one ranks the points.
    """

    def __init__(self, sweep: SweepDir, config: Config, metrics: Sequence[str], info: SweepInfo) -> None:
        assert config.tuning is not None
        self.sweep, self.config, self.metrics, self.info = sweep, config, list(metrics), info
        self._tuning = config.tuning
        self.records: dict[str, Record] = {row["name"]: row for row in sweep.read_records()}
        self._lock = threading.Lock()
        self._created, self._earlier_seconds = self._earlier_start()
        self._start = time.monotonic()

    def _earlier_start(self) -> tuple[str, float]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if not (self.records and self.sweep.summary.is_file()):
            return now, 0.0
        summary = json.loads(self.sweep.summary.read_text(encoding="utf-8"))
        return summary["created"], summary["seconds"]

    @property
    def seconds(self) -> float:
        """The duration of the sweep so far, earlier starts included."""
        return self._earlier_seconds + time.monotonic() - self._start

    @property
    def scheduler(self) -> str:
        """The name of the scheduler."""
        return self._tuning.scheduler

    def running(self) -> list[str]:
        """Returns the names of the running trials."""
        with self._lock:
            return [name for name, record in self.records.items() if record["state"] == RUNNING]

    def start(self, trial: TrialConfig) -> None:
        """Records that a trial starts, or continues."""
        with self._lock:
            self._record(asdict(trial) | {"state": RUNNING, "reason": None})

    def finish(self, name: str, state: str, reason: str | None) -> Record:
        """Records how a trial ended, with the metrics of its run; returns the record."""
        with self._lock:
            trial = {key: self.records[name][key] for key in ("name", "point", "seed")}
            end = {"parameters": self._final_parameters(name), "state": state, "reason": reason}
            self._record(trial | end | trial_metrics(self.sweep.trial(name)))
            self._write()
            return self.records[name]

    def _final_parameters(self, name: str) -> dict[str, Any]:
        """Returns the values at the end of a trial; population-based training changes them during training."""
        parameters: dict[str, Any] = self.records[name]["parameters"]
        run = self.sweep.trial(name)
        if self._tuning.scheduler != "pbt" or not run.config_file.is_file():
            return parameters
        own = run.config().model_dump()
        return {key: value_at(own, key) for key in parameters}

    def mean_scores(self, point: int) -> list[float] | None:
        """Returns the mean scores of a point over its seeds, one per metric; None where a seed has none."""
        trials = [record for record in self.records.values() if record["point"] == point]
        if any(trial["state"] not in SCORED or not self._has_scores(trial) for trial in trials):
            return None
        return [statistics.fmean(trial["scores"][name] for trial in trials) for name in self.metrics]

    def _has_scores(self, record: Record) -> bool:
        return all(name in record.get("scores", {}) for name in self.metrics)

    def best(self) -> Record | None:
        """Returns the best trial of the point with the best mean of the first metric."""
        name = self.metrics[0]
        best: tuple[float, int] | None = None
        for point in sorted({record["point"] for record in self.records.values()}):
            values = self.mean_scores(point)
            if values is not None and (best is None or is_better(name, values[0], best[0])):
                best = values[0], point
        if best is None:
            return None
        trials = [record for record in self.records.values() if record["point"] == best[1]]
        return min(trials, key=lambda trial: trial["scores"][name] * (1 if mode(name) == "min" else -1))

    def summary(self) -> dict[str, Any]:
        """Returns the content of sweep.json."""
        tuning, best = self._tuning, self.best()
        return {
            "name": self.sweep.path.name,
            "task": self.config.task,
            "command": self.info.command,
            "created": self._created,
            "version": self.info.version,
            "metric": self.metrics,
            "mode": [mode(name) for name in self.metrics],
            "sampler": tuning.sampler,
            "scheduler": tuning.scheduler,
            "seeds": tuning.seeds,
            "seconds": round(self.seconds, 3),
            "workers": self.info.workers,
            "space": {key: _described(parameter) for key, parameter in tuning.space.items()},
            "trials": [self.records[name] for name in sorted(self.records)],
            "best": best and best["name"],
            "best_config": best and self._best_config(best["parameters"]),
        }

    def _best_config(self, parameters: dict[str, Any]) -> str:
        own = {"name": f"{self.config.name}-best", "storage": str(resolve_storage(self.config.storage)), "tuning": None}
        return dump_config(replace_keys(self.config, parameters | own, "tuning.space"))

    def write(self) -> dict[str, Any]:
        """Writes sweep.json and best.yaml; returns the content of the former."""
        with self._lock:
            return self._write()

    def _write(self) -> dict[str, Any]:
        summary = self.summary()
        with explain_write_errors(self.sweep.path):
            write_atomic(self.sweep.summary, json.dumps(summary, indent=1))
            if summary["best_config"]:
                write_atomic(self.sweep.best, summary["best_config"])
        return summary

    def _record(self, record: Record) -> None:
        self.records[record["name"]] = record
        self.sweep.append(record)


def _described(parameter: Any) -> dict[str, Any]:
    given = parameter.given
    values = {"values": given} if parameter.kind in ("choice", "grid") else {"low": given[0], "high": given[1]}
    return {"kind": parameter.kind} | values | ({"when": parameter.when} if parameter.when else {})
