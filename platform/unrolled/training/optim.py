"""Optimizers, learning-rate schedules, gradient norms and clipping, parameter averages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Clipping
from unrolled.config import Optimizer as OptimizerConfig
from unrolled.config import Schedule as ScheduleConfig
from unrolled.training.distributed import Comm, GradientBuckets


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns torch's optimizer, fused for all parameters where torch has such a kernel.

    Each parameter group has an additional `factor` by which its learning rate is multiplied: the `learning_rate_factor`
    of the module that owns the parameters, or 1.
    """
    groups = _parameter_groups(model)
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(groups, rate, momentum=config.momentum, weight_decay=decay, fused=True)
    if config.name == "adafactor":
        return torch.optim.Adafactor(groups, rate, weight_decay=decay)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, rate, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    factors: dict[nn.Parameter, float] = {}
    for module in model.modules():
        factor: Any = getattr(module, "learning_rate_factor", None)
        if factor is not None:
            factors |= dict.fromkeys(module.parameters(), factor)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


RISE = 0.3
"""Fraction of a run in which the rate of one cycle rises."""
START = 1 / 25
"""Initial rate of one cycle, as a fraction of its highest rate."""


@dataclass
class Schedule:
    """Learning rate: a linear warm-up, then

    - `constant`;
    - `plateau`: lowered whenever the validation loss stops falling;
    - `inverse_square_root`: proportional to 1/√step after the warm-up (Vaswani et al. 2017);
    - `cosine`: half a cosine down to zero at the end of the run (Loshchilov & Hutter 2017, without restarts);
    - `one_cycle`: half a cosine up from a 25th during 30 % of the run, then down to zero (Smith & Topin 2018).

    Attributes:
        base: the highest rate.
        decay: product of all reductions by `plateau`.
        best: the lowest validation loss.
        bad_validations: validations since `best` or since the last reduction.
    """

    config: ScheduleConfig
    base: float
    decay: float = 1.0
    best: float = float("inf")
    bad_validations: int = 0

    def rate(self, step: int, completed: float) -> float:
        """Returns the rate of update `step`, from 0, when the fraction `completed` of the run is over."""
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return self.base * self.decay * self._shape(step, min(1.0, completed)) * warmup

    def _shape(self, step: int, completed: float) -> float:
        if self.config.name == "cosine":
            return _half_cosine(completed)
        if self.config.name == "one_cycle":
            if completed < RISE:
                return 1 - (1 - START) * _half_cosine(completed / RISE)
            return _half_cosine((completed - RISE) / (1 - RISE))
        if self.config.name == "inverse_square_root":
            warmup = max(1, self.config.warmup_steps)
            return math.sqrt(warmup / max(warmup, step + 1))
        return 1.0

    def after_validation(self, loss: float) -> None:
        """Counts validations without a lower loss; beyond the patience the rate is multiplied by the factor."""
        if self.config.name != "plateau":
            return
        if loss < self.best:
            self.best, self.bad_validations = loss, 0
            return
        self.bad_validations += 1
        if self.bad_validations > self.config.patience:
            self.decay *= self.config.factor
            self.bad_validations = 0

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "best": self.best, "bad_validations": self.bad_validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decay, self.best, self.bad_validations = state["decay"], state["best"], state["bad_validations"]


def _half_cosine(x: float) -> float:
    """Falls from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * x)) / 2


MIN_WEIGHT_NORM = 1e-3
"""Lower bound on a unit's weight norm in adaptive clipping, so that zero weights can change."""


class Gradients:
    """The gradients of all parameters of a model: summed over the workers, measured and clipped.

    Args:
        model: its parameters must share a type and a device.
        extra: count of numbers that are summed over the workers together with the gradients.
    """

    def __init__(self, model: nn.Module, extra: int, comm: Comm) -> None:
        self._named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._buckets = GradientBuckets(list(self._named.values()), extra, comm) if comm.size > 1 else None

    def zero(self) -> None:
        """Removes all gradients. The next backward pass then leaves its own tensors, without a copy."""
        for parameter in self._named.values():
            parameter.grad = None

    def begin_last_backward(self, loss: Tensor) -> None:
        """Announces that the backward pass from `loss` is the last before `all_reduce`."""
        if self._buckets is not None:
            self._buckets.begin_last_backward(loss)

    def all_reduce(self, numbers: Sequence[float | Tensor]) -> list[float]:
        """Sums gradients and `numbers` over the workers; returns the sums of the numbers."""
        if self._buckets is not None:
            return self._buckets.all_reduce(numbers)
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [float(number) for number in numbers]

    def tensors(self) -> list[Tensor]:
        """Returns the gradients in the order of the parameters."""
        return [parameter.grad for parameter in self._named.values() if parameter.grad is not None]

    def scale(self, factor: float) -> None:
        torch._foreach_mul_(self.tensors(), factor)

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(self.tensors())))))

    def norms_by_layer(self) -> dict[str, float]:
        """Returns the L2 norm of each module's own gradients, by its path in the model."""
        squares: dict[str, float] = {}
        for name, parameter in self._named.items():
            assert parameter.grad is not None
            layer = name.rpartition(".")[0] or name
            squares[layer] = squares.get(layer, 0.0) + float(torch.linalg.vector_norm(parameter.grad)) ** 2
        return {layer: math.sqrt(square) for layer, square in squares.items()}

    def clip(self, config: Clipping, norm: float) -> bool:
        """Clips in place; returns whether that changed anything.

        - `norm`: where the norm exceeds the threshold, g · threshold / ‖g‖ (Pascanu et al. 2013);
        - `squared_norm`: where Σg² exceeds the threshold, g · threshold / Σg²;
        - `value`: every component into ±threshold (Mikolov 2012);
        - `adaptive`: the gradient of a unit's incoming weights, a row of a matrix or a whole vector, to at most the
          threshold times the norm of these weights (Brock et al. 2021).

        Args:
            norm: the global L2 norm, which is finite.
        """
        threshold = config.threshold
        if config.kind == "value":
            return self._clip_values(threshold)
        if config.kind == "adaptive":
            return self._clip_units(threshold)
        measure = norm**2 if config.kind == "squared_norm" else norm
        exceeds = config.kind != "none" and measure > threshold
        if exceeds:
            self.scale(threshold / measure)
        return exceeds

    def _clip_values(self, threshold: float) -> bool:
        exceeds = max(float(largest) for largest in torch._foreach_norm(self.tensors(), math.inf)) > threshold
        if exceeds:
            torch._foreach_clamp_max_(self.tensors(), threshold)
            torch._foreach_clamp_min_(self.tensors(), -threshold)
        return exceeds

    @torch.no_grad()
    def _clip_units(self, threshold: float) -> bool:
        exceeds = False
        for parameter in self._named.values():
            gradient = parameter.grad
            assert gradient is not None
            axes = tuple(range(1, parameter.ndim)) if parameter.ndim > 1 else None
            limit = threshold * _norms(parameter, axes).clamp_(min=MIN_WEIGHT_NORM)
            factor = limit / _norms(gradient, axes).clamp_(min=1e-12)
            if bool((factor < 1).any()):
                gradient.mul_(factor.clamp_(max=1))
                exceeds = True
        return exceeds


def _norms(tensor: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=True)
    return norms


class MovingAverage:
    """Exponential moving average of the parameters, which often scores better (Polyak & Juditsky 1992).

    ā ← d · ā + (1 − d) · parameter after every update, with d = min(decay, (1 + step) / (10 + step)), so that the
    initial parameters are soon forgotten.

    Args:
        decay: 0 for no average; all methods then do nothing.

    Attributes:
        values: the averages, in the order of the parameters.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = list(model.parameters()) if decay else []
        self._decay = decay
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Includes the parameters after update `step`, from 0."""
        if self.values:
            weight = 1 - min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, self._parameters, weight)

    @torch.no_grad()
    def reset(self) -> None:
        """Sets the averages to the current parameters."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.copy_(parameter)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """While open, the model's parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for i, parameter in enumerate(self._parameters):
            parameter.data, self.values[i] = self.values[i], parameter.data
