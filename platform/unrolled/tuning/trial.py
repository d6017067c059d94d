"""Training of one trial as a Ray Tune Trainable: a run like any other, in its own run directory."""

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
    run_config,
)

INTERRUPTED = "interrupted"
"""Result state of a training that was asked to stop; it is no state of a record."""
LOCK_SECONDS = 60.0
"""Time that an actor that was killed may take to release its run."""
SOURCE = "source.json"
"""File in a checkpoint that Ray Tune moves between trials: the trial that it comes from, and its step."""


@dataclass(frozen=True)
class TrialSpec:
    """What an actor needs to train a trial; plain values, so that Ray Tune can store them.

    Attributes:
        sweep: path of the sweep directory.
        trial: fields of a `TrialConfig`.
        fingerprint: of the prepared data.
        metric: the score that schedulers see.
        unit: fraction of a training that is a `progress` of 1.
        latest: whether that score is that of the last validation, not the best so far.
    """

    sweep: str
    trial: dict[str, Any]
    fingerprint: str
    metric: str
    unit: float
    latest: bool
    smoke: bool
    workers: int
    cpus: int
    gpu: bool


class Trial(ray.tune.Trainable):  # type: ignore[misc]
    """An actor that trains one trial after the other; a step lasts until the next validation.

    The training runs in a thread, which starts, or resumes from the newest checkpoint of the run, with the first step.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        spec = TrialSpec(**config["spec"])
        if spec.workers > 1:
            return ray.tune.PlacementGroupFactory([{"memory": 1}])  # next to nothing: its workers request their own
        return ray.tune.PlacementGroupFactory([{"CPU": spec.cpus} | ({"GPU": 1} if spec.gpu else {})])

    def setup(self, config: dict[str, Any]) -> None:
        self._spec = TrialSpec(**config["spec"])
        self._trial = TrialConfig(**self._spec.trial)
        self._sweep = SweepDir(Path(self._spec.sweep))
        self._run = self._sweep.trial(self._trial.name)
        # The run's own config also where a checkpoint of another trial brought other values.
        self._run_config = self._run.config() if self._run.config_file.is_file() else self._new_run_config()
        self._tracker = ScoreTracker(self._run_config, self._spec.metric, self._spec.unit, latest=self._spec.latest)
        self._rows: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._result: dict[str, Any] = {"progress": 0.0}

    def _new_run_config(self) -> Config:
        return run_config(self._sweep.config(), self._sweep, self._trial, smoke=self._spec.smoke)

    def step(self) -> dict[str, Any]:
        """Returns the result of the next validation, or how the training ended.

        Raises:
            Exception: an error that another attempt may not meet.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._train_in_thread, name="training", daemon=True)
            self._thread.start()
        row = self._rows.get()
        if row["kind"] == "end":
            self._thread.join()
            self._thread = None
            if row["error"] is not None:
                raise row["error"]
            return self._result | {"done": True, "state": row["state"], "reason": row["reason"]}
        self._result = self._tracker(row)
        is_over = self._result["progress"] * self._spec.unit >= 1
        return self._result | {"state": FINISHED if is_over else RUNNING, "reason": None, "row": row}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Stops the training and copies its newest checkpoint for another trial."""
        self.cleanup()
        folder = Path(checkpoint_dir)
        newest, _ = checkpoint.newest_intact(self._run.checkpoints)
        if newest is not None:
            shutil.copytree(newest, folder / newest.name)
        write_atomic(folder / SOURCE, json.dumps({"name": self._trial.name, "step": newest and newest.name}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continues from the checkpoint of another trial with this trial's own values; skips one of its own."""
        folder = Path(checkpoint_dir)
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        if source["name"] == self._trial.name or source["step"] is None:
            return
        self.cleanup()
        for old in checkpoint.list_checkpoints(self._run.checkpoints):
            shutil.rmtree(old)
        self._run_config = self._new_run_config()
        self._initialize_run()
        shutil.copytree(folder / source["step"], self._run.checkpoints / source["step"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stops the training after its current step, with a checkpoint."""
        if self._thread is not None:
            self._run.stop_file.touch()
            self._thread.join()
            self._thread = None
        self._rows = SimpleQueue()

    def _initialize_run(self) -> None:
        data = prepare(self._run_config, self._spec.fingerprint)
        self._run.initialize(self._run_config, data, resume=self._run.config_file.is_file())

    def _train_in_thread(self) -> None:
        state, reason, failure = FAILED, None, None
        try:
            state = self._train()
        except Diverged as error:
            state, reason = DIVERGED, str(error)
        except (UserError, RunFailed) as error:
            reason = str(error)
        except Exception as error:  # Ray Tune answers it with another attempt
            failure = error
        self._rows.put({"kind": "end", "state": state, "reason": reason, "error": failure})

    def _train(self) -> str:
        run, spec = self._run, self._spec
        with ExitStack() as stack:
            self._lock_run(stack)
            self._initialize_run()
            run.stop_file.unlink(missing_ok=True)
            stack.callback(run.stop_file.unlink, missing_ok=True)
            if spec.workers == 1:
                device = torch.device("cuda" if spec.gpu else "cpu")
                progress = train_worker(
                    run, spec.fingerprint, SingleWorker(), device=device, threads=spec.cpus, show=self._put_validation
                )
            else:
                progress = train_on_ray(
                    run,
                    spec.fingerprint,
                    self._put_validation,
                    workers=(spec.workers, spec.workers),
                    cpus=spec.cpus,
                    gpu=spec.gpu,
                    restarts=self._run_config.training.restarts,
                )
        return FINISHED if progress.finished else INTERRUPTED

    def _lock_run(self, stack: ExitStack) -> None:
        """Acquires the lock of the run, which an actor that is being killed may still hold."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                stack.enter_context(self._run.lock())
                return
            except UserError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _put_validation(self, row: dict[str, Any]) -> None:
        if row["kind"] == "validation":
            self._rows.put(row)
