"""Layer normalisation of recurrent products (Ba, Kiros & Hinton 2016).

Matrix products of a scan: those that every step repeats, and the large ones over all steps.

Recurrent products with layer normalisation (Ba, Kiros & Hinton 2016), forward and backward by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence.matmul import PackedLinear, linear, weight_gradient


def affine(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, into: Tensor) -> tuple[Tensor, ...]:
    """Fills `into` `(rows, outputs)` with W x + b, or with gain ⊙ normalised(W x) + b.

    Returns:
        What the derivative needs: of the normalisation, its result and what it divided by.
    """
    if gain is None:
        linear(x, weight, bias, into)
        return ()
    linear(x, weight, None, into)
    normal, _, scale = torch.native_layer_norm(into, into.shape[1:], None, None, EPSILON)
    torch.addcmul(bias.to(into.dtype), normal, gain.to(into.dtype), out=into)
    return normal, scale


def affine_backward(
    x: Tensor, kept: Sequence[Tensor], errors: Tensor, weight: Tensor, gain: Tensor | None, into: Tensor
) -> tuple[Tensor, ...]:
    """The derivative of `weigh`.

    Args:
        into: is filled with ∂L/∂x; may be the memory of x.

    Returns:
        The gradients of weight, bias and gain, in the type of the weight.
    """
    into_weight, gradients = torch.empty_like(weight), [errors.sum(0).to(weight.dtype)]
    if gain is not None:
        normal, scale = kept
        gradients.append((errors * normal).sum(0).to(weight.dtype))
        errors = normalization_backward(errors * gain.to(errors.dtype), normal, scale).to(errors.dtype)
    weight_gradient(errors, x, into_weight)
    torch.mm(errors, weight.to(errors.dtype), out=into)
    return into_weight, *gradients


EPSILON = 1e-5
"""Is added to the variance by layer normalisation, as torch does."""


def normalized(y: Tensor, gain: Tensor) -> Tensor:
    """gain ⊙ (y − mean(y)) / √(var(y) + ε) over the last dimension."""
    centred = y - y.mean(-1, keepdim=True)
    return gain * centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPSILON)


def normalization_backward(error: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """∂L/∂y for n = (y − mean(y)) · s with s = 1 / √(var(y) + ε), row by row.

    s (e − mean(e) − n mean(e ⊙ n)) for e = ∂L/∂n: what is left of e when its parts along 1 and n are taken out, as
    neither adding to y nor stretching it changes n.

    Args:
        error: `(rows, features)`.
        normal: n.
        scale: s, `(rows, 1)`.
    """
    along = (error * normal).mean(1, keepdim=True)
    return (error - error.mean(1, keepdim=True)).sub_(normal * along).mul_(scale)


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


class NormalizedProduct(PackedLinear):
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


class NormalizedProductBackward(PackedLinear):
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
