"""All gradients of a model: summed over the workers, measured and clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.config import Clipping
from unrolled.recurrence import compiled
from unrolled.training.buckets import Buckets
from unrolled.training.comm import Comm

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
        self._buckets = Buckets(list(self._named.values()), extra, comm) if comm.size > 1 else None

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
        if compiled.can_descend(self.all()):
            return compiled.norm(self.all())
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
        - `lecture`: where Σg² is above the threshold, g · threshold / Σg²;
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
        measure = norm**2 if config.kind == "lecture" else norm
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
