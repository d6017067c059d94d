"""Recurrent products with layer normalisation (Ba, Kiros & Hinton 2016), forward and backward by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.recurrence.product import EPSILON, Product, normalization_backward


class Normalization:
    """What a scan keeps of the normalised products of one recurrent matrix.

    Args:
        gain: `(outputs,)`.
        steps, batch: of the scan.
    """

    def __init__(self, gain: Tensor, steps: int, batch: int) -> None:
        self.gain = gain
        self.normal = gain.new_empty(steps, batch, len(gain))
        """The normalised vectors; behind the backward pass, the gradients of what was normalised."""
        self.scale = gain.new_empty(steps, batch, 1)
        self.into_gain = torch.zeros_like(gain)
        self.t = 0
        """The step that is computed."""


class NormalizedProduct(Product):
    """x ↦ gain ⊙ normalised(x Wᵀ)."""

    def __init__(self, weight: Tensor, rows: int, steps: int, half: bool, kept: Normalization) -> None:
        super().__init__(weight, rows, steps, half)
        self._kept = kept

    def __call__(self, x: Tensor) -> Tensor:
        kept, summed = self._kept, super().__call__(x)
        normal, _, scale = torch.native_layer_norm(summed, summed.shape[1:], None, None, EPSILON)
        kept.normal[kept.t], kept.scale[kept.t] = normal, scale
        return normal.mul_(kept.gain)

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        return self(x).add_(addend)


class NormalizedProductBackward(Product):
    """Its derivative with respect to x: from the gradient of a result to that of x, for W transposed."""

    def __init__(self, weight: Tensor, rows: int, steps: int, half: bool, kept: Normalization) -> None:
        super().__init__(weight, rows, steps, half)
        self._kept = kept

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(self._through(x))

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        return super().plus(self._through(x), addend)

    def _through(self, error: Tensor) -> Tensor:
        kept = self._kept
        normal = kept.normal[kept.t]
        kept.into_gain += (error * normal).sum(0)
        return normal.copy_(normalization_backward(error * kept.gain, normal, kept.scale[kept.t]))
