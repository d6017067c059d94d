"""Training on Ray Train."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from unrolled.errors import Diverged, RunFailed, UserError
from unrolled.files import write_atomic
from unrolled.training.checkpoint import Progress
from unrolled.training.distributed import ProcessGroup
from unrolled.training.run_dir import RunDir
from unrolled.training.trainer import train_worker

POLL_SECONDS = 0.2


def train_on_ray(
    run: RunDir,
    fingerprint: str,
    show: Callable[[dict[str, Any]], None],
    *,
    workers: tuple[int, int],
    cpus: int,
    gpu: bool,
    restarts: int,
) -> Progress:
    """Trains `run` on Ray Train workers of `cpus` CPUs (and one GPU each), restarting a failed group.

    `workers` is the least and the most that there may be. Where these differ, Ray starts the group again whenever there
    is room for another number; it goes on from the newest checkpoint, as any number of workers can.

    Ray must be initialised. Rows of metrics.jsonl are shown as they appear. The caller's thread stays free for
    signals; `run.stop_file` ends the workers.

    Raises:
        UserError: a worker met a mistake of the user's.
        RunFailed: workers failed more often than `restarts`; `Diverged`, where their numbers are not finite.
    """
    _failure(run).unlink(missing_ok=True)
    least, most = workers
    number = least if least == most else workers
    settings = {"run": str(run.path), "fingerprint": fingerprint, "threads": cpus}
    resources = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
    with tempfile.TemporaryDirectory(prefix="unrolled-ray-") as scratch:
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu, resources_per_worker=resources),
            run_config=RunConfig(
                # Ray keeps nothing of value here: checkpoints are ours and lie in the run folder.
                name=Path(scratch).name,
                storage_path=scratch,
                # A group that finds no place is not waited for without end: CPUs may have gone since they were counted.
                # Where their number is free, Ray counts them anew, but a lost node for up to 20 s still among them.
                failure_config=FailureConfig(
                    max_failures=restarts, controller_failure_limit=1 if least == most else restarts + 1
                ),
            ),
        )
        outcome = _watch(trainer, run, show)
    if _failure(run).exists():
        kind, _, message = _failure(run).read_text(encoding="utf-8").partition("\n")
        raise {"UserError": UserError, "RunFailed": RunFailed, "Diverged": Diverged}[kind](message)
    for failure in getattr(outcome, "worker_failures", {}).values():
        if isinstance(failure, (UserError, RunFailed)):  # which a full disk kept out of the file
            raise failure
    if isinstance(outcome, BaseException):
        reason = str(outcome).strip().splitlines()[-1] if str(outcome).strip() else type(outcome).__name__
        raise RunFailed(f"the workers failed and {restarts} restarts did not help: {reason}. Details: {run.log}")
    return Progress(**outcome.return_value)


def _failure(run: RunDir) -> Path:
    return run.path / ".failure"


def _worker(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Runs in every Ray Train worker. A failure that a restart cannot mend is left in a file, so that the next
    attempt returns at once."""
    run = RunDir(Path(settings["run"]))
    if _failure(run).exists():
        return None
    try:
        device = ray.train.torch.get_device()
        assert isinstance(device, torch.device)
        comm = ProcessGroup()
        progress = train_worker(run, settings["fingerprint"], comm, device=device, threads=settings["threads"])
    except (UserError, RunFailed) as error:
        with suppress(OSError):  # the disk may be what failed
            write_atomic(_failure(run), f"{type(error).__name__}\n{error}")
        raise
    return asdict(progress)


def _watch(trainer: ray.train.torch.TorchTrainer, run: RunDir, show: Callable[[dict[str, Any]], None]) -> Any:
    """Runs the trainer in a thread of its own and shows metrics.jsonl as it grows; returns the result or the error."""
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:
            outcome.append(error)

    shown = _Tail(run)
    thread = threading.Thread(target=fit, name="ray_train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        for row in shown.new_rows():
            show(row)
    return outcome[0]


class _Tail:
    """The rows of metrics.jsonl that were not there before."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._file = self._size = self._seen = self._resumed = 0
        self.new_rows()

    def new_rows(self) -> list[dict[str, Any]]:
        if not self._run.metrics.exists():
            return []
        stat, file = self._run.metrics.stat(), self._file
        if (stat.st_ino, stat.st_size) == (file, self._size):
            return []
        self._file, self._size = stat.st_ino, stat.st_size
        rows = self._run.history()
        resumed = [place for place, row in enumerate(rows) if row["kind"] == "resume"]
        if file not in (0, self._file):
            # Workers that start again replace the file by its rows up to their checkpoint; a row then says so.
            self._seen = resumed[-1] if len(resumed) > self._resumed else len(rows)
        new = rows[self._seen :]
        self._seen, self._resumed = len(rows), len(resumed)
        return new
