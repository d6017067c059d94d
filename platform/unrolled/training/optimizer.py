"""Optimizers of torch and the learning rate over time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unrolled.config import Optimizer as OptimizerConfig
from unrolled.config import Schedule as ScheduleConfig

RISE = 0.3
"""Share of a run in which the rate of one cycle rises."""
START = 1 / 25
"""What one cycle starts from, as a share of its highest rate."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns torch's optimizer, with one fused kernel for all parameters where there is one.

    A group of parameters has a `factor` besides: what its learning rate is multiplied by. It is 1 but for those of a
    module that says otherwise by its `learning_rate_factor`.
    """
    parameters = _groups(model)
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=config.momentum, weight_decay=decay, fused=True)
    if config.name == "adafactor":
        return torch.optim.Adafactor(parameters, rate, weight_decay=decay)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, rate, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
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


@dataclass
class Schedule:
    """Learning rate: a linear warm-up, then

    - `constant`;
    - `plateau`: lowered whenever the validation loss stands still;
    - `inverse_square_root`: falling as 1/√step from the warm-up on (Vaswani et al. 2017);
    - `cosine`: along half a cosine down to zero at the run's end (Loshchilov & Hutter 2017, without restarts);
    - `one_cycle`: up from a 25th along half a cosine for 30 % of the run, then down to zero (Smith & Topin 2018).
    """

    config: ScheduleConfig
    base: float
    decay: float = 1.0
    best: float = float("inf")
    waited: int = 0

    def rate(self, step: int, done: float) -> float:
        """Returns the rate of update `step`, counted from 0, when the share `done` of the run is over."""
        warmup = self.config.warmup_steps
        return self.base * self.decay * self._shape(step, min(1.0, done)) * min(1.0, (step + 1) / max(1, warmup))

    def _shape(self, step: int, done: float) -> float:
        if self.config.name == "cosine":
            return _half_cosine(done)
        if self.config.name == "one_cycle":
            if done < RISE:
                return 1 - (1 - START) * _half_cosine(done / RISE)
            return _half_cosine((done - RISE) / (1 - RISE))
        if self.config.name == "inverse_square_root":
            warmup = max(1, self.config.warmup_steps)
            return math.sqrt(warmup / max(warmup, step + 1))
        return 1.0

    def after_validation(self, loss: float) -> None:
        """Counts validations without a better loss; past the patience the rate falls by the factor."""
        if self.config.name != "plateau":
            return
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.config.patience:
            self.decay *= self.config.factor
            self.waited = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name in ("decay", "best", "waited")}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self.decay, self.best, self.waited = state["decay"], state["best"], state["waited"]


def _half_cosine(share: float) -> float:
    """From 1 at 0 down to 0 at 1."""
    return (1 + math.cos(math.pi * share)) / 2
