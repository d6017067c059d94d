"""All gradients of a model in one flat buffer: summed over the workers, measured and clipped in one piece."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.config import Clipping
from unrolled.training.comm import Comm


class GradientBuffer:
    """Makes every parameter's `.grad` a view of one tensor, so that the backward pass writes into it.

    Args:
        model: its parameters must share a type and a device.
        extra: places behind the gradients for numbers that travel with them in the same all-reduce.
    """

    def __init__(self, model: nn.Module, extra: int) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        total = sum(parameter.numel() for parameter in parameters)
        self._buffer = parameters[0].new_zeros(total + extra)
        self.flat, self.extra = self._buffer[:total], self._buffer[total:]
        start = 0
        for parameter in parameters:
            parameter.grad = self.flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def zero(self) -> None:
        """Starts the next sum."""
        self._buffer.zero_()

    def sum_over_workers(self, comm: Comm, numbers: Sequence[float | Tensor]) -> list[float]:
        """Adds up gradients and `numbers` over the workers; returns the numbers' sums."""
        for place, number in enumerate(numbers):
            self.extra[place] = number
        comm.all_reduce(self._buffer)
        return [float(number) for number in self.extra]

    def clip(self, config: Clipping) -> tuple[float, bool]:
        """Clips in place (Pascanu et al. 2013: rescale to the threshold where the norm is above it).

        Returns:
            The global L2 norm before clipping, and whether it was above the threshold.
        """
        norm = float(torch.linalg.vector_norm(self.flat))
        above = config.kind == "norm" and norm > config.threshold
        if above:
            self.flat.mul_(config.threshold / norm)
        return norm, above
