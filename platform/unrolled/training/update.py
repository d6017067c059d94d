"""One update of the parameters, made by all workers together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.errors import Diverged
from unrolled.recurrence import NotFinite, named_stacks
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest
from unrolled.tasks import GlobalBatch, Part, Pretrained, Task
from unrolled.training.ahead import Work
from unrolled.training.average import MovingAverage
from unrolled.training.comm import Comm
from unrolled.training.descent import take_step
from unrolled.training.gradients import Gradients
from unrolled.training.memory import keep_freed
from unrolled.training.optimizer import Schedule, build_optimizer
from unrolled.training.precision import LossScale, narrowed, resolve

FLAGS = 2
"""Numbers of the loop that travel behind the gradients, in front of the loss."""


def _unheard(part: str) -> None:
    """Nobody measures."""


def fresh_model(task: Task, config: Config, device: torch.device) -> nn.Module:
    """Makes the model that a run begins with, from the config's seed and what is pretrained of it."""
    torch.manual_seed(config.seed)
    model = task.build_model()
    if isinstance(task, Pretrained):
        task.load_pretrained(model)
    return model.to(device, getattr(torch, config.training.parameter_type))


def by_update(batches: Sequence[GlobalBatch], config: Config) -> list[Sequence[GlobalBatch]]:
    """Groups the global batches of an epoch by the update that they are for."""
    together = config.training.accumulate
    return [batches[start : start + together] for start in range(0, len(batches), together)]


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        flags: the loop's numbers, summed over the workers.
        loss: mean over the targets of the global batches.
        norm: of the gradient before clipping.
        made: False where loss or gradient is not finite: then parameters and state are as before.
        layers: norms by layer, where they were asked for or the update was not made.
    """

    flags: Sequence[float]
    loss: float
    norm: float
    tokens: int
    made: bool
    clipped: bool
    layers: dict[str, float]


class Updater:
    """Makes updates, and keeps what they change: parameters, optimizer, averages, carried state.

    Attributes:
        state: what the model carries from batch to batch, on this worker.
        rate: the last learning rate.
        lap: called with the name of a part of the update whenever one is over; `unrolled.training.profile` listens.
    """

    def __init__(self, task: Task, model: nn.Module, config: Config, comm: Comm, device: torch.device) -> None:
        self.task, self.model, self.comm, self.device = task, model, comm, device
        self.seed, self.training = config.seed, config.training
        keep_freed()
        self.optimizer = build_optimizer(model, self.training.optimizer)
        self._factors = [group["factor"] for group in self.optimizer.param_groups]
        self.schedule = Schedule(self.training.schedule, self.training.optimizer.learning_rate)
        self.gradients = Gradients(model, FLAGS + 1, comm)
        self.average = MovingAverage(model, self.training.moving_average)
        self.precision = resolve(self.training.precision, device, comm)
        self.scale = LossScale(2.0**16 if self.precision == "float16" else 1.0)
        self.state: Nest = None
        self.rate = 0.0
        self.lap: Callable[[str], None] = _unheard

    def __call__(self, work: Work, step: int, done: float, flags: Sequence[float], *, layers: bool) -> Update:
        """Adds up the gradients of all parts and takes one step.

        Random numbers are drawn anew each step from (seed, step, rank).

        Args:
            step: the update's number, from 0.
            done: share of the run that is over, as far as this worker knows; the flag behind it may know better.
            flags: of this worker; `flags[1]` is another share of the run that is over.
            layers: whether norms by layer are wanted.
        """
        if not self.model.training:  # to say so to every module takes longer than a small one's step
            self.model.train()
        self.gradients.zero()
        self._sow((self.seed * 1_000_003 + step) * 65_537 + self.comm.rank)
        loss, state = torch.zeros((), dtype=torch.float64, device=self.device), self.state
        self.lap("other")
        with self._anomalies(step):
            for part in work.parts:
                here = part.to(self.device)
                self.lap("data")
                summed, state = self._both_passes(here, state, work.tokens, last=part is work.parts[-1])
                loss += summed
        *flags, mean = self.gradients.sum_over_workers([*flags, loss])
        self.lap("communication")
        if self.scale.value != 1:
            self.gradients.scale(1 / self.scale.value)
        norm = self.gradients.norm()
        made = math.isfinite(norm) and math.isfinite(mean)
        by_layer = self.gradients.by_layer() if layers or not made else {}
        clipped = made and self._step(step, max(done, flags[1]), norm)
        if made:
            self.state = state
        elif self.precision == "float16":
            self.scale.failed()
        self.lap("optimizer")
        return Update(flags, mean, norm, work.tokens, made, clipped, by_layer)

    def _sow(self, seed: int) -> None:
        if self.device.type == "cpu":  # torch.manual_seed also notes the stack, for each kind of device not in use
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _both_passes(self, part: Part, state: Nest, tokens: int, *, last: bool) -> tuple[Tensor, Nest]:
        """Forward and backward of a part, window by window. Returns its share of the mean loss and the state after.

        Args:
            last: whether no other part follows before the sum over the workers.
        """
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with narrowed(self.precision, self.device):
            for piece in self.task.losses(self.model, part, state):
                self.lap("forward")
                mean = piece.loss / tokens
                if last and piece.last:
                    self.gradients.last_pass(mean)
                with torch.autocast(self.device.type, enabled=False):
                    torch.autograd.backward(mean * self.scale.value if self.scale.value != 1 else mean)
                loss += mean.detach()
                state = nest.detach(piece.state)
                self.lap("backward")
        return loss, state

    def _step(self, step: int, done: float, norm: float) -> bool:
        """Clips and takes the optimizer's step; returns whether the gradient was clipped."""
        clipped, kept = self.gradients.clip(self.training.clipping, norm)
        self.rate = self.schedule.rate(step, done)
        for group, factor in zip(self.optimizer.param_groups, self._factors, strict=True):
            group["lr"] = factor * self.rate
        take_step(self.optimizer, self.average, kept, step)
        if self.precision == "float16":
            self.scale.passed()
        return clipped

    @contextmanager
    def _anomalies(self, step: int) -> Iterator[None]:
        """Under `training.detect_anomaly`, turns a number that is not finite into a sentence that says where."""
        wanted, place = self.training.detect_anomaly, f"step {step + 1}"
        try:
            with torch.autograd.set_detect_anomaly(wanted) if wanted else nullcontext():
                yield
        except NotFinite as error:
            name = next(name for name, stack in named_stacks(self.model) if stack is error.stack)
            raise Diverged(f"{place}: {name}: {error}. The last checkpoint is kept.") from None
        except RuntimeError as error:
            if not wanted or "returned nan values" not in str(error):
                raise
            raise Diverged(
                f"{place}: backward pass: {str(error).splitlines()[0]} The last checkpoint is kept."
            ) from None

    def kept(self, state: Nest) -> dict[str, Any]:
        """What a checkpoint keeps besides the model; `state` is that of all workers."""
        raw = [parameter.detach() for parameter in self.model.parameters()] if self.average.values else []
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "scale": [self.scale.value, self.scale.good],
            "parameters": raw,
            "state": state,
        }

    def load(self, kept: dict[str, Any], state: Nest) -> None:
        """Continues from `kept`, where the model already holds what the checkpoint calls the model."""
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load(kept["schedule"])
        self.scale.value, self.scale.good = kept["scale"]
        self.state = state
        if self.average.values:
            self.average.restart()
            for parameter, raw in zip(self.model.parameters(), kept["parameters"], strict=True):
                parameter.data.copy_(raw)
