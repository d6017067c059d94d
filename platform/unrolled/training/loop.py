"""The training loop. It knows a task, a group of workers and a run folder; who started the workers is not its business.

Every worker runs `fit`. All of them see the same plan of global batches, take their part, and divide the summed
loss by the batch's *global* token count, so that the parameters after N steps do not depend on the number of
workers beyond float rounding. Random numbers are drawn anew each step from (seed, step, rank): a checkpoint is
complete without any generator's state. What a model carries from batch to batch is cut from the graph after each
step (truncated back-propagation through time, Williams & Peng 1990) and kept in checkpoints for any number of workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from unrolled.config import Config
from unrolled.errors import RunFailed
from unrolled.metrics import metric
from unrolled.recurrence import NotFinite, named_stacks
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest
from unrolled.tasks import GlobalBatch, Prepared, Task
from unrolled.training import carried, checkpoint
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Comm
from unrolled.training.gradients import GradientBuffer
from unrolled.training.optimizer import Schedule, build_optimizer
from unrolled.training.run import RunFolder

Report = Callable[[dict[str, Any]], None]
"""Receives rows of metrics.jsonl; called by every worker with the same values."""

INTERRUPTED, TIME, LOSS = 0, 1, 2
"""Places behind the gradients: whether to stop and the share of the time that is over, both as the first worker
sees it, and the loss."""


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
        self.task, self.data, self.run, self.comm, self.device = task, data, run, comm, device
        self.config, self.training = config, config.training
        self.report, self.interrupted = report, interrupted
        torch.manual_seed(config.seed)
        self.model = task.build_model().to(device, getattr(torch, self.training.parameter_type))
        self.optimizer = build_optimizer(self.model, self.training.optimizer)
        self.schedule = Schedule(self.training.schedule, self.training.optimizer.learning_rate)
        self.gradients = GradientBuffer(self.model, extra=3)
        self.progress = Progress()
        self.state: Nest = None
        self._batches = 1
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
            batches = self.task.plan(self.data, progress.epoch)
            self._batches = len(batches)
            for batch in batches[progress.batch :]:
                if progress.batch == 0:
                    self.state = None
                flags = self._update(batch, self._done_share())
                progress.step += 1
                progress.batch += 1
                ends_epoch = progress.batch == len(batches)
                if ends_epoch:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                if progress.step % self.training.log_every == 0:
                    self._log()
                stop = flags[INTERRUPTED] > 0 or flags[TIME] >= 1 or self._done()
                self._look_back(ends_epoch, stop, interrupted=flags[INTERRUPTED] > 0)
                stop = stop or self._done()
                if stop or ends_epoch:
                    break
        return progress

    def _update(self, batch: GlobalBatch, done: float) -> list[float]:
        """One optimizer step on a global batch; returns the numbers that travelled with the gradients.

        Args:
            done: share of the run's steps and epochs that is over.
        """
        self.model.train()
        self.gradients.zero()
        torch.manual_seed((self.config.seed * 1_000_003 + self.progress.step) * 65_537 + self.comm.rank)
        loss, part = torch.zeros((), device=self.device), batch.part(self.comm.rank, self.comm.size)
        if part is not None:
            with self._anomalies():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.precision == "bfloat16"):
                    summed, state = self.task.loss(self.model, part.to(self.device), self.state)
                loss = summed / batch.tokens
                torch.autograd.backward(loss)
            self.state = nest.detach(state)
        numbers = self.gradients.sum_over_workers(self.comm, [*self._flags(), loss.detach()])
        norm, clipped = self.gradients.clip(self.training.clipping)
        if not math.isfinite(norm) or not math.isfinite(numbers[LOSS]):
            raise RunFailed(
                f"step {self.progress.step + 1}: loss {numbers[LOSS]:g}, gradient norm {norm:g}: not finite. Lower "
                "training.optimizer.learning_rate or training.clipping.threshold; the last checkpoint is kept."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.progress.step, max(done, numbers[TIME]))
        self.optimizer.step()
        self._since.add(numbers[LOSS], batch.tokens, norm, clipped)
        return numbers

    @contextmanager
    def _anomalies(self) -> Iterator[None]:
        """Under `training.detect_anomaly`, turns a number that is not finite into a sentence that says where."""
        wanted, step = self.training.detect_anomaly, f"step {self.progress.step + 1}"
        try:
            with torch.autograd.set_detect_anomaly(wanted) if wanted else nullcontext():
                yield
        except NotFinite as error:
            name = next(name for name, stack in named_stacks(self.model) if stack is error.stack)
            raise RunFailed(f"{step}: {name}: {error}. The last checkpoint is kept.") from None
        except RuntimeError as error:
            if not wanted or "returned nan values" not in str(error):
                raise
            raise RunFailed(
                f"{step}: backward pass: {str(error).splitlines()[0]} The last checkpoint is kept."
            ) from None

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
            or (patience is not None and progress.waited >= patience)
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
        share = self.task.validate(self.model, self.data, self.comm.rank, self.comm.size)
        scores = self.task.scores(self.comm.gather(share))
        value = scores[self.training.metric]
        better = progress.best is None or metric(self.training.metric).better(value, progress.best)
        if better:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
        else:
            progress.waited += 1
        progress.validated = progress.step
        self.schedule.after_validation(scores["loss"])
        self.report({"kind": "validation", **self._now(), **scores, "best": better})

    def _epochs(self) -> float:
        return self.progress.epoch + self.progress.batch / self._batches

    def _log(self) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self.report({"kind": "train", **self._now(), "learning_rate": rate, **self._since.row()})
        self._since = _Since()

    def _now(self) -> dict[str, Any]:
        return {
            "step": self.progress.step,
            "epoch": self._epochs(),
            "seconds": round(time.perf_counter() - self._began, 3),
        }

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self._began
        state = carried.joined(self.comm.gather(carried.to_cpu(self.state)))
        if self.comm.rank == 0:
            training = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state(),
                "state": state,
            }
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
        self.state = carried.part(training["state"], self.comm.rank, self.comm.size, self.device)
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
