"""One trial of a sweep on Ray Tune.

One trial's training, in a thread of the trial's actor: a run like any other, in its own folder.

What Ray Tune sees of a trial.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray.tune
import torch

from unrolled.config import Config
from unrolled.errors import Diverged, RunFailed, UserError
from unrolled.files import write_atomic
from unrolled.tasks import prepare
from unrolled.training import checkpoint
from unrolled.training.distributed import SingleWorker
from unrolled.training.ray_train import train_on_ray
from unrolled.training.trainer import train_worker
from unrolled.tuning.sweep_dir import (
    DIVERGED,
    FAILED,
    FINISHED,
    RUNNING,
    ScoreTracker,
    SweepDir,
    TrialConfig,
    trial_config,
)

INTERRUPTED = "interrupted"
"""How a training ends that was asked to, besides the states of the ledger."""
HELD_SECONDS = 60.0
"""How long an actor that died may take to let go of its run."""
GIVER = "giver.json"
"""In a checkpoint that Ray Tune moves between trials: whose it is, and its step."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial's actor is to train; plain, so that Ray Tune can keep it.

    Args:
        fingerprint: of the prepared data.
        unit: share of a training that counts as 1 of the `progress` that schedulers see.
        latest: whether the score that they see is that of the last validation, not the best.
    """

    sweep: str
    order: dict[str, Any]
    fingerprint: str
    metric: str
    unit: float
    latest: bool
    smoke: bool
    workers: int
    cpus: int
    gpu: bool


class Training:
    """A training that is watched from outside.

    It starts, or goes on from the newest checkpoint of its folder, when the first row is asked for.
    """

    def __init__(self, errand: TrialSpec) -> None:
        self.errand, self.order = errand, TrialConfig(**errand.order)
        self.sweep = SweepDir(Path(errand.sweep))
        self.run = self.sweep.trial(self.order.name)
        self._rows: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._seen: dict[str, Any] = {"progress": 0.0}
        self._config = self._own_config()
        self._told = ScoreTracker(self._config, errand.metric, errand.unit, latest=errand.latest)

    def _own_config(self) -> Config:
        if self.run.config_file.is_file():  # also where another trial's checkpoint came with other values
            return self.run.config()
        return trial_config(self.sweep.config(), self.sweep, self.order, smoke=self.errand.smoke)

    def next(self) -> dict[str, Any]:
        """Returns what the next validation says, or how the training ended.

        Raises:
            Exception: what a new attempt may mend.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._train, name="training", daemon=True)
            self._thread.start()
        row = self._rows.get()
        if row["kind"] == "end":
            self._thread.join()
            self._thread = None
            if row["error"] is not None:
                raise row["error"]
            return self._seen | {"done": True, "state": row["state"], "reason": row["reason"]}
        self._seen = self._told(row)
        over = self._seen["progress"] * self.errand.unit >= 1
        return self._seen | {"state": FINISHED if over else RUNNING, "reason": None, "row": row}

    def halt(self) -> None:
        """Ends the training after its current step, with a checkpoint."""
        if self._thread is not None:
            self.run.stop_file.touch()
            self._thread.join()
            self._thread = None
        self._rows = SimpleQueue()

    def give(self, folder: Path) -> None:
        """Copies the newest checkpoint for another trial."""
        self.halt()
        newest, _ = checkpoint.newest_intact(self.run.checkpoints)
        if newest is not None:
            shutil.copytree(newest, folder / newest.name)
        write_atomic(folder / GIVER, json.dumps({"name": self.order.name, "step": newest and newest.name}))

    def take(self, folder: Path) -> None:
        """Goes on from what `give` left there, if another trial did, with the values that this one has now."""
        giver = json.loads((folder / GIVER).read_text(encoding="utf-8"))
        if giver["name"] == self.order.name or giver["step"] is None:
            return
        self.halt()
        for old in checkpoint.list_checkpoints(self.run.checkpoints):
            shutil.rmtree(old)
        self._config = trial_config(self.sweep.config(), self.sweep, self.order, smoke=self.errand.smoke)
        self._start()
        shutil.copytree(folder / giver["step"], self.run.checkpoints / giver["step"])

    def _start(self) -> None:
        data = prepare(self._config, self.errand.fingerprint)
        self.run.initialize(self._config, data, resume=self.run.config_file.is_file())

    def _train(self) -> None:
        state, reason, failure = FAILED, None, None
        try:
            state = self._to_the_end()
        except Diverged as error:
            state, reason = DIVERGED, str(error)
        except (UserError, RunFailed) as error:
            reason = str(error)
        except Exception as error:  # which Ray Tune answers with another attempt
            failure = error
        self._rows.put({"kind": "end", "state": state, "reason": reason, "error": failure})

    def _to_the_end(self) -> str:
        errand = self.errand
        with ExitStack() as stack:
            self._hold(stack)
            self._start()
            self.run.stop_file.unlink(missing_ok=True)
            stack.callback(self.run.stop_file.unlink, missing_ok=True)
            if errand.workers == 1:
                device = torch.device("cuda" if errand.gpu else "cpu")
                progress = train_worker(
                    self.run, errand.fingerprint, SingleWorker(), device=device, threads=errand.cpus, show=self._show
                )
            else:
                progress = train_on_ray(
                    self.run,
                    errand.fingerprint,
                    self._show,
                    workers=(errand.workers, errand.workers),
                    cpus=errand.cpus,
                    gpu=errand.gpu,
                    restarts=self._config.training.restarts,
                )
        return FINISHED if progress.finished else INTERRUPTED

    def _hold(self, stack: ExitStack) -> None:
        """Takes the lock of the run, for which an actor that was killed may still have to die."""
        deadline = time.monotonic() + HELD_SECONDS
        while True:
            try:
                stack.enter_context(self.run.lock())
                return
            except UserError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _show(self, row: dict[str, Any]) -> None:
        if row["kind"] == "validation":
            self._rows.put(row)


class Trial(ray.tune.Trainable):  # type: ignore[misc]
    """An actor that trains one trial after the other; a step is a validation."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        errand = TrialSpec(**config["errand"])
        if errand.workers > 1:
            return ray.tune.PlacementGroupFactory([{"memory": 1}])  # next to nothing: its workers ask for theirs
        return ray.tune.PlacementGroupFactory([{"CPU": errand.cpus} | ({"GPU": 1} if errand.gpu else {})])

    def setup(self, config: dict[str, Any]) -> None:
        self._training = Training(TrialSpec(**config["errand"]))

    def step(self) -> dict[str, Any]:
        return self._training.next()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._training.give(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:
        self._training.take(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.halt()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._training.halt()
