"""Loggers: TensorBoard, MLflow and Weights & Biases.

TensorBoard's files of a run.

MLflow and Weights & Biases, as a run sees them: reached before it starts, given its rows, told how it ended.

Trackers follow a run.

The process that was asked to train owns them, not a worker: it has its user's environment and lives on when workers
die. What they get is a copy of metrics.jsonl, so that a server which does not answer costs rows there, not training.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

from unrolled.config import Config
from unrolled.config.load import flatten
from unrolled.errors import RunFailed, UserError
from unrolled.files import explain_write_errors, write_atomic
from unrolled.training.run_dir import CHECKPOINTS_KEPT, RunDir


class TensorBoard:
    """An event file in the run's folder. TensorBoard's own writers write in a thread, where a full disk cannot be
    answered.

    Raises:
        RunFailed: the disk does not take it; so do the methods.
    """

    def __init__(self, run: RunDir) -> None:
        # Slow to import, and only one process needs them.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder, now = run.path / "tensorboard", time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        with explain_write_errors(folder, RunFailed, CHECKPOINTS_KEPT):
            folder.mkdir(exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def log(self, row: Mapping[str, Any]) -> None:
        """Writes the numbers of a row of metrics.jsonl."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars(row).items()]
        self._write(step=row["step"], summary=self._summary(value=values))

    def add(self, summary: Any) -> None:
        """Writes a summary that a plugin of TensorBoard's made."""
        self._write(summary=summary)

    def _write(self, **content: Any) -> None:
        with explain_write_errors(self._path, RunFailed, CHECKPOINTS_KEPT):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with explain_write_errors(self._path, RunFailed, CHECKPOINTS_KEPT):
            self._file.close()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl, by `train/loss` and the like; norms of layers by `gradient/…`."""
    kind = row["kind"]
    plain = {f"{kind}/{name}": value for name, value in row.items() if isinstance(value, float)}
    for name in ("seconds", "epoch"):
        plain.pop(f"{kind}/{name}", None)
    return plain | {f"gradient/{layer}": norm for layer, norm in row.get("layers", {}).items()}


T = TypeVar("T")
State = Literal["finished", "failed", "killed"]
"""How training ended; killed: on request, before its time."""
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's own patience with a server is more than an hour
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which may be read by a machine
}
WANDB_SECONDS = 30.0
"""How long its begin and end may take; the package's own patience at the end is without bound."""


@dataclass(frozen=True)
class Position:
    """How far a tracker has come with a run.

    Attributes:
        run: the tracker's own id of the run.
        row: step and kind of the newest row that it has. Rows of one step are written in the order of their kinds'
            names, so marks compare as rows follow each other.
    """

    run: str
    row: tuple[int, str] = (-1, "")


class Tracker(Protocol):
    """Making one reaches its server, or raises what the tracker's package raises. So do the methods, in bounded time.

    Attributes:
        name: as `training.trackers` has it.
        hint: what helps where it cannot be used.
        late: how rows that it did not take in time get there.
    """

    name: str
    hint: str
    late: str

    def begin(self, run: RunDir, config: Config, known: Position | None) -> Position:
        """Starts the tracker's run, or goes on with the known one; returns how far that is."""

    def where(self) -> str:
        """Says where the run is to be seen."""

    def send(self, row: Mapping[str, Any]) -> None:
        """Takes a row of metrics.jsonl."""

    def end(self, state: State) -> None:
        """Marks the run, which takes no more rows."""


class MLflow:
    """A run of the experiment `unrolled`, or of $MLFLOW_EXPERIMENT_NAME, on the server of $MLFLOW_TRACKING_URI or where
    MLflow keeps its runs by default. If MLflow no longer has a resumed run, it gets a new one, with all rows."""

    name = "mlflow"
    hint = "MLFLOW_TRACKING_URI names its server"
    late = "they follow later, or with --resume"

    def __init__(self) -> None:
        for variable, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "unrolled")
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)

    def begin(self, run: RunDir, config: Config, known: Position | None) -> Position:
        from mlflow.entities import Param

        if known and self._has(known.run):
            self._run = known.run
            self._client.update_run(self._run, status="RUNNING")
            return known
        self._run = self._client.create_run(self._experiment, run_name=run.name).info.run_id
        params = [Param(key, str(value)) for key, value in flatten(config.model_dump()).items()]
        for start in range(0, len(params), 100):  # a server takes so many at once
            self._client.log_batch(self._run, params=params[start : start + 100])
        return Position(self._run)

    def _has(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def where(self) -> str:
        place, experiment = self._client.tracking_uri, self._experiment
        if place.startswith("http"):
            return f"{place.rstrip('/')}/#/experiments/{experiment}/runs/{self._run}"
        return f"run {self._run} of experiment {experiment} in {place}"

    def send(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, row["step"]) for name, value in scalars(row).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, state: State) -> None:
        self._client.set_terminated(self._run, state.upper())


class WeightsAndBiases:
    """A run of the project `unrolled`, or of $WANDB_PROJECT; the package's own variables say who, where and whether
    offline. Offline files of a resumed run have its id and all its rows, since the newest that is synchronised replaces
    those before; so has a resumed run that the server does not know."""

    name = "wandb"
    hint = "WANDB_MODE=offline needs no server"
    late = "`wandb sync` on the run's folder wandb/ sends them"

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._online = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode in ("online", "run", "shared")
        if self._online and not wandb.login(prompt=False, verify=True):
            raise UserError("no API key: give one by `wandb login` or WANDB_API_KEY")

    def begin(self, run: RunDir, config: Config, known: Position | None) -> Position:
        patience = {"init_timeout": WANDB_SECONDS, "finish_timeout": WANDB_SECONDS, "finish_timeout_raises": True}
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "unrolled"),
            name=run.name,
            id=known.run if known else None,
            resume="allow" if self._online else None,
            dir=str(run.path),
            config=config.model_dump(),
            allow_val_change=True,
            settings=self._wandb.Settings(console="off", silent=True, reinit="create_new", **patience),
        )
        # Its own count of rows cannot go back to a checkpoint, as ours does.
        self._run.define_metric("*", step_metric="step")
        return known if known and self._run.resumed else Position(self._run.id)

    def where(self) -> str:
        return str(self._run.url) if self._online else f"run {self._run.id}, offline in {self._run.settings.sync_dir}"

    def send(self, row: Mapping[str, Any]) -> None:
        self._run.log({"step": row["step"], **scalars(row)})

    def end(self, state: State) -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "killed": 255}[state])


def connect_trackers(config: Config) -> list[Tracker]:
    """Returns the trackers of `training.trackers`, ready to begin.

    Raises:
        UserError: one's package is not installed, or its server does not answer or does not let us in.
    """
    known: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}
    for name in config.training.trackers:
        if find_spec(name) is None:
            raise UserError(f"training.trackers names {name}, which is not installed: pip install {name}.")
    return [attempt(known[name], known[name]) for name in config.training.trackers]


def attempt(tracker: Tracker | type[Tracker], action: Callable[[], T]) -> T:
    """Returns what the action returns; raises UserError for whatever a tracker's package raises."""
    try:
        return action()
    except Exception as error:
        name, hint = tracker.name, tracker.hint
        raise UserError(f"training.trackers: {name} cannot be used ({reason(error)}); {hint}.") from error


def reason(error: BaseException) -> str:
    """What the network said at the bottom of an error, or the error's first line."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, (ConnectionError, TimeoutError, socket.gaierror)):
            return below.strerror or "no answer in time"
        below = below.__cause__ or below.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


CLOSE_SECONDS = 60.0
"""How long the end of a command waits for trackers."""


class TrackerGroup:
    """While open, hands the rows of a run to its trackers; at the end, says to them how it ended.

    Attributes:
        state: how it ended, unless an exception closes this.

    Raises:
        UserError: a tracker does not begin.
    """

    def __init__(self, trackers: Sequence[Tracker], run: RunDir, config: Config, say: Callable[[str], None]) -> None:
        self.state: State = "failed"
        self._followers: list[_Follower] = []
        try:
            for tracker in trackers:
                self._followers.append(_Follower(tracker, run, config, say))
        except UserError:
            self._end()
            raise

    def take(self, row: dict[str, Any]) -> None:
        """Takes a row of metrics.jsonl; never waits."""
        for follower in self._followers:
            follower.rows.put(row)

    def __enter__(self) -> TrackerGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.state = "killed" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "failed"
        self._end()

    def _end(self) -> None:
        for follower in self._followers:
            follower.rows.put(self.state)
        for follower in self._followers:
            follower.join()


class _Follower:
    """Hands rows to one tracker, in a thread of its own. A file in the run's folder says how far it has come."""

    def __init__(self, tracker: Tracker, run: RunDir, config: Config, say: Callable[[str], None]) -> None:
        self.rows: SimpleQueue[dict[str, Any] | State] = SimpleQueue()
        self._tracker, self._say, self._said = tracker, say, False
        self._file = run.path / f"{tracker.name}.json"
        self._note(attempt(tracker, lambda: tracker.begin(run, config, _read(self._file))))
        say(f"{tracker.name:<8} {tracker.where()}")
        for row in run.history():
            if _place(row) > self._mark.row:
                self.rows.put(row)
        self._thread = threading.Thread(target=self._follow, name=tracker.name, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        waiting: deque[dict[str, Any]] = deque()
        while True:
            # All that has come meanwhile: a server that does not answer is asked once for all of it.
            come = [self.rows.get(), *(self.rows.get() for _ in range(self.rows.qsize()))]
            waiting.extend(row for row in come if isinstance(row, dict) and scalars(row))
            state = come[-1]
            try:
                while waiting:
                    self._tracker.send(waiting[0])
                    self._note(Position(self._mark.run, _place(waiting.popleft())))
                if not isinstance(state, dict):
                    self._tracker.end(state)
            except Exception as error:
                self._complain(reason(error))
            if not isinstance(state, dict):
                return

    def join(self) -> None:
        """Waits for the end, not for ever."""
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._complain("no answer in time")

    def _complain(self, why: str) -> None:
        if not self._said:
            self._said = True
            name, late = self._tracker.name, self._tracker.late
            self._say(f"{name} does not take rows ({why}): metrics.jsonl keeps them, {late}")

    def _note(self, mark: Position) -> None:
        self._mark = mark
        with suppress(OSError):  # a disk that takes nothing ends the training, not this thread
            write_atomic(self._file, json.dumps(asdict(mark)))


def _place(row: dict[str, Any]) -> tuple[int, str]:
    return row["step"], row["kind"]


def _read(file: Path) -> Position | None:
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Position(values["run"], tuple(values["row"]))
