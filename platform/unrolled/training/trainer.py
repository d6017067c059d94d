"""The training loop.

The training loop. It knows a task, a group of workers and a run folder; who started the workers is not its business.

Every worker runs `fit`. All of them see the same plan of global batches, take their part, and divide the summed
loss by the batch's *global* token count, so that the parameters after N steps do not depend on the number of
workers beyond float rounding. Random numbers are drawn anew each step from (seed, step, rank): a checkpoint is
complete without any generator's state. What a model carries from batch to batch is cut from the graph after each
step (truncated back-propagation through time, Williams & Peng 1990) and kept in checkpoints for any number of workers.

Ctrl-C and SIGTERM: end with a checkpoint.

One worker's training: the same function wherever it runs.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
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

INTERRUPTED, TIME = 0, 1
"""Places of the flags: whether to stop and the share of the time that is over, both as the first worker sees it."""


class Trainer:
    """Everything that changes while a run trains.

    Args:
        interrupted: asked after each step, by the first worker alone; True ends the run with a checkpoint.
    """

    def __init__(
        self,
        task: Task,
        data: PreparedData,
        run: RunDir,
        config: Config,
        comm: Comm,
        *,
        device: torch.device,
        report: Report,
        interrupted: Callable[[], bool],
    ) -> None:
        self.task, self.data, self.run, self.comm, self.device = task, data, run, comm, device
        self.config, self.training = config, config.training
        self.report, self.interrupted = report, interrupted
        self.model = build_initial_model(task, config, device)
        self.updater = TrainStep(task, self.model, config, comm, device)
        self.progress = Progress()
        self.writer = CheckpointWriter(
            run.checkpoints, self.training.keep, background=self.training.checkpoint_in_background
        )
        self._batches = 1
        self._restore()
        self._began = time.perf_counter() - self.progress.seconds
        self._since = _Since()

    def fit(self) -> Progress:
        """Trains until the config's limits, early stopping or an interruption; returns where the run stands.

        Raises:
            Diverged: loss or gradient are not finite, update after update.
        """
        try:
            return self._fit()
        finally:
            self.writer.wait()

    def _fit(self) -> Progress:
        progress = self.progress
        self._catch_up()
        stop = progress.finished = self._done()
        while not stop:
            groups = self._plan()
            with closing(prefetch(groups[progress.batch :], self.comm)) as works:
                for work in works:
                    stop = self._advance(work)
                    if stop:
                        break
        return progress

    def _advance(self, work: WorkerBatch) -> bool:
        """Makes an update and what is due after it; returns whether the run ends here."""
        progress = self.progress
        if progress.batch == 0:
            self.updater.state = None
        flags = self._update(work)
        progress.step += 1
        progress.batch += 1
        if progress.batch == self._batches:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.step % self.training.log_every == 0:
            self._log()
        stop = flags[INTERRUPTED] > 0 or flags[TIME] >= 1 or self._done()
        self._look_back(stop, interrupted=flags[INTERRUPTED] > 0)
        return stop or self._done()

    def _plan(self) -> list[Sequence[GlobalBatch]]:
        """Returns the global batches of this epoch, those of one update together."""
        groups = group_by_update(self.task.plan(self.data, self.progress.epoch), self.config)
        self._batches = len(groups)
        return groups

    def _update(self, work: WorkerBatch) -> Sequence[float]:
        """Makes an update or leaves it out; returns the flags of all workers."""
        step = self.progress.step
        layers = (step + 1) % self.training.log_every == 0
        update = self.updater(work, step, self._done_share(), self._flags(), layers=layers)
        self._since.add(update)
        if step == 0 and update.made:
            self.progress.first_loss = update.loss
        self.progress.skipped = 0 if update.made else self.progress.skipped + 1
        if not update.made:
            self._left_out(update)
        return update.flags

    def _left_out(self, update: StepResult) -> None:
        """Says that an update was not made.

        Raises:
            Diverged: too many of them came in a row.
        """
        step, in_a_row = self.progress.step + 1, self.progress.skipped
        where = [layer for layer, norm in update.layers.items() if not math.isfinite(norm)]
        row = {"loss": str(update.loss), "gradient_norm": str(update.norm), "where": where, "in_a_row": in_a_row}
        self.report({"kind": "skipped", **self._now(), "step": step, **row})
        if in_a_row > self.training.skip_non_finite:
            raise Diverged(
                f"step {step}: loss {update.loss:g}, gradient norm {update.norm:g}: not finite, {in_a_row} updates in "
                f"a row ({', '.join(where[:3]) or 'the loss alone'}). Lower training.optimizer.learning_rate or "
                "training.clipping.threshold; the last checkpoint is kept."
            )

    def _flags(self) -> list[float]:
        if self.comm.rank != 0:
            return [0.0, 0.0]
        limit = self.training.max_minutes
        spent = time.perf_counter() - self._began
        return [float(self.interrupted()), 0.0 if limit is None else spent / (limit * 60)]

    def _done_share(self) -> float:
        """The share of the run's steps or epochs that is over, whichever is larger."""
        progress, steps = self.progress, self.training.max_steps
        epochs = self._epochs() / self.training.epochs
        return epochs if steps is None else max(epochs, progress.step / steps)

    def _done(self) -> bool:
        progress, patience = self.progress, self.training.early_stopping.patience
        return (
            progress.epoch >= self.training.epochs
            or (self.training.max_steps is not None and progress.step >= self.training.max_steps)
            or (patience is not None and progress.bad_validations >= patience)
        )

    def _catch_up(self) -> None:
        """Makes the validation that an interruption left out at the step from which the run goes on."""
        done, progress = self._done(), self.progress
        if progress.step and progress.validated != progress.step and (done or self._regular()):
            self._plan()
            self._look_back(done, interrupted=False)

    def _regular(self) -> bool:
        """Whether a validation belongs here wherever the run ends."""
        every = self.training.validate_every
        return self.progress.batch == 0 if every is None else self.progress.step % every == 0

    def _look_back(self, stop: bool, *, interrupted: bool) -> None:
        """Validates and saves where it is time to; an interruption only saves."""
        began = time.perf_counter()
        due = self._regular() or stop
        if due and not interrupted:
            self._validate()
        every = self.training.checkpoint_every
        if due or (every is not None and self.progress.step % every == 0):
            self.progress.finished = not interrupted and (stop or self._done())
            self._save()
        self._since.began += time.perf_counter() - began  # tokens per second are of training alone

    def _validate(self) -> None:
        """Scores the model. A validation that is made only because the run ends here may find the best model; schedule
        and early stopping do not count it, so that a run that goes on from here is as if it had never ended."""
        progress = self.progress
        with self.updater.average.in_place():
            share = self.task.validate(self.model, self.data, self.comm.rank, self.comm.size)
        scores = self.task.validation_scores(self.comm.gather(share))
        value = scores[self.training.metric]
        if better := self._better(value, progress.best):
            progress.best, progress.best_step = value, progress.step
        if self._regular():
            self.updater.schedule.after_validation(scores["loss"])
            progress.bad_validations += 1
            if self._better(value, progress.regular_best):
                progress.regular_best, progress.bad_validations = value, 0
        progress.validated = progress.step
        self.report({"kind": "validation", **self._now(), **scores, "best": better})

    def _better(self, value: float, best: float | None) -> bool:
        return best is None or metric_info(self.training.metric).better(value, best)

    def _epochs(self) -> float:
        return self.progress.epoch + self.progress.batch / self._batches

    def _log(self) -> None:
        if not self._since.steps:
            return
        row = {"learning_rate": self.updater.rate, **self._since.row()}
        self.report({"kind": "train", **self._now(), **row})
        self._since = _Since()

    def _now(self) -> dict[str, Any]:
        return {
            "step": self.progress.step,
            "epoch": self._epochs(),
            "seconds": round(time.perf_counter() - self._began, 3),
        }

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self._began
        state = distributed.gather_state(self.comm.gather(distributed.to_cpu(self.updater.state)))
        if self.comm.rank == 0:
            kept = self.updater.kept(state)
            with self.updater.average.in_place():
                self.writer.save(Snapshot.of(self.model, kept, self.progress))

    def _restore(self) -> None:
        # The first worker chooses, and nobody writes before everybody knows.
        chosen = checkpoint.newest_intact(self.run.checkpoints) if self.comm.rank == 0 else (None, [])
        newest, damaged = self.comm.gather(chosen)[0]
        if newest is None:
            self._begin()
            return
        checkpoint.load_model([newest], self.model)
        kept = checkpoint.load_training(newest)
        self.updater.load(kept, distributed.shard_state(kept["state"], self.comm.rank, self.comm.size, self.device))
        self.progress = checkpoint.read_progress(newest)
        if self.comm.rank == 0:
            self.run.truncate_metrics(self.progress.step)
        now = {"step": self.progress.step, "seconds": self.progress.seconds}
        self.report({"kind": "resume", **now, "damaged": damaged})

    def _begin(self) -> None:
        """Takes over the weights of the run to start from, if there is one."""
        (chosen, *_) = self.comm.gather(initial_weights(self.config) if self.comm.rank == 0 else None)
        if chosen is not None:
            checkpoint.load_model(chosen.folders, self.model)
            self.updater.average.restart()


@dataclass
class _Since:
    """What happened since the last row of metrics.jsonl."""

    loss: float = 0.0
    tokens: int = 0
    learned: int = 0
    norm: float = 0.0
    clipped: int = 0
    skipped: int = 0
    steps: int = 0
    layers: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def add(self, update: StepResult) -> None:
        self.tokens += update.tokens
        if not update.made:
            self.skipped += 1
            return
        self.steps += 1
        self.learned += update.tokens
        self.loss += update.loss * update.tokens
        self.norm += update.norm
        self.clipped += update.clipped
        self.layers = update.layers

    def row(self) -> dict[str, Any]:
        """Means over the updates that were made; `layers`: norms of the last gradient before clipping."""
        return {
            "loss": self.loss / self.learned,
            "gradient_norm": self.norm / self.steps,
            "clipped": self.clipped / self.steps,
            "skipped": self.skipped,
            "layers": self.layers,
            "tokens_per_second": round(self.tokens / (time.perf_counter() - self.began), 1),
        }


def fit(task: Task, data: PreparedData, run: RunDir, config: Config, comm: Comm, **options: Any) -> Progress:
    """Trains a run, from its newest checkpoint if it has one; see `Trainer`."""
    return Trainer(task, data, run, config, comm, **options).fit()


@contextmanager
def handle_stop_signals(run: RunDir, console: Console) -> Iterator[None]:
    """While open, the first signal asks the workers to end after their step; the second one interrupts at once.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    run.stop_file.unlink(missing_ok=True)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if run.stop_file.exists():
            raise KeyboardInterrupt
        with explain_write_errors(run.stop_file, RunFailed, CHECKPOINTS_KEPT):
            run.stop_file.touch()
        console.say("stopping after this step, with a checkpoint (once more: stop at once)")

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        with suppress(OSError):  # where nothing can be written any more, why has been said
            run.stop_file.unlink(missing_ok=True)


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
        threads: of torch; `None` leaves its own choice.
        show: receives every row of metrics.jsonl (first worker).
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

    try:
        return fit(
            make_task(config, run.vocabulary),
            prepare(config, fingerprint),
            run,
            config,
            comm,
            device=device,
            report=report,
            interrupted=run.stop_file.exists,
        )
    finally:
        if board is not None:
            board.close()
