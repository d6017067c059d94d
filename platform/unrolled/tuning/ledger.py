"""What is known of all trials of a sweep: trials.jsonl to go on from, sweep.json for the report, best.yaml to train."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unrolled.config import Config
from unrolled.config_file import changed_config, dump_config, runs_folder
from unrolled.files import write_whole, writing
from unrolled.training.run import value_at
from unrolled.tuning.folder import Order, SweepFolder
from unrolled.tuning.measure import better, measure, mode

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

    def __init__(self, sweep: SweepFolder, config: Config, metrics: Sequence[str], origin: Origin) -> None:
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

    def begin(self, order: Order) -> None:
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
        if self._tuning.scheduler != "pbt" or not (run.path / "config.yaml").is_file():
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
        return dump_config(changed_config(self.config, parameters | own, "tuning.space"))

    def write(self) -> dict[str, Any]:
        """Writes sweep.json and best.yaml; returns what the former holds."""
        with self._lock:
            return self._write()

    def _write(self) -> dict[str, Any]:
        summary = self.summary()
        with writing(self.sweep.path):
            write_whole(self.sweep.summary, json.dumps(summary, indent=1))
            if summary["best_config"]:
                write_whole(self.sweep.best, summary["best_config"])
        return summary

    def _note(self, record: Record) -> None:
        self.records[record["name"]] = record
        self.sweep.record(record)


def _described(parameter: Any) -> dict[str, Any]:
    given = parameter.given
    values = {"values": given} if parameter.kind in ("choice", "grid") else {"low": given[0], "high": given[1]}
    return {"kind": parameter.kind} | values | ({"when": parameter.when} if parameter.when else {})
