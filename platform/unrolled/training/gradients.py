"""All gradients of a model: summed over the workers, measured and clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.config import Clipping
from unrolled.training.comm import Comm

EPSILON = 1e-3
"""Least norm of a unit's weights that adaptive clipping measures its gradient by, so that zeros can leave zero."""


class Gradients:
    """The gradients of all parameters of a model.

    Args:
        model: its parameters must share a type and a device.
        extra: numbers that travel with them in the same all-reduce.
    """

    def __init__(self, model: nn.Module, extra: int) -> None:
        self._named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._extra = extra
        self._buffer: Tensor | None = None
        self._views: list[Tensor] = []

    def zero(self) -> None:
        """Starts the next sum. The backward pass then leaves its own memory, which costs no copy."""
        for parameter in self._named.values():
            parameter.grad = None

    def sum_over_workers(self, comm: Comm, numbers: Sequence[float | Tensor]) -> list[float]:
        """Adds up gradients and `numbers` over the workers; returns the numbers' sums."""
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if comm.size == 1:
            return [float(number) for number in numbers]
        if self._buffer is None:
            self._buffer = self._make_buffer(comm)
        torch._foreach_copy_(self._views, self.all())
        for parameter, view in zip(self._named.values(), self._views, strict=True):
            parameter.grad = view
        extra = self._buffer[-self._extra :]
        for place, number in enumerate(numbers):
            extra[place] = number
        comm.all_reduce(self._buffer)
        return [float(number) for number in extra]

    def _make_buffer(self, comm: Comm) -> Tensor:
        """One tensor for all gradients, so that workers exchange it in one piece."""
        sizes = [parameter.numel() for parameter in self._named.values()]
        buffer = comm.memory(sum(sizes) + self._extra, next(iter(self._named.values())).detach())
        pieces = torch.split(buffer[: sum(sizes)], sizes)
        self._views = [piece.view_as(value) for piece, value in zip(pieces, self._named.values(), strict=True)]
        return buffer

    def all(self) -> list[Tensor]:
        """The gradients, in the order of the parameters."""
        return [parameter.grad for parameter in self._named.values() if parameter.grad is not None]

    def scale(self, factor: float) -> None:
        """Multiplies all of them."""
        torch._foreach_mul_(self.all(), factor)

    def norm(self) -> float:
        """The global L2 norm."""
        return float(torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(self.all())))))

    def by_layer(self) -> dict[str, float]:
        """The L2 norm of every module's own gradients, by its path in the model."""
        squares: dict[str, float] = {}
        for name, parameter in self._named.items():
            assert parameter.grad is not None
            layer = name.rpartition(".")[0] or name
            squares[layer] = squares.get(layer, 0.0) + float(torch.linalg.vector_norm(parameter.grad)) ** 2
        return {layer: math.sqrt(square) for layer, square in squares.items()}

    def clip(self, config: Clipping, norm: float) -> bool:
        """Clips in place; returns whether that changed anything.

        - `norm`: above the threshold, rescaled to it (Pascanu et al. 2013);
        - `lecture`: where Σg² is above the threshold, g · threshold / Σg²;
        - `value`: every number into ±threshold (Mikolov 2012);
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
        measure = norm**2 if config.kind == "lecture" else norm
        above = config.kind != "none" and measure > threshold
        if above:
            self.scale(threshold / measure)
        return above

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
