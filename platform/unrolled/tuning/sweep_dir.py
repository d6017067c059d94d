"""Sweep directories and what is known of all trials.

The folder of a sweep: what it searches, its trials, and what it found.

What a trial's own files say of it.

What is known of all trials of a sweep: trials.jsonl to go on from, sweep.json for the report, best.yaml to train.
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
    runs_folder,
    value_at,
)
from unrolled.errors import UserError
from unrolled.files import explain_write_errors, read_json_lines, write_atomic
from unrolled.metrics import metric_info
from unrolled.training import checkpoint
from unrolled.training.run_dir import RunDir
from unrolled.tuning.search_space import Point

CONFIG = "sweep.yaml"
FREE = ("name", "storage", "tuning.trials", "tuning.minutes", "tuning.concurrent")
"""Keys that a resumed sweep may change."""


@dataclass(frozen=True)
class TrialConfig:
    """A trial: which point of the space, trained from which seed.

    Attributes:
        point: its number from 0.
    """

    name: str
    point: int
    seed: int
    parameters: Point


@dataclass(frozen=True)
class SweepDir:
    """Paths and files of one sweep; every trial is the folder of a run under `trials/`."""

    path: Path

    @property
    def run(self) -> RunDir:
        """For what it shares with the folder of a run: the lock, the log, the file that asks for an end."""
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
        """What Ray Tune writes; nothing of it is needed again."""
        return self.path / ".tune"

    def trial(self, name: str) -> RunDir:
        """The run of a trial."""
        return RunDir(self.trials / name)

    def config(self) -> Config:
        """Reads what is searched."""
        return load_stored_config(self.path / CONFIG)

    def start(self, config: Config, *, resume: bool) -> None:
        """Writes what is searched; without `resume`, what stood there before is gone."""
        with explain_write_errors(self.path):
            if not resume and self.path.exists():
                shutil.rmtree(self.path)
            self.trials.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.scratch, ignore_errors=True)
            # Without a line that a killed process left half written, to which the next would be added.
            write_atomic(self._rows, "".join(json.dumps(row) + "\n" for row in self.recorded()))
            write_atomic(self.path / CONFIG, dump_stored_config(config))

    def record(self, row: dict[str, Any]) -> None:
        """Adds what is now known of a trial to trials.jsonl, the truth from which a sweep is resumed."""
        with explain_write_errors(self._rows), self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def recorded(self) -> list[dict[str, Any]]:
        """Returns the last row of every trial in trials.jsonl, in the order of their names."""
        rows = {row["name"]: row for row in read_json_lines(self._rows)}
        return [rows[name] for name in sorted(rows)]

    @property
    def _rows(self) -> Path:
        return self.path / "trials.jsonl"


def source_of(config: str | Path, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Returns config file and overrides, also where the folder of a sweep was given in place of a config."""
    folder = Path(config)
    if not (folder / CONFIG).is_file():
        return folder, [*overrides]
    place = folder.resolve()
    return place / CONFIG, [*overrides, f"storage={place.parent}", f"name={place.name}"]


def trial_config(config: Config, sweep: SweepDir, order: TrialConfig, *, smoke: bool) -> Config:
    """Returns the config of a trial's run; `smoke`: few examples, few steps."""
    own = {"name": order.name, "storage": str(sweep.trials), "seed": order.seed, "tuning": None}
    own_config = replace_keys(config, order.parameters | own, "tuning.space")
    return own_config.smoke_version() if smoke else own_config


def resolve_sweep_dir(config: Config, *, resume: bool, overwrite: bool) -> SweepDir:
    """Returns the sweep's folder, checked but untouched.

    Raises:
        UserError: it exists and neither `resume` nor `overwrite` was asked for; there is nothing to resume, or
            what is there searched otherwise; it is not a sweep, so it is not overwritten.
    """
    sweep = SweepDir(runs_folder(config) / config.name)
    exists = sweep.path.exists() and (not sweep.path.is_dir() or any(sweep.path.iterdir()))
    is_sweep = (sweep.path / CONFIG).is_file()
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one of them.")
    if resume:
        if not is_sweep:
            raise UserError(f"{sweep.path}: there is no sweep to resume; leave --resume out to start it.")
        _check_same(sweep, config)
    elif exists and not overwrite:
        raise UserError(
            f"{sweep.path} exists already: give --resume to continue it, --overwrite to replace it, or name=OTHER."
        )
    elif exists and not is_sweep:
        raise UserError(f"{sweep.path} is not a sweep (it has no {CONFIG}), so --overwrite leaves it alone.")
    return sweep


def _check_same(sweep: SweepDir, config: Config) -> None:
    before, now = (_without_free(values) for values in (sweep.config(), config))
    if changed := first_difference(before, now):
        key, old, new = changed
        raise UserError(
            f"{sweep.path} was begun with {key}={_shown(old)}, the config says {_shown(new)}: a resumed sweep keeps "
            "its space and all else but tuning.trials, tuning.minutes and tuning.concurrent; give another name=… for "
            "the change."
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a key of the space that is new or gone
        value = {name: given for name, given in value.items() if given}
    return "nothing" if value is None else str(value)


def _without_free(config: Config) -> dict[str, Any]:
    values = config.model_dump(exclude_none=True)
    for key in FREE:
        section, name = locate(values, key)
        section.pop(name, None)
    return values


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
    return value > than if name == SPEED else metric_info(name).better(value, than)


def mode(name: str) -> str:
    """Returns `min` or `max`: which values of a score are good."""
    return "max" if better(name, 1, 0) else "min"


def scores(row: Row) -> dict[str, float]:
    """Returns the scores in a row of a validation."""
    return {name: value for name, value in row.items() if name not in NO_SCORES}


def measure(run: RunDir) -> dict[str, Any]:
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


def diverged(run: RunDir) -> str | None:
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


class ScoreTracker:
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
        done = self._training.completed(epoch=row["epoch"], step=row["step"], seconds=row["seconds"])
        return {"progress": done / self._unit} | ({} if self._score is None else {"score": self._score})


RUNNING, FINISHED, STOPPED, DIVERGED, FAILED = "running", "finished", "stopped", "diverged", "failed"
"""States of a trial. A stopped one was ended early, by the scheduler or because the time was over; a diverged one has
numbers that are not finite, or a loss far above that of the untrained model."""
SCORED = (FINISHED, STOPPED)

Record = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a sweep comes from, for its report.

    Attributes:
        workers: trials at a time.
    """

    command: str
    workers: int
    version: str


class Ledger:
    """Keeps the records of all trials; several threads may ask.

    Args:
        metrics: that rank, the first one first.
    """

    def __init__(self, sweep: SweepDir, config: Config, metrics: Sequence[str], origin: Origin) -> None:
        assert config.tuning is not None
        self.sweep, self.config, self.metrics, self.origin = sweep, config, list(metrics), origin
        self._tuning = config.tuning
        self.records: dict[str, Record] = {row["name"]: row for row in sweep.recorded()}
        self._lock = threading.Lock()
        self._created, self._before = self._earlier()
        self._began = time.monotonic()

    def _earlier(self) -> tuple[str, float]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if not (self.records and self.sweep.summary.is_file()):
            return now, 0.0
        summary = json.loads(self.sweep.summary.read_text(encoding="utf-8"))
        return summary["created"], summary["seconds"]

    @property
    def seconds(self) -> float:
        """That the sweep took, earlier starts included."""
        return self._before + time.monotonic() - self._began

    @property
    def scheduler(self) -> str:
        """Which may have ended a trial."""
        return self._tuning.scheduler

    def running(self) -> list[str]:
        """Returns the trials that have begun and not ended."""
        with self._lock:
            return [name for name, record in self.records.items() if record["state"] == RUNNING]

    def begin(self, order: TrialConfig) -> None:
        """Notes that a trial is about to start, or to go on."""
        with self._lock:
            self._note(asdict(order) | {"state": RUNNING, "reason": None})

    def end(self, name: str, state: str, reason: str | None) -> Record:
        """Notes how a trial ended, and what its files say."""
        with self._lock:
            order = {key: self.records[name][key] for key in ("name", "point", "seed")}
            ended = {"parameters": self._parameters(name), "state": state, "reason": reason}
            self._note(order | ended | measure(self.sweep.trial(name)))
            self._write()
            return self.records[name]

    def _parameters(self, name: str) -> dict[str, Any]:
        """The values that a trial ended with, which population based training changes on the way."""
        parameters: dict[str, Any] = self.records[name]["parameters"]
        run = self.sweep.trial(name)
        if self._tuning.scheduler != "pbt" or not run.config_file.is_file():
            return parameters
        own = run.config().model_dump()
        return {key: value_at(own, key) for key in parameters}

    def values(self, point: int) -> list[float] | None:
        """Returns the mean scores of a point over its seeds, one a metric; `None` where a seed has none."""
        trials = [record for record in self.records.values() if record["point"] == point]
        if any(trial["state"] not in SCORED or not self._scored(trial) for trial in trials):
            return None
        return [statistics.fmean(trial["scores"][name] for trial in trials) for name in self.metrics]

    def _scored(self, record: Record) -> bool:
        return all(name in record.get("scores", {}) for name in self.metrics)

    def best(self) -> Record | None:
        """Returns the best trial of the point with the best mean of the first metric."""
        name = self.metrics[0]
        best: tuple[float, int] | None = None
        for point in sorted({record["point"] for record in self.records.values()}):
            values = self.values(point)
            if values is not None and (best is None or better(name, values[0], best[0])):
                best = values[0], point
        if best is None:
            return None
        trials = [record for record in self.records.values() if record["point"] == best[1]]
        return min(trials, key=lambda trial: trial["scores"][name] * (1 if mode(name) == "min" else -1))

    def summary(self) -> dict[str, Any]:
        """Returns what sweep.json holds."""
        tuning, best = self._tuning, self.best()
        return {
            "name": self.sweep.path.name,
            "task": self.config.task,
            "command": self.origin.command,
            "created": self._created,
            "version": self.origin.version,
            "metric": self.metrics,
            "mode": [mode(name) for name in self.metrics],
            "sampler": tuning.sampler,
            "scheduler": tuning.scheduler,
            "seeds": tuning.seeds,
            "seconds": round(self.seconds, 3),
            "workers": self.origin.workers,
            "space": {key: _described(parameter) for key, parameter in tuning.space.items()},
            "trials": [self.records[name] for name in sorted(self.records)],
            "best": best and best["name"],
            "best_config": best and self._best_config(best["parameters"]),
        }

    def _best_config(self, parameters: dict[str, Any]) -> str:
        own = {"name": f"{self.config.name}-best", "storage": str(runs_folder(self.config)), "tuning": None}
        return dump_config(replace_keys(self.config, parameters | own, "tuning.space"))

    def write(self) -> dict[str, Any]:
        """Writes sweep.json and best.yaml; returns what the former holds."""
        with self._lock:
            return self._write()

    def _write(self) -> dict[str, Any]:
        summary = self.summary()
        with explain_write_errors(self.sweep.path):
            write_atomic(self.sweep.summary, json.dumps(summary, indent=1))
            if summary["best_config"]:
                write_atomic(self.sweep.best, summary["best_config"])
        return summary

    def _note(self, record: Record) -> None:
        self.records[record["name"]] = record
        self.sweep.record(record)


def _described(parameter: Any) -> dict[str, Any]:
    given = parameter.given
    values = {"values": given} if parameter.kind in ("choice", "grid") else {"low": given[0], "high": given[1]}
    return {"kind": parameter.kind} | values | ({"when": parameter.when} if parameter.when else {})
