"""Progress of a sweep: the table on the console, and TensorBoard HParams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from unrolled.config.load import short_labels
from unrolled.training.console import Console, format_duration, format_score
from unrolled.training.loggers import TensorBoard
from unrolled.training.run_dir import RunDir
from unrolled.tuning.samplers import num_points
from unrolled.tuning.sweep_dir import DIVERGED, FAILED, RUNNING, SCORED, SPEED, STOPPED, Record, TrialRecords, is_better

TABLE_ROWS = 10
"""Trials in the table, besides those that are running."""
REFRESH_SECONDS = 0.5


class SweepProgress:
    """Shows a running sweep: a table that refreshes on a terminal, otherwise a line for each trial that ends.

    Args:
        num_trials: total number of trials, if known.
    """

    def __init__(self, console: Console, records: TrialRecords, num_trials: int | None) -> None:
        self._console, self._records, self._total = console, records, num_trials or "…"
        self._rows: dict[str, dict[str, Any]] = {}
        self._refreshed = 0.0
        self._labels = short_labels(records.config.tuning.space if records.config.tuning else ())

    def update(self, name: str, event: dict[str, Any]) -> None:
        """Takes the row of a validation, or the record of a trial that ended."""
        if "kind" in event:
            self._rows[name] = event
            return
        if self._console.json_lines:
            self._console.json(event)
        elif not self._console.live:
            self._console.print(f"{self._num_ended()} of {self._total}  {self._line(event)}")

    def refresh(self) -> None:
        """Redraws the table."""
        if self._console.live and time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = time.monotonic()
            self._console.show_block([self._heading(), *self._table()])

    def close(self) -> None:
        """Leaves the last table on the screen."""
        if self._console.live:
            for line in self._table():
                self._console.print(line[:99])

    def _num_ended(self) -> int:
        return sum(record["state"] != RUNNING for record in self._all())

    def _all(self) -> list[Record]:
        return list(self._records.records.values())

    def _heading(self) -> str:
        states = [record["state"] for record in self._all()]
        parts = [f"{self._num_ended()} of {self._total} trials", format_duration(self._records.seconds)]
        parts += [f"{states.count(state)} {state}" for state in (RUNNING, STOPPED, DIVERGED, FAILED) if state in states]
        return "  ".join(parts)

    def _table(self) -> Iterator[str]:
        name = self._records.metrics[0]
        scored = [record for record in self._all() if name in record.get("scores", {})]
        scored.sort(key=lambda record: record["scores"][name], reverse=is_better(name, 1, 0))
        yield from map(self._line, scored[:TABLE_ROWS])
        yield from (self._line(record) for record in self._all() if record["state"] == RUNNING)

    def _line(self, record: Record) -> str:
        scores, row = record.get("scores", {}), self._rows.get(record["name"], {})
        parts = [f"{record['name']}  {record['state']:<8}"]
        known = scores or row
        parts += [_format_metric(name, known[name]) for name in self._records.metrics if name in known]
        if steps := record.get("steps", row.get("step")):
            parts.append(f"{steps:,} steps in {format_duration(record.get('seconds') or row.get('seconds', 0.0))}")
        parameters = {self._labels[key]: value for key, value in record["parameters"].items()}
        return "  ".join([*parts, format_parameters(parameters)])


def opening_lines(records: TrialRecords, trials: int, cpus: int, workers: int) -> list[str]:
    """Returns the lines printed before a sweep.

    Args:
        trials: number of concurrent trials.
        cpus: CPUs per worker.
        workers: workers per trial.
    """
    tuning = records.config.tuning
    assert tuning is not None
    points = num_points(tuning)
    many = "all points" if points is None else f"{points:,} points"
    seeds = f", each from {tuning.seeds} seeds" if tuning.seeds > 1 else ""
    stopping = "" if tuning.scheduler == "none" else f", {tuning.scheduler}"
    each = f"{workers} Ray workers" if workers > 1 else f"{cpus} CPU{'s' if cpus > 1 else ''}"
    return [
        f"sweep    {records.sweep.path}",
        f"space    {', '.join(tuning.space)}",
        f"search   {tuning.sampler}{stopping}: {many}{seeds}; the best {records.metrics[0].replace('_', ' ')} wins",
        f"trials   {trials} at a time with {each}{' each' if trials > 1 else ''}",
    ]


def closing_lines(records: TrialRecords, *, complete: bool) -> Iterator[str]:
    """Yields the lines printed after a sweep; `complete`: it was not interrupted."""
    best, sweep = records.best(), records.sweep
    ended = sum(record["state"] != RUNNING for record in records.records.values())
    yield f"{'searched' if complete else 'stopped'}: {ended:,} trials in {format_duration(records.seconds)}"
    if best is not None:
        scores = "  ".join(_format_metric(name, best["scores"][name]) for name in records.metrics)
        yield f"best: {best['name']}  {scores}  {format_parameters(best['parameters'])}"
        yield f"train it with: unrolled train {sweep.best}"
    yield f"report: {sweep.page}"
    if not complete:
        yield f"continue with: unrolled tune {sweep.path} --resume"


def _format_metric(name: str, value: float) -> str:
    """Returns `loss 1.532` or `12,345 tokens/s`."""
    return f"{value:,.0f} tokens/s" if name == SPEED else format_score(name, value)


def format_parameters(parameters: dict[str, Any]) -> str:
    """Returns parameters as overrides on a command line, numbers rounded."""
    return " ".join(f"{key}={_format_value(value)}" for key, value in parameters.items())


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def write_hparams(run: RunDir, record: Record) -> None:
    """Adds the parameters of a trial to its TensorBoard files, which have its scores already."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

    hparams = {key: _hparam(value) for key, value in record["parameters"].items()} | {"seed": record["seed"]}
    status = api_pb2.STATUS_SUCCESS if record["state"] in SCORED else api_pb2.STATUS_FAILURE
    board = TensorBoard(run)
    board.add(summary_v2.hparams_pb(hparams, trial_id=f"point {record['point']}"))
    end = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=status))
    about = metadata.create_summary_metadata(end)
    board.add(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)]))
    board.close()


def _hparam(value: Any) -> Any:
    """Returns a number, text or truth value, the types that TensorBoard knows."""
    return value if isinstance(value, bool | int | float | str) else _format_value(value)
