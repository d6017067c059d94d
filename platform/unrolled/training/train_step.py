"""One update of the parameters, made by all workers together: batches, forward and backward, clipping, step."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.config.training import Precision
from unrolled.errors import Diverged
from unrolled.recurrence import Nest, NonFiniteError, has_bfloat16_matmul, named_stacks
from unrolled.recurrence import state as nest
from unrolled.tasks import GlobalBatch, Shard, Task
from unrolled.training.distributed import Comm
from unrolled.training.optim import Gradients, MovingAverage, Schedule, build_optimizer

AUTOCAST_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FLAGS = 2
"""Number of the trainer's flags, which are summed over the workers together with gradients and loss."""


def build_initial_model(task: Task, config: Config, device: torch.device) -> nn.Module:
    """Builds the model that a run begins with: fresh parameters from the config's seed, and pretrained ones if any."""
    torch.manual_seed(config.seed)
    model = task.build_model()
    task.load_pretrained(model)
    return model.to(device, getattr(torch, config.training.parameter_type))


# Batches --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerBatch:
    """One worker's part of an update.

    Attributes:
        shards: of the global batches, without those in which this worker has no rows.
        tokens: targets of the global batches, all workers together.
    """

    shards: Sequence[Shard]
    tokens: int


def group_by_update(batches: Sequence[GlobalBatch], config: Config) -> list[Sequence[GlobalBatch]]:
    """Groups the global batches of an epoch by update (`training.accumulate`)."""
    size = config.training.accumulate
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def prefetch(groups: Sequence[Sequence[GlobalBatch]], comm: Comm) -> Generator[WorkerBatch]:
    """Yields this worker's batch of each group in turn, while a thread prepares the next one."""

    def load(group: Sequence[GlobalBatch]) -> WorkerBatch:
        shards = (batch.shard(comm.rank, comm.size) for batch in group)
        return WorkerBatch([shard for shard in shards if shard is not None], sum(batch.tokens for batch in group))

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        submitted = (thread.submit(load, group) for group in groups)
        following = next(submitted, None)
        while following is not None:
            ready, following = following, next(submitted, None)
            yield ready.result()


# The update -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepResult:
    """Result of one update.

    Attributes:
        flags: the trainer's flags, summed over the workers.
        loss: mean over the targets of the global batches.
        norm: of the gradient before clipping.
        tokens: targets of the global batches.
        skipped: whether loss or gradient is not finite; parameters and hidden state are then unchanged.
        layer_norms: gradient norms by layer, where requested or where the update was skipped.
    """

    flags: Sequence[float]
    loss: float
    norm: float
    tokens: int
    skipped: bool
    clipped: bool
    layer_norms: dict[str, float]


class TrainStep:
    """Makes updates and holds all that they change: parameters, optimizer, averages, hidden state.

    Attributes:
        hidden_state: carried from batch to batch by the model, of this worker's rows; `None` for none.
        rate: the last learning rate.
        on_phase_end: called with the name of each phase of an update when it ends; for `unrolled.training.profiler`.
    """

    def __init__(self, task: Task, model: nn.Module, config: Config, comm: Comm, device: torch.device) -> None:
        self.task, self.model, self.comm, self.device = task, model, comm, device
        self.seed, self.training = config.seed, config.training
        keep_freed_memory()
        self.optimizer = build_optimizer(model, self.training.optimizer)
        self._rate_factors = [group["factor"] for group in self.optimizer.param_groups]
        self.schedule = Schedule(self.training.schedule, self.training.optimizer.learning_rate)
        self.gradients = Gradients(model, FLAGS + 1, comm)
        self.average = MovingAverage(model, self.training.moving_average)
        self.precision = resolve_precision(self.training.precision, device, comm)
        self.loss_scale = LossScale(2.0**16 if self.precision == "float16" else 1.0)
        self.hidden_state: Nest = None
        self.rate = 0.0
        self.on_phase_end: Callable[[str], None] = lambda phase: None

    def __call__(
        self, batch: WorkerBatch, step: int, completed: float, flags: Sequence[float], *, norms_by_layer: bool
    ) -> StepResult:
        """Accumulates the gradients of all shards, sums them over the workers and takes one optimizer step.

        Random generators are seeded from (seed, step, rank).

        Args:
            step: number of the update, from 0.
            completed: completed fraction of the run as far as this worker knows.
            flags: of this worker. `flags[1]`, summed over the workers, is another measure of the completed fraction;
                the larger one counts.
            norms_by_layer: whether gradient norms by layer are computed.
        """
        if not self.model.training:  # for a small model, `train` on every module takes longer than a step
            self.model.train()
        self.gradients.zero()
        seed = (self.seed * 1_000_003 + step) * 65_537 + self.comm.rank
        if self.device.type == "cpu":  # torch.manual_seed also records the stack, for each kind of device not in use
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        loss, hidden = torch.zeros((), dtype=torch.float64, device=self.device), self.hidden_state
        self.on_phase_end("other")
        with self._located_non_finite(step):
            for shard in batch.shards:
                on_device = shard.to(self.device)
                self.on_phase_end("data")
                shard_loss, hidden = self._forward_backward(
                    on_device, hidden, batch.tokens, last=shard is batch.shards[-1]
                )
                loss += shard_loss
        *flags, mean_loss = self.gradients.all_reduce([*flags, loss])
        self.on_phase_end("communication")
        if self.loss_scale.value != 1:
            self.gradients.scale(1 / self.loss_scale.value)
        norm = self.gradients.norm()
        finite = math.isfinite(norm) and math.isfinite(mean_loss)
        layer_norms = self.gradients.norms_by_layer() if norms_by_layer or not finite else {}
        clipped = finite and self._clip_and_step(step, max(completed, flags[1]), norm)
        if finite:
            self.hidden_state = hidden
        elif self.precision == "float16":
            self.loss_scale.decrease()
        self.on_phase_end("optimizer")
        return StepResult(flags, mean_loss, norm, batch.tokens, not finite, clipped, layer_norms)

    def _forward_backward(self, shard: Shard, hidden: Nest, tokens: int, *, last: bool) -> tuple[Tensor, Nest]:
        """Runs forward and backward passes of a shard, window by window.

        Args:
            last: whether no other shard follows before the sum over the workers.

        Returns:
            The shard's part of the mean loss, and the detached hidden state after it.
        """
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with autocast(self.precision, self.device):
            for window in self.task.losses(self.model, shard, hidden):
                self.on_phase_end("forward")
                mean = window.loss / tokens
                if last and window.last:
                    self.gradients.begin_last_backward(mean)
                with torch.autocast(self.device.type, enabled=False):
                    scale = self.loss_scale.value
                    torch.autograd.backward(mean * scale if scale != 1 else mean)
                loss += mean.detach()
                hidden = None if window.state is None else nest.detach(window.state)
                self.on_phase_end("backward")
        return loss, hidden

    def _clip_and_step(self, step: int, completed: float, norm: float) -> bool:
        """Clips and takes the optimizer's step; returns whether the gradient was clipped."""
        clipped = self.gradients.clip(self.training.clipping, norm)
        self.rate = self.schedule.rate(step, completed)
        for group, rate_factor in zip(self.optimizer.param_groups, self._rate_factors, strict=True):
            group["lr"] = rate_factor * self.rate
        self.optimizer.step()
        self.average.update(step)
        if self.precision == "float16":
            self.loss_scale.count_finite()
        return clipped

    @contextmanager
    def _located_non_finite(self, step: int) -> Iterator[None]:
        """With `training.detect_anomaly`, reports the place of the first non-finite number as `Diverged`."""
        detect, place = self.training.detect_anomaly, f"step {step + 1}"
        try:
            with torch.autograd.set_detect_anomaly(detect) if detect else nullcontext():
                yield
        except NonFiniteError as error:
            name = next(name for name, stack in named_stacks(self.model) if stack is error.stack)
            raise Diverged(f"{place}: {name}: {error}. The last checkpoint is kept.") from None
        except RuntimeError as error:
            if not detect or "returned nan values" not in str(error):
                raise
            raise Diverged(
                f"{place}: backward pass: {str(error).splitlines()[0]} The last checkpoint is kept."
            ) from None

    def state_dict(self, hidden: Nest) -> dict[str, Any]:
        """Returns what a checkpoint holds besides the model; `hidden` is the hidden state of all workers."""
        raw = [parameter.detach() for parameter in self.model.parameters()] if self.average.values else []
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scale": [self.loss_scale.value, self.loss_scale.finite_updates],
            "parameters": raw,
            "state": hidden,
        }

    def load_state_dict(self, saved: dict[str, Any], hidden: Nest) -> None:
        """Restores `state_dict()`; the model already holds the checkpoint's weights, `hidden` is this worker's."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.loss_scale.value, self.loss_scale.finite_updates = saved["scale"]
        self.hidden_state = hidden
        if self.average.values:
            self.average.reset()
            for parameter, raw in zip(self.model.parameters(), saved["parameters"], strict=True):
                parameter.data.copy_(raw)


# Precision and memory -------------------------------------------------------------------------------------


def resolve_precision(precision: Precision, device: torch.device, comm: Comm) -> Precision:
    """Resolves `auto`: bfloat16 if the hardware of every worker has matrix units for it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if all(comm.gather(has_bfloat16_matmul(device))) else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """While open, matrices are multiplied in bfloat16 or float16, if that is the precision."""
    dtype = AUTOCAST_TYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@dataclass
class LossScale:
    """Dynamic loss scale for float16, in which small gradients would vanish (Micikevicius et al. 2018).

    Halved after a non-finite gradient, doubled after `GROWTH_INTERVAL` finite ones.

    Attributes:
        value: the factor; 1 unless float16 is used.
        finite_updates: updates since it changed.
    """

    value: float = 1.0
    finite_updates: int = 0

    GROWTH_INTERVAL = 2000

    def count_finite(self) -> None:
        self.finite_updates += 1
        if self.finite_updates == self.GROWTH_INTERVAL:
            self.value, self.finite_updates = self.value * 2, 0

    def decrease(self) -> None:
        self.value, self.finite_updates = max(1.0, self.value / 2), 0


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of these options in glibc's malloc.h."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next update, which needs the same sizes. By default it returns large blocks
    to the system, which fills every page with zeros before it hands it out again."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
