"""Optimizers, learning-rate schedules and parameter averages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Optimizer as OptimizerConfig
from unrolled.config import Schedule as ScheduleConfig


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
        """Returns what a checkpoint holds."""
        return {name: value for name, value in asdict(self).items() if name in ("decay", "best", "bad_validations")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.decay, self.best, self.bad_validations = state["decay"], state["best"], state["bad_validations"]


def _half_cosine(x: float) -> float:
    """Falls from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * x)) / 2


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
