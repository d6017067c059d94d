"""Loggers: TensorBoard files, and the experiment trackers MLflow and Weights & Biases.

Trackers run in the process that the user started, not in a worker: it has the user's environment and outlives workers.
They receive copies of the rows of metrics.jsonl, so that an unreachable server delays rows, but not training.
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

T = TypeVar("T")
State = Literal["finished", "failed", "killed"]
"""How training ended; `killed` on request, before its limits."""


# TensorBoard ----------------------------------------------------------------------------------------------


class TensorBoard:
    """An event file in the run's folder.

    Written here rather than by `torch.utils.tensorboard.SummaryWriter`, whose thread prints a traceback on a full disk.

    Raises:
        RunFailed: the disk refuses it; so do the methods.
    """

    def __init__(self, run: RunDir) -> None:
        # Slow to import, and needed by one process only.
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
        self._write(summary=summary)

    def _write(self, **content: Any) -> None:
        with explain_write_errors(self._path, RunFailed, CHECKPOINTS_KEPT):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        with explain_write_errors(self._path, RunFailed, CHECKPOINTS_KEPT):
            self._file.close()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers in a row of metrics.jsonl by tag, such as `train/loss`; layer norms as `gradient/LAYER`."""
    kind = row["kind"]
    plain = {f"{kind}/{name}": value for name, value in row.items() if isinstance(value, float)}
    for name in ("seconds", "epoch"):
        plain.pop(f"{kind}/{name}", None)
    return plain | {f"gradient/{layer}": norm for layer, norm in row.get("layers", {}).items()}


# Trackers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """The last row of a run that a tracker has received.

    Attributes:
        run: the tracker's id of the run.
        row: step and kind of that row. Rows of one step are written in alphabetical order of their kinds, so positions
            compare in the order of rows.
    """

    run: str
    row: tuple[int, str] = (-1, "")


class Tracker(Protocol):
    """An experiment tracker. Constructor and methods contact its server in bounded time, or raise its package's errors.

    Attributes:
        name: in `training.trackers`.
        hint: advice where it cannot be used.
        late: how rows get there that it did not accept in time.
    """

    name: str
    hint: str
    late: str

    def begin(self, run: RunDir, config: Config, known: Position | None) -> Position:
        """Starts the tracker's run, or continues the known one; returns the position of that run."""

    def where(self) -> str:
        """Returns the address of the run."""

    def send(self, row: Mapping[str, Any]) -> None:
        """Sends a row of metrics.jsonl."""

    def end(self, state: State) -> None:
        """Ends the run with a state."""


def connect_trackers(config: Config) -> list[Tracker]:
    """Returns the trackers of `training.trackers`, connected to their servers.

    Raises:
        UserError: a package is not installed, or a server does not answer or refuses access.
    """
    known: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}
    for name in config.training.trackers:
        if find_spec(name) is None:
            raise UserError(f"training.trackers names {name}, which is not installed: pip install {name}.")
    return [_attempt(known[name], known[name]) for name in config.training.trackers]


CLOSE_SECONDS = 60.0
"""Time for which the end of a command waits for trackers."""


class TrackerGroup:
    """While open, sends the rows of a run to its trackers; at the end, the run's final state.

    Attributes:
        state: the final state, unless an exception closes the group.

    Raises:
        UserError: a tracker cannot begin.
    """

    def __init__(
        self, trackers: Sequence[Tracker], run: RunDir, config: Config, print_line: Callable[[str], None]
    ) -> None:
        self.state: State = "failed"
        self._threads: list[_TrackerThread] = []
        try:
            for tracker in trackers:
                self._threads.append(_TrackerThread(tracker, run, config, print_line))
        except UserError:
            self._end()
            raise

    def send(self, row: dict[str, Any]) -> None:
        """Queues a row of metrics.jsonl; never waits."""
        for thread in self._threads:
            thread.rows.put(row)

    def __enter__(self) -> TrackerGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.state = "killed" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "failed"
        self._end()

    def _end(self) -> None:
        for thread in self._threads:
            thread.rows.put(self.state)
        for thread in self._threads:
            thread.join()


class _TrackerThread:
    """Sends rows to one tracker in a thread, and records the tracker's position in a file of the run's folder."""

    def __init__(self, tracker: Tracker, run: RunDir, config: Config, print_line: Callable[[str], None]) -> None:
        self.rows: SimpleQueue[dict[str, Any] | State] = SimpleQueue()
        self._tracker, self._print_line, self._complained = tracker, print_line, False
        self._file = run.path / f"{tracker.name}.json"
        self._set_position(_attempt(tracker, lambda: tracker.begin(run, config, _read_position(self._file))))
        print_line(f"{tracker.name:<8} {tracker.where()}")
        for row in run.history():
            if _row_key(row) > self._position.row:
                self.rows.put(row)
        self._thread = threading.Thread(target=self._run, name=tracker.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        unsent: deque[dict[str, Any]] = deque()
        while True:
            # Everything that has arrived meanwhile: a server that does not answer is tried once for all of it.
            arrived = [self.rows.get(), *(self.rows.get() for _ in range(self.rows.qsize()))]
            unsent.extend(row for row in arrived if isinstance(row, dict) and scalars(row))
            state = arrived[-1]
            try:
                while unsent:
                    self._tracker.send(unsent[0])
                    self._set_position(Position(self._position.run, _row_key(unsent.popleft())))
                if not isinstance(state, dict):
                    self._tracker.end(state)
            except Exception as error:
                self._complain(_reason(error))
            if not isinstance(state, dict):
                return

    def join(self) -> None:
        """Waits for the end, at most `CLOSE_SECONDS`."""
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._complain("no answer in time")

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            name, late = self._tracker.name, self._tracker.late
            self._print_line(f"{name} does not take rows ({why}): metrics.jsonl keeps them, {late}")

    def _set_position(self, position: Position) -> None:
        self._position = position
        with suppress(OSError):  # a disk that refuses writes ends the training, not this thread
            write_atomic(self._file, json.dumps(asdict(position)))


def _row_key(row: dict[str, Any]) -> tuple[int, str]:
    return row["step"], row["kind"]


def _read_position(file: Path) -> Position | None:
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Position(values["run"], tuple(values["row"]))


def _attempt(tracker: Tracker | type[Tracker], action: Callable[[], T]) -> T:
    """Returns the action's result; raises UserError for any error of a tracker's package."""
    try:
        return action()
    except Exception as error:
        name, hint = tracker.name, tracker.hint
        raise UserError(f"training.trackers: {name} cannot be used ({_reason(error)}); {hint}.") from error


def _reason(error: BaseException) -> str:
    """Returns the network error that caused an error, or the error's first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return cause.strerror or "no answer in time"
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


# MLflow and Weights & Biases ------------------------------------------------------------------------------

MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default, MLflow retries for more than an hour
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output may be JSON
}
WANDB_SECONDS = 30.0
"""Timeout of its start and end; by default, the package waits without limit at the end."""


class MLflow:
    """A run of the experiment `unrolled`, or of $MLFLOW_EXPERIMENT_NAME, on the server of $MLFLOW_TRACKING_URI or in
    MLflow's default store. If MLflow no longer has a resumed run, a new one with all rows is started."""

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
        for start in range(0, len(params), 100):  # the limit of a request
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
    """A run of the project `unrolled`, or of $WANDB_PROJECT; its variables choose user, server and offline
    mode. Offline files of a resumed run have its id and all its rows, since the last that is synchronised replaces the
    others. So has a resumed run that the server lacks."""

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
        # wandb's own count of rows cannot return to a checkpoint, as steps do.
        self._run.define_metric("*", step_metric="step")
        return known if known and self._run.resumed else Position(self._run.id)

    def where(self) -> str:
        return str(self._run.url) if self._online else f"run {self._run.id}, offline in {self._run.settings.sync_dir}"

    def send(self, row: Mapping[str, Any]) -> None:
        self._run.log({"step": row["step"], **scalars(row)})

    def end(self, state: State) -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "killed": 255}[state])
