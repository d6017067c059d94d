"""The step of an optimizer, and of the averages behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence import compiled
from unrolled.training.average import MovingAverage


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer, average: MovingAverage, factor: float, step: int) -> None:
    """Takes the step number `step`, from 0, with the gradients times `factor`; then the averages follow.

    Where there is compiled code for it, one pass over the memory does all of this. The first step is torch's, which
    makes the optimizer's state.
    """
    parts = [_parts(optimizer, average, group) for group in optimizer.param_groups]
    if isinstance(optimizer, torch.optim.Adam) and all(_fits(*part) for part in parts):
        for group, part in zip(optimizer.param_groups, parts, strict=True):
            compiled.descend(group, *part, factor, average.share(step))
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
    return all(states) and compiled.can_descend([*parameters, *gradients, *kept, *more])
