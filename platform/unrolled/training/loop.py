"""The training loop. It knows a task, a group of workers and a run folder; who started the workers is not its business.

Every worker runs `fit`. All of them see the same plan of global batches, take their slice, and divide the summed
loss by the batch's *global* token count, so that the parameters after N steps do not depend on the number of
workers beyond float rounding. Random numbers are drawn anew each step from (seed, step, rank): a checkpoint is
complete without any generator's state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unrolled.config import Config
from unrolled.data.batching import plan
from unrolled.data.corpus import Prepared
from unrolled.errors import RunFailed
from unrolled.tasks import Task
from unrolled.training import checkpoint
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Comm
from unrolled.training.gradients import GradientBuffer
from unrolled.training.optimizer import Schedule, build_optimizer
from unrolled.training.run import RunFolder
from unrolled.training.validation import validate

Report = Callable[[dict[str, Any]], None]
"""Receives rows of metrics.jsonl; called by every worker with the same values."""

INTERRUPTED, OUT_OF_TIME = 0, 1
"""Places behind the gradients where the first worker tells the others to end."""
LOSS = 2


class Trainer:
    """Everything that changes while a run trains.

    Args:
        interrupted: asked after each step, by the first worker alone; True ends the run with a checkpoint.
    """

    def __init__(
        self,
        task: Task,
        data: Prepared,
        run: RunFolder,
        config: Config,
        comm: Comm,
        *,
        device: torch.device,
        report: Report,
        interrupted: Callable[[], bool],
    ) -> None:
        self.task, self.run, self.comm, self.device = task, run, comm, device
        self.config, self.training = config, config.training
        self.report, self.interrupted = report, interrupted
        self.train, self.validation = data.split("train"), data.split("validation")
        torch.manual_seed(config.seed)
        self.model = task.build_model().to(device, getattr(torch, self.training.precision))
        self.optimizer = build_optimizer(self.model, self.training.optimizer)
        self.schedule = Schedule(self.training.schedule, self.training.optimizer.learning_rate)
        self.gradients = GradientBuffer(self.model, extra=3)
        self.progress = Progress()
        self._restore()
        self._began = time.perf_counter() - self.progress.seconds
        self._since = _Since()

    def fit(self) -> Progress:
        """Trains until the config's limits, early stopping or an interruption; returns where the run stands.

        Raises:
            RunFailed: the loss or its gradient is not finite.
        """
        progress = self.progress
        stop = progress.finished = self._done()
        while not stop:
            batches = self._plan(progress.epoch)
            for indices in batches[progress.batch :]:
                flags = self._update(indices)
                progress.step += 1
                progress.batch += 1
                ends_epoch = progress.batch == len(batches)
                if ends_epoch:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                if progress.step % self.training.log_every == 0:
                    self._log(len(batches))
                stop = flags[INTERRUPTED] > 0 or flags[OUT_OF_TIME] > 0 or self._done()
                self._look_back(ends_epoch, stop, interrupted=flags[INTERRUPTED] > 0)
                stop = stop or self._done()
                if stop or ends_epoch:
                    break
        return progress

    def _update(self, indices: np.ndarray) -> list[float]:
        """One optimizer step on a global batch; returns the numbers that travelled with the gradients."""
        self.model.train()
        self.gradients.zero()
        tokens = int(self.train.lengths[indices, 1].sum())
        torch.manual_seed((self.config.seed * 1_000_003 + self.progress.step) * 65_537 + self.comm.rank)
        mine = indices[self.comm.rank :: self.comm.size]
        loss = torch.zeros((), device=self.device)
        if len(mine):
            batch = self.task.batch(self.train, mine).to(self.device)
            loss = self.task.loss(self.model, batch, self.training.label_smoothing) / tokens
            torch.autograd.backward(loss)
        numbers = self.gradients.sum_over_workers(self.comm, [*self._flags(), loss.detach()])
        norm, clipped = self.gradients.clip(self.training.clipping)
        if not math.isfinite(norm) or not math.isfinite(numbers[LOSS]):
            raise RunFailed(
                f"step {self.progress.step + 1}: loss {numbers[LOSS]:g}, gradient norm {norm:g}: not finite. Lower "
                "training.optimizer.learning_rate or training.clipping.threshold; the last checkpoint is kept."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.progress.step)
        self.optimizer.step()
        self._since.add(numbers[LOSS], tokens, norm, clipped)
        return numbers

    def _flags(self) -> list[float]:
        if self.comm.rank != 0:
            return [0.0, 0.0]
        limit = self.training.max_minutes
        out_of_time = limit is not None and time.perf_counter() - self._began >= limit * 60
        return [float(self.interrupted()), float(out_of_time)]

    def _done(self) -> bool:
        progress, patience = self.progress, self.training.early_stopping.patience
        return (
            progress.epoch >= self.training.epochs
            or (self.training.max_steps is not None and progress.step >= self.training.max_steps)
            or (patience is not None and progress.waited >= patience)
        )

    def _plan(self, epoch: int) -> list[np.ndarray]:
        return plan(
            self.train.lengths,
            batch_tokens=self.training.batch_tokens,
            max_length=self.config.data.max_length,
            seed=self.config.seed,
            epoch=epoch,
        )

    def _look_back(self, ends_epoch: bool, stop: bool, *, interrupted: bool) -> None:
        """Validates and saves where it is time to; an interruption only saves."""
        began = time.perf_counter()
        every, step = self.training.validate_every, self.progress.step
        due = (ends_epoch if every is None else step % every == 0) or stop
        if due and not interrupted:
            self._validate()
        every = self.training.checkpoint_every
        if due or (every is not None and step % every == 0):
            self.progress.finished = not interrupted and (stop or self._done())
            self._save()
        self._since.began += time.perf_counter() - began  # tokens per second are of training alone

    def _validate(self) -> None:
        progress = self.progress
        scores = validate(self.task, self.model, self.validation, self.config, self.comm, self.device)
        value = scores[self.training.metric]
        better = progress.best is None or (
            value < progress.best if self.training.metric == "loss" else value > progress.best
        )
        if better:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
        else:
            progress.waited += 1
        progress.validated = progress.step
        self.schedule.after_validation(scores["loss"])
        self.report({"kind": "validation", **self._now(), **scores, "best": better})

    def _log(self, batches: int) -> None:
        epoch = self.progress.epoch + self.progress.batch / batches
        rate = self.optimizer.param_groups[0]["lr"]
        self.report({"kind": "train", **self._now(), "epoch": epoch, "learning_rate": rate, **self._since.row()})
        self._since = _Since()

    def _now(self) -> dict[str, Any]:
        return {
            "step": self.progress.step,
            "epoch": float(self.progress.epoch),
            "seconds": round(time.perf_counter() - self._began, 3),
        }

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self._began
        if self.comm.rank == 0:
            training = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state()}
            checkpoint.save(self.run.checkpoints, self.model, training, self.progress, self.training.keep)

    def _restore(self) -> None:
        newest = checkpoint.last(self.run.checkpoints)
        self.comm.gather(None)  # nobody writes before everybody has chosen
        if newest is None:
            return
        checkpoint.load_model(newest, self.model)
        training = checkpoint.load_training(newest)
        self.optimizer.load_state_dict(training["optimizer"])
        self.schedule.load(training["schedule"])
        self.progress = checkpoint.read_progress(newest)
        if self.comm.rank == 0:
            self.run.rewind(self.progress.step)
        self.report({"kind": "resume", "step": self.progress.step, "seconds": self.progress.seconds})


@dataclass
class _Since:
    """What happened since the last row of metrics.jsonl."""

    loss: float = 0.0
    tokens: int = 0
    norm: float = 0.0
    clipped: int = 0
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, tokens: int, norm: float, clipped: bool) -> None:
        self.loss += loss * tokens
        self.tokens += tokens
        self.norm += norm
        self.clipped += clipped
        self.steps += 1

    def row(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.tokens,
            "gradient_norm": self.norm / self.steps,
            "clipped": self.clipped / self.steps,
            "tokens_per_second": round(self.tokens / (time.perf_counter() - self.began), 1),
        }


def fit(task: Task, data: Prepared, run: RunFolder, config: Config, comm: Comm, **options: Any) -> Progress:
    """Trains a run, from its newest checkpoint if it has one; see `Trainer`."""
    return Trainer(task, data, run, config, comm, **options).fit()
