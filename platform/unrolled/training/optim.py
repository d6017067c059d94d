"""Optimizers, learning-rate schedules and parameter averages.

Optimizers of torch and the learning rate over time.

Averages of parameters, which often do better than the parameters themselves (Polyak & Juditsky 1992).

The step of an optimizer, and of the averages behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import native
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
    bad_validations: int = 0

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
            self.best, self.bad_validations = loss, 0
            return
        self.bad_validations += 1
        if self.bad_validations > self.config.patience:
            self.decay *= self.config.factor
            self.bad_validations = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name in ("decay", "best", "bad_validations")}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self.decay, self.best, self.bad_validations = state["decay"], state["best"], state["bad_validations"]


def _half_cosine(share: float) -> float:
    """From 1 at 0 down to 0 at 1."""
    return (1 + math.cos(math.pi * share)) / 2


class MovingAverage:
    """ā ← d · ā + (1 − d) · parameter after every update, with d = min(decay, (1 + step) / (10 + step)), so that the
    first parameters, which know nothing, are soon forgotten.

    Args:
        decay: 0 for none: then all of this does nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = list(model.parameters()) if decay else []
        self._places = {parameter: place for place, parameter in enumerate(self._parameters)}
        self._decay = decay
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in self._parameters]

    def share(self, step: int) -> float:
        """1 − d of the update number `step`, from 0."""
        return 1 - min(self._decay, (1 + step) / (10 + step))

    def of(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The averages of some parameters."""
        return [self.values[self._places[parameter]] for parameter in parameters] if self.values else []

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Takes in the parameters of a finished update, the number `step` from 0."""
        if self.values:
            torch._foreach_lerp_(self.values, self._parameters, self.share(step))

    @torch.no_grad()
    def restart(self) -> None:
        """Takes the parameters as they are for the averages."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the model's parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for place, parameter in enumerate(self._parameters):
            parameter.data, self.values[place] = self.values[place], parameter.data


@torch.no_grad()
def optimizer_step(optimizer: torch.optim.Optimizer, average: MovingAverage, factor: float, step: int) -> None:
    """Takes the step number `step`, from 0, with the gradients times `factor`; then the averages follow.

    Where there is compiled code for it, one pass over the memory does all of this. The first step is torch's, which
    makes the optimizer's state.
    """
    parts = [_parts(optimizer, average, group) for group in optimizer.param_groups]
    if isinstance(optimizer, torch.optim.Adam) and all(_fits(*part) for part in parts):
        for group, part in zip(optimizer.param_groups, parts, strict=True):
            native.descend(group, *part, factor, average.share(step))
        return
    if factor != 1:
        torch._foreach_mul_([gradient for _, gradients, *_ in parts for gradient in gradients], factor)
    optimizer.step()
    average.follow(step)


Part = tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]], list[Tensor]]
"""Of a group: parameters, gradients, the optimizer's states and the averages."""


def _parts(optimizer: torch.optim.Optimizer, average: MovingAverage, group: dict[str, Any]) -> Part:
    parameters = group["params"]
    gradients = [parameter.grad for parameter in parameters]
    return parameters, gradients, [optimizer.state[parameter] for parameter in parameters], average.of(parameters)


def _fits(
    parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], more: list[Tensor]
) -> bool:
    kept = [tensor for state in states for tensor in state.values()]
    return all(states) and native.can_descend([*parameters, *gradients, *kept, *more])
