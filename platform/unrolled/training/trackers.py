"""MLflow and Weights & Biases, as a run sees them: reached before it starts, given its rows, told how it ended."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeVar

from unrolled.config import Config
from unrolled.errors import UserError
from unrolled.training.run import RunFolder
from unrolled.training.tensorboard import numbers

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
class Mark:
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

    def begin(self, run: RunFolder, config: Config, known: Mark | None) -> Mark:
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

    def begin(self, run: RunFolder, config: Config, known: Mark | None) -> Mark:
        from mlflow.entities import Param

        if known and self._has(known.run):
            self._run = known.run
            self._client.update_run(self._run, status="RUNNING")
            return known
        self._run = self._client.create_run(self._experiment, run_name=run.name).info.run_id
        params = [Param(key, str(value)) for key, value in _flat(config.model_dump()).items()]
        for start in range(0, len(params), 100):  # a server takes so many at once
            self._client.log_batch(self._run, params=params[start : start + 100])
        return Mark(self._run)

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
        metrics = [Metric(name, value, now, row["step"]) for name, value in numbers(row).items()]
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

    def begin(self, run: RunFolder, config: Config, known: Mark | None) -> Mark:
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
        return known if known and self._run.resumed else Mark(self._run.id)

    def where(self) -> str:
        return str(self._run.url) if self._online else f"run {self._run.id}, offline in {self._run.settings.sync_dir}"

    def send(self, row: Mapping[str, Any]) -> None:
        self._run.log({"step": row["step"], **numbers(row)})

    def end(self, state: State) -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "killed": 255}[state])


def reach_trackers(config: Config) -> list[Tracker]:
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
