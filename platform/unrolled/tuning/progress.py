"""Progress of a sweep: the table on the console, and TensorBoard HParams.

What a person sees of a sweep: a table that refreshes, or a line for every trial that ended.

What TensorBoard's HParams page shows of a trial.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from unrolled.training.console import Console, format_duration, format_score
from unrolled.training.loggers import TensorBoard
from unrolled.training.run_dir import RunDir
from unrolled.tuning.samplers import count
from unrolled.tuning.sweep_dir import DIVERGED, FAILED, RUNNING, SCORED, SPEED, STOPPED, Ledger, Record, better

SHOWN = 10
"""Trials in the table, besides those that are running."""
REFRESH_SECONDS = 0.5


class SweepProgress:
    """Shows a sweep while it runs.

    Args:
        count: trials that there will be, if that is known.
    """

    def __init__(self, console: Console, ledger: Ledger, count: int | None) -> None:
        self._console, self._ledger, self._count = console, ledger, count
        self._rows: dict[str, dict[str, Any]] = {}
        self._shown = 0.0
        self._short = _short_names(ledger.config.tuning.space if ledger.config.tuning else ())

    def show(self, name: str, told: dict[str, Any]) -> None:
        """Takes the row of a validation, or the record of a trial that ended."""
        if "kind" in told:
            self._rows[name] = told
            return
        if self._console.json_lines:
            self._console.json(told)
        elif not self._console.live:
            self._console.say(f"{self._ended()} of {self._count or '…'}  {self._line(told)}")

    def look(self) -> None:
        """Refreshes the table."""
        if self._console.live and time.monotonic() - self._shown >= REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._console.block([self._heading(), *self._table()])

    def close(self) -> None:
        """Leaves the last table on the screen."""
        if self._console.live:
            for line in self._table():
                self._console.say(line[:99])

    def _ended(self) -> int:
        return sum(record["state"] != RUNNING for record in self._records)

    @property
    def _records(self) -> list[Record]:
        return list(self._ledger.records.values())

    def _heading(self) -> str:
        states = [record["state"] for record in self._records]
        parts = [f"{self._ended()} of {self._count or '…'} trials", format_duration(self._ledger.seconds)]
        parts += [f"{states.count(state)} {state}" for state in (RUNNING, STOPPED, DIVERGED, FAILED) if state in states]
        return "  ".join(parts)

    def _table(self) -> Iterator[str]:
        name = self._ledger.metrics[0]
        scored = [record for record in self._records if name in record.get("scores", {})]
        scored.sort(key=lambda record: record["scores"][name], reverse=better(name, 1, 0))
        yield from map(self._line, scored[:SHOWN])
        yield from (self._line(record) for record in self._records if record["state"] == RUNNING)

    def _line(self, record: Record) -> str:
        scores, row = record.get("scores", {}), self._rows.get(record["name"], {})
        parts = [f"{record['name']}  {record['state']:<8}"]
        parts += [score(name, (scores or row)[name]) for name in self._ledger.metrics if name in (scores or row)]
        if steps := record.get("steps", row.get("step")):
            parts.append(f"{steps:,} steps in {format_duration(record.get('seconds') or row.get('seconds', 0.0))}")
        return "  ".join([*parts, shown({self._short[key]: value for key, value in record["parameters"].items()})])


def introduction(ledger: Ledger, trials: int, cpus: int, workers: int) -> list[str]:
    """Says what will run."""
    tuning = ledger.config.tuning
    assert tuning is not None
    points = count(tuning)
    many = "all points" if points is None else f"{points:,} points"
    seeds = f", each from {tuning.seeds} seeds" if tuning.seeds > 1 else ""
    stopping = "" if tuning.scheduler == "none" else f", {tuning.scheduler}"
    each = f"{workers} Ray workers" if workers > 1 else f"{cpus} CPU{'s' if cpus > 1 else ''}"
    return [
        f"sweep    {ledger.sweep.path}",
        f"space    {', '.join(tuning.space)}",
        f"search   {tuning.sampler}{stopping}: {many}{seeds}; the best {ledger.metrics[0].replace('_', ' ')} wins",
        f"trials   {trials} at a time with {each}{' each' if trials > 1 else ''}",
    ]


def conclusion(ledger: Ledger, *, whole: bool) -> Iterator[str]:
    """Says what was found, and what to do with it."""
    records, best, path = list(ledger.records.values()), ledger.best(), ledger.sweep.path
    ended = sum(record["state"] != RUNNING for record in records)
    yield f"{'searched' if whole else 'stopped'}: {ended:,} trials in {format_duration(ledger.seconds)}"
    if best is not None:
        scores = "  ".join(score(name, best["scores"][name]) for name in ledger.metrics)
        yield f"best: {best['name']}  {scores}  {shown(best['parameters'])}"
        yield f"train it with: unrolled train {ledger.sweep.best}"
    yield f"report: {ledger.sweep.page}"
    if not whole:
        yield f"continue with: unrolled tune {path} --resume"


def score(name: str, value: float) -> str:
    """Returns `loss 1.532` or `12,345 tokens/s`."""
    return f"{value:,.0f} tokens/s" if name == SPEED else format_score(name, value)


def shown(parameters: dict[str, Any]) -> str:
    """Returns the values of a point as they are given on a command line, numbers rounded."""
    return " ".join(f"{key}={_short(value)}" for key, value in parameters.items())


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns the shortest end of every key that no other key has: `cell`, or `encoder.cell` beside `decoder.cell`."""
    parts = {key: key.split(".") for key in keys}

    def ends(count: int, of: list[str]) -> int:
        return sum(other[-count:] == of[-count:] for other in parts.values())

    return {
        key: ".".join(own[-next(count for count in range(1, len(own) + 1) if ends(count, own) == 1) :])
        for key, own in parts.items()
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def write_hparams(run: RunDir, record: Record) -> None:
    """Adds to the TensorBoard files of a trial what it was trained with; its scores stand there already."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

    plain = {key: _plain(value) for key, value in record["parameters"].items()} | {"seed": record["seed"]}
    status = api_pb2.STATUS_SUCCESS if record["state"] in SCORED else api_pb2.STATUS_FAILURE
    board = TensorBoard(run)
    board.add(summary_v2.hparams_pb(plain, trial_id=f"point {record['point']}"))
    end = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=status))
    about = metadata.create_summary_metadata(end)
    board.add(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)]))
    board.close()


def _plain(value: Any) -> Any:
    """The page knows numbers, texts and truths."""
    return value if isinstance(value, bool | int | float | str) else shown({"": value})[1:]
