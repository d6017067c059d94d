"""One update of the parameters, made by all workers together.

What matrices are multiplied in while training.

What the C library does with memory that is given back.

What the next update needs, made ready in the background while the present one is computed.

All gradients of a model: summed over the workers, measured and clipped.

One update of the parameters, made by all workers together.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import native
from unrolled.config import Clipping, Config
from unrolled.config.training import Precision
from unrolled.errors import Diverged
from unrolled.recurrence import NonFiniteError, named_stacks
from unrolled.recurrence import state as nest
from unrolled.recurrence.matmul import has_bfloat16_matmul
from unrolled.recurrence.state import Nest
from unrolled.tasks import GlobalBatch, Shard, Task
from unrolled.training.distributed import Comm, GradientBuckets
from unrolled.training.optim import MovingAverage, Schedule, build_optimizer, optimizer_step

NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(precision: Precision, device: torch.device, comm: Comm) -> Precision:
    """Returns what `auto` stands for: bfloat16 where every worker has matrix units for it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if all(comm.gather(has_bfloat16_matmul(device))) else "float32"


def narrowed(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """While open, matrices are multiplied in the narrow type, if the precision is one."""
    kind = NARROW.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)


@dataclass
class LossScale:
    """What a loss is multiplied by so that its gradient does not vanish in float16 (Micikevicius et al. 2018): halved
    whenever that was too much, doubled after a long time of finite gradients.

    Attributes:
        value: the factor; 1 wherever float16 is not used.
        good: updates since it changed.
    """

    value: float = 1.0
    good: int = 0

    PATIENCE = 2000

    def passed(self) -> None:
        """Counts a finite gradient."""
        self.good += 1
        if self.good == self.PATIENCE:
            self.value, self.good = self.value * 2, 0

    def failed(self) -> None:
        """Lowers the scale after a gradient that was not finite."""
        self.value, self.good = max(1.0, self.value / 2), 0


TRIM, MAP = -1, -3
"""Numbers of `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` in glibc's malloc.h."""
LARGE = 32 * 2**20
"""The most that glibc takes for the second."""


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Has glibc keep what an update gives back for the next one, of the same sizes: else it returns large pieces to the
    system, which fills every page of them with zeros before it lends them again."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM, 2**31 - 1)
        library.mallopt(MAP, LARGE)


@dataclass(frozen=True)
class WorkerBatch:
    """One worker's share of an update.

    Attributes:
        parts: of the global batches, without those that leave nothing to this worker.
        tokens: targets of the global batches, all workers together.
    """

    parts: Sequence[Shard]
    tokens: int


def prefetch(groups: Sequence[Sequence[GlobalBatch]], comm: Comm) -> Generator[WorkerBatch]:
    """Yields the work of each group of global batches in turn; one more than was taken is made ready in a thread."""

    def work(group: Sequence[GlobalBatch]) -> WorkerBatch:
        parts = (batch.shard(comm.rank, comm.size) for batch in group)
        return WorkerBatch([part for part in parts if part is not None], sum(batch.tokens for batch in group))

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready: Future[WorkerBatch] | None = None
        for group in groups:
            following = thread.submit(work, group)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()


EPSILON = 1e-3
"""Least norm of a unit's weights that adaptive clipping measures its gradient by, so that zeros can leave zero."""


class Gradients:
    """The gradients of all parameters of a model.

    Args:
        model: its parameters must share a type and a device.
        extra: numbers that are summed over the workers with them.
    """

    def __init__(self, model: nn.Module, extra: int, comm: Comm) -> None:
        self._named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._buckets = GradientBuckets(list(self._named.values()), extra, comm) if comm.size > 1 else None

    def zero(self) -> None:
        """Starts the next sum. The backward pass then leaves its own memory, which costs no copy."""
        for parameter in self._named.values():
            parameter.grad = None

    def last_pass(self, loss: Tensor) -> None:
        """Says that the backward pass from `loss`, now to begin, is the last before the sum over the workers."""
        if self._buckets is not None:
            self._buckets.last_pass(loss)

    def sum_over_workers(self, numbers: Sequence[float | Tensor]) -> list[float]:
        """Adds up gradients and `numbers` over the workers; returns the numbers' sums."""
        if self._buckets is not None:
            return self._buckets.sum(numbers)
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [float(number) for number in numbers]

    def all(self) -> list[Tensor]:
        """The gradients, in the order of the parameters."""
        return [parameter.grad for parameter in self._named.values() if parameter.grad is not None]

    def scale(self, factor: float) -> None:
        """Multiplies all of them."""
        torch._foreach_mul_(self.all(), factor)

    def norm(self) -> float:
        """The global L2 norm."""
        if native.can_descend(self.all()):
            return native.norm(self.all())
        return float(torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(self.all())))))

    def by_layer(self) -> dict[str, float]:
        """The L2 norm of every module's own gradients, by its path in the model."""
        squares: dict[str, float] = {}
        for name, parameter in self._named.items():
            assert parameter.grad is not None
            layer = name.rpartition(".")[0] or name
            squares[layer] = squares.get(layer, 0.0) + float(torch.linalg.vector_norm(parameter.grad)) ** 2
        return {layer: math.sqrt(square) for layer, square in squares.items()}

    def clip(self, config: Clipping, norm: float) -> tuple[bool, float]:
        """Clips in place, but for a factor that all of them have in common.

        - `norm`: above the threshold, rescaled to it (Pascanu et al. 2013);
        - `squared_norm`: where Σg² is above the threshold, g · threshold / Σg²;
        - `value`: every number into ±threshold (Mikolov 2012);
        - `adaptive`: the gradient of a unit's incoming weights, a row of a matrix or a whole vector, to at most the
          threshold times the norm of these weights (Brock et al. 2021).

        Args:
            norm: the global L2 norm, which is finite.

        Returns:
            Whether that changes anything, and the factor, by which they are still to be multiplied.
        """
        threshold = config.threshold
        if config.kind == "value":
            return self._clip_values(threshold), 1.0
        if config.kind == "adaptive":
            return self._clip_units(threshold), 1.0
        measure = norm**2 if config.kind == "squared_norm" else norm
        above = config.kind != "none" and measure > threshold
        return above, threshold / measure if above else 1.0

    def _clip_values(self, threshold: float) -> bool:
        above = max(float(largest) for largest in torch._foreach_norm(self.all(), math.inf)) > threshold
        if above:
            torch._foreach_clamp_max_(self.all(), threshold)
            torch._foreach_clamp_min_(self.all(), -threshold)
        return above

    @torch.no_grad()
    def _clip_units(self, threshold: float) -> bool:
        above = False
        for parameter in self._named.values():
            gradient = parameter.grad
            assert gradient is not None
            axes = tuple(range(1, parameter.ndim)) if parameter.ndim > 1 else None
            most = threshold * _norms(parameter, axes).clamp_(min=EPSILON)
            share = most / _norms(gradient, axes).clamp_(min=1e-12)
            if bool((share < 1).any()):
                gradient.mul_(share.clamp_(max=1))
                above = True
        return above


def _norms(tensor: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
    return norms


FLAGS = 2
"""Numbers of the loop that travel behind the gradients, in front of the loss."""


def _unheard(part: str) -> None:
    """Nobody measures."""


def build_initial_model(task: Task, config: Config, device: torch.device) -> nn.Module:
    """Makes the model that a run begins with, from the config's seed and what is pretrained of it."""
    torch.manual_seed(config.seed)
    model = task.build_model()
    task.load_pretrained(model)
    return model.to(device, getattr(torch, config.training.parameter_type))


def group_by_update(batches: Sequence[GlobalBatch], config: Config) -> list[Sequence[GlobalBatch]]:
    """Groups the global batches of an epoch by the update that they are for."""
    together = config.training.accumulate
    return [batches[start : start + together] for start in range(0, len(batches), together)]


@dataclass(frozen=True)
class StepResult:
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


class TrainStep:
    """Makes updates, and keeps what they change: parameters, optimizer, averages, carried state.

    Attributes:
        state: what the model carries from batch to batch, on this worker.
        rate: the last learning rate.
        lap: called with the name of a part of the update whenever one is over; `unrolled.training.profiler` listens.
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

    def __call__(
        self, work: WorkerBatch, step: int, done: float, flags: Sequence[float], *, layers: bool
    ) -> StepResult:
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
        return StepResult(flags, mean, norm, work.tokens, made, clipped, by_layer)

    def _sow(self, seed: int) -> None:
        if self.device.type == "cpu":  # torch.manual_seed also notes the stack, for each kind of device not in use
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _both_passes(self, part: Shard, state: Nest, tokens: int, *, last: bool) -> tuple[Tensor, Nest]:
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
        optimizer_step(self.optimizer, self.average, kept, step)
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
        except NonFiniteError as error:
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
