"""Training loop of one worker.

It knows a task, a group of workers and a run directory, but not who started the workers. Every worker runs
`train_worker`. All workers see the same plan of global batches, take their shard of each, and divide the summed loss by
the *global* number of targets, so that the parameters after N steps do not depend on the number of workers beyond
rounding. Random generators are seeded for each step from (seed, step, rank), so that a checkpoint needs no generator
state. The hidden state that a model carries from batch to batch is detached after each step (truncated
back-propagation through time, Williams & Peng 1990) and saved in checkpoints for any number of workers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from unrolled.config import Config
from unrolled.errors import Diverged, RunFailed
from unrolled.files import explain_write_errors
from unrolled.metrics import metric_info
from unrolled.tasks import GlobalBatch, PreparedData, Task, make_task, prepare
from unrolled.training import checkpoint, distributed
from unrolled.training.checkpoint import CheckpointWriter, Progress, Snapshot
from unrolled.training.console import Console
from unrolled.training.distributed import Comm
from unrolled.training.loggers import TensorBoard
from unrolled.training.run_dir import CHECKPOINTS_KEPT, RunDir, initial_weights
from unrolled.training.train_step import (
    StepResult,
    TrainStep,
    WorkerBatch,
    build_initial_model,
    group_by_update,
    prefetch,
)

Report = Callable[[dict[str, Any]], None]
"""Receives rows of metrics.jsonl; called by every worker with the same values."""

INTERRUPTED, TIME_USED = 0, 1
"""Indices of the flags that the first worker shares with each update: whether to stop, and the used fraction of
`training.max_minutes`."""


def train_worker(
    run: RunDir,
    fingerprint: str,
    comm: Comm,
    *,
    device: torch.device,
    threads: int | None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Progress:
    """Trains `run` as worker `comm.rank`, from its newest checkpoint if it has one.

    Args:
        fingerprint: of the prepared data.
        threads: number of torch's threads; `None` leaves torch's choice.
        show: receives every row of metrics.jsonl (first worker only).

    Raises:
        Diverged: loss or gradient are not finite in more consecutive updates than the config allows.
        RunFailed: a file cannot be written.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = run.config()
    board = TensorBoard(run) if comm.rank == 0 else None

    def report(row: dict[str, Any]) -> None:
        if board is None:
            return
        run.append_metrics(row)
        board.log(row)
        if show is not None:
            show(row)

    with nullcontext() if board is None else closing(board):
        task, data = make_task(config, run.vocabulary), prepare(config, fingerprint)
        trainer = Trainer(task, data, run, config, comm, device, report=report, interrupted=run.stop_file.exists)
        return trainer.fit()


class Trainer:
    """The state of a training run and the loop that advances it.

    Args:
        report: receives rows of metrics.jsonl.
        interrupted: called after each step by the first worker; True ends the run with a checkpoint.
    """

    def __init__(
        self,
        task: Task,
        data: PreparedData,
        run: RunDir,
        config: Config,
        comm: Comm,
        device: torch.device,
        *,
        report: Report,
        interrupted: Callable[[], bool],
    ) -> None:
        self.task, self.data, self.run, self.comm, self.device = task, data, run, comm, device
        self.config, self.training = config, config.training
        self.report, self.interrupted = report, interrupted
        self.model = build_initial_model(task, config, device)
        self.train_step = TrainStep(task, self.model, config, comm, device)
        self.progress = Progress()
        self.writer = CheckpointWriter(
            run.checkpoints, self.training.keep, background=self.training.checkpoint_in_background
        )
        self._updates_per_epoch = 1
        self._restore()
        self._start_time = time.perf_counter() - self.progress.seconds
        self._means = RunningMeans()

    def fit(self) -> Progress:
        """Trains until the config's limits, early stopping or an interruption; returns the progress made.

        Raises:
            Diverged: loss or gradient are not finite in more consecutive updates than the config allows.
        """
        progress = self.progress
        try:
            self._run_pending_validation()
            stop = progress.finished = self._is_done()
            while not stop:
                groups = self._plan_epoch()
                with closing(prefetch(groups[progress.batch :], self.comm)) as batches:
                    for batch in batches:
                        stop = self._advance(batch)
                        if stop:
                            break
            return progress
        finally:
            self.writer.wait()

    def _plan_epoch(self) -> list[Sequence[GlobalBatch]]:
        """Returns the global batches of this epoch, grouped by update."""
        groups = group_by_update(self.task.plan(self.data, self.progress.epoch), self.config)
        self._updates_per_epoch = len(groups)
        return groups

    def _advance(self, batch: WorkerBatch) -> bool:
        """Makes one update, then logs, validates and saves if due; returns whether the run ends here."""
        progress = self.progress
        if progress.batch == 0:
            self.train_step.hidden_state = None
        flags = self._update(batch)
        progress.step += 1
        progress.batch += 1
        if progress.batch == self._updates_per_epoch:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.step % self.training.log_every == 0:
            self._log()
        interrupted = flags[INTERRUPTED] > 0
        stop = interrupted or flags[TIME_USED] >= 1 or self._is_done()
        self._validate_and_save(stop, interrupted=interrupted)
        return stop or self._is_done()

    def _update(self, batch: WorkerBatch) -> Sequence[float]:
        """Makes or skips one update; returns the flags of the first worker."""
        progress, step = self.progress, self.progress.step
        norms_wanted = (step + 1) % self.training.log_every == 0
        completed = self.training.completed(epoch=self._epochs(), step=step, seconds=0)  # the flags add the time
        result = self.train_step(batch, step, completed, self._flags(), norms_by_layer=norms_wanted)
        self._means.add(result)
        if result.skipped:
            progress.skipped += 1
            self._report_skipped(result)
        else:
            progress.skipped = 0
            if step == 0:
                progress.first_loss = result.loss
        return result.flags

    def _report_skipped(self, result: StepResult) -> None:
        """Reports that an update was skipped.

        Raises:
            Diverged: too many consecutive updates were skipped.
        """
        step, in_a_row = self.progress.step + 1, self.progress.skipped
        where = [layer for layer, norm in result.layer_norms.items() if not math.isfinite(norm)]
        row = {"loss": str(result.loss), "gradient_norm": str(result.norm), "where": where, "in_a_row": in_a_row}
        self.report({"kind": "skipped", **self._now(), "step": step, **row})
        if in_a_row > self.training.skip_non_finite:
            raise Diverged(
                f"step {step}: loss {result.loss:g}, gradient norm {result.norm:g}: not finite, {in_a_row} updates in "
                f"a row ({', '.join(where[:3]) or 'the loss alone'}). Lower training.optimizer.learning_rate or "
                "training.clipping.threshold; the last checkpoint is kept."
            )

    def _flags(self) -> list[float]:
        if self.comm.rank != 0:
            return [0.0, 0.0]
        limit = self.training.max_minutes
        used = 0.0 if limit is None else (time.perf_counter() - self._start_time) / (limit * 60)
        return [float(self.interrupted()), used]

    def _is_done(self) -> bool:
        progress, patience = self.progress, self.training.early_stopping.patience
        return (
            progress.epoch >= self.training.epochs
            or (self.training.max_steps is not None and progress.step >= self.training.max_steps)
            or (patience is not None and progress.bad_validations >= patience)
        )

    # Validation and checkpoints

    def _validate_and_save(self, stop: bool, *, interrupted: bool) -> None:
        """Validates and saves where due; an interruption only saves."""
        began = time.perf_counter()
        due = self._is_validation_step() or stop
        if due and not interrupted:
            self._validate()
        every = self.training.checkpoint_every
        if due or (every is not None and self.progress.step % every == 0):
            self.progress.finished = not interrupted and (stop or self._is_done())
            self._save()
        self._means.began += time.perf_counter() - began  # tokens per second are those of training alone

    def _is_validation_step(self) -> bool:
        """Whether a regular validation is due at this step, independent of where the run ends."""
        every = self.training.validate_every
        return self.progress.batch == 0 if every is None else self.progress.step % every == 0

    def _run_pending_validation(self) -> None:
        """Makes the validation that an interruption left out at the step from which the run continues."""
        done, progress = self._is_done(), self.progress
        if progress.step and progress.validated != progress.step and (done or self._is_validation_step()):
            self._plan_epoch()
            self._validate_and_save(done, interrupted=False)

    def _validate(self) -> None:
        """Scores the model on the validation split.

        A validation that is made only because the run ends here may find the best model, but schedule and early
        stopping do not count it: a run that continues from here equals one that never ended.
        """
        progress = self.progress
        with self.train_step.average.swapped_in():
            partial = self.task.validate(self.model, self.data, self.comm.rank, self.comm.size)
        scores = self.task.validation_scores(self.comm.gather(partial))
        value = scores[self.training.metric]
        if is_best := self._is_better(value, progress.best):
            progress.best, progress.best_step = value, progress.step
        if self._is_validation_step():
            self.train_step.schedule.after_validation(scores["loss"])
            progress.bad_validations += 1
            if self._is_better(value, progress.regular_best):
                progress.regular_best, progress.bad_validations = value, 0
        progress.validated = progress.step
        self.report({"kind": "validation", **self._now(), **scores, "best": is_best})

    def _is_better(self, value: float, best: float | None) -> bool:
        return best is None or metric_info(self.training.metric).better(value, best)

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self._start_time
        hidden = distributed.gather_state(self.train_step.hidden_state, self.comm)
        if self.comm.rank == 0:
            training_state = self.train_step.state_dict(hidden)
            with self.train_step.average.swapped_in():
                self.writer.save(Snapshot.of(self.model, training_state, self.progress))

    def _restore(self) -> None:
        """Continues from the newest intact checkpoint, or begins with the weights of another run where there is one."""
        # The first worker chooses, and no worker writes before all know.
        found = checkpoint.newest_intact(self.run.checkpoints) if self.comm.rank == 0 else (None, [])
        newest, damaged = self.comm.gather(found)[0]
        if newest is None:
            (weights, *_) = self.comm.gather(initial_weights(self.config) if self.comm.rank == 0 else None)
            if weights is not None:
                checkpoint.load_model(weights.folders, self.model)
                self.train_step.average.reset()
            return
        checkpoint.load_model([newest], self.model)
        saved = checkpoint.load_training(newest)
        self.train_step.load_state_dict(saved, distributed.shard_state(saved["state"], self.comm, self.device))
        self.progress = checkpoint.read_progress(newest)
        if self.comm.rank == 0:
            self.run.truncate_metrics(self.progress.step)
        now = {"step": self.progress.step, "seconds": self.progress.seconds}
        self.report({"kind": "resume", **now, "damaged": damaged})

    # Rows of metrics.jsonl

    def _log(self) -> None:
        if not self._means.updates:
            return
        row = {"learning_rate": self.train_step.rate, **self._means.row()}
        self.report({"kind": "train", **self._now(), **row})
        self._means = RunningMeans()

    def _now(self) -> dict[str, Any]:
        seconds = round(time.perf_counter() - self._start_time, 3)
        return {"step": self.progress.step, "epoch": self._epochs(), "seconds": seconds}

    def _epochs(self) -> float:
        return self.progress.epoch + self.progress.batch / self._updates_per_epoch


@dataclass
class RunningMeans:
    """Statistics of the updates since the last row of metrics.jsonl.

    Attributes:
        tokens: targets of all updates, skipped ones included.
        trained_tokens: targets of the updates that were made; `updates` is the number of these.
        layer_norms: gradient norms by layer of the last update, before clipping.
    """

    loss: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0
    norm: float = 0.0
    clipped: int = 0
    skipped: int = 0
    updates: int = 0
    layer_norms: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def add(self, result: StepResult) -> None:
        self.tokens += result.tokens
        if result.skipped:
            self.skipped += 1
            return
        self.updates += 1
        self.trained_tokens += result.tokens
        self.loss += result.loss * result.tokens
        self.norm += result.norm
        self.clipped += result.clipped
        self.layer_norms = result.layer_norms

    def row(self) -> dict[str, Any]:
        """Returns means over the updates that were made."""
        return {
            "loss": self.loss / self.trained_tokens,
            "gradient_norm": self.norm / self.updates,
            "clipped": self.clipped / self.updates,
            "skipped": self.skipped,
            "layers": self.layer_norms,
            "tokens_per_second": round(self.tokens / (time.perf_counter() - self.began), 1),
        }


@contextmanager
def handle_stop_signals(run: RunDir, console: Console) -> Iterator[None]:
    """While open, the first SIGINT or SIGTERM makes the workers end after their step; the second interrupts at once.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    run.stop_file.unlink(missing_ok=True)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if run.stop_file.exists():
            raise KeyboardInterrupt
        with explain_write_errors(run.stop_file, RunFailed, CHECKPOINTS_KEPT):
            run.stop_file.touch()
        console.print("stopping after this step, with a checkpoint (once more: stop at once)")

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        with suppress(OSError):  # on a disk that refuses writes, the reason has been printed
            run.stop_file.unlink(missing_ok=True)
