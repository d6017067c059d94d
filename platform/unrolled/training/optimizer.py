"""Optimizers of torch and the learning rate over time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unrolled.config import Optimizer as OptimizerConfig
from unrolled.config import Schedule as ScheduleConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns torch's optimizer, with one fused kernel for all parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=config.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, rate, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)


@dataclass
class Schedule:
    """Learning rate: a linear warm-up, then constant, lowered whenever the validation loss stands still, or along half
    a cosine down to zero at the run's end (Loshchilov & Hutter 2017, without restarts)."""

    config: ScheduleConfig
    base: float
    decay: float = 1.0
    best: float = float("inf")
    waited: int = 0

    def rate(self, step: int, done: float) -> float:
        """Returns the rate of update `step`, counted from 0, when the share `done` of the run is over."""
        warmup = self.config.warmup_steps
        cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2 if self.config.name == "cosine" else 1.0
        return self.base * self.decay * cosine * min(1.0, (step + 1) / warmup if warmup else 1.0)

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
