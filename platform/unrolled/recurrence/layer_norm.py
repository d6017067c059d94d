"""Layer normalisation of a cell's products (Ba, Kiros & Hinton 2016), with hand-written backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence.matmul import PackedLinear, linear, linear_backward

EPSILON = 1e-5
"""Added to the variance, as in torch."""


def layer_normalize(y: Tensor, gain: Tensor) -> Tensor:
    """gain ⊙ (y − mean(y)) / √(var(y) + ε) over the last dimension."""
    centred = y - y.mean(-1, keepdim=True)
    return gain * centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPSILON)


def layer_normalize_backward(grad: Tensor, normalized: Tensor, scale: Tensor) -> Tensor:
    """∂L/∂y for n = (y − mean(y)) · s with s = 1 / √(var(y) + ε), row by row.

    s (e − mean(e) − n mean(e ⊙ n)) for e = ∂L/∂n: e without its components along 1 and n, because neither a constant
    added to y nor a scaling of y changes n.

    Args:
        grad: e, `(rows, features)`.
        normalized: n.
        scale: s, `(rows, 1)`.
    """
    along = (grad * normalized).mean(1, keepdim=True)
    return (grad - grad.mean(1, keepdim=True)).sub_(normalized * along).mul_(scale)


def normalized_affine(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Fills `out` `(rows, outputs)` with gain ⊙ normalised(W x) + b.

    Returns:
        Tensors for the derivative: the normalised product and its scale.
    """
    linear(x, weight, None, out)
    normalized, _, scale = torch.native_layer_norm(out, out.shape[1:], None, None, EPSILON)
    torch.addcmul(bias.to(out.dtype), normalized, gain.to(out.dtype), out=out)
    return normalized, scale


def normalized_affine_backward(
    x: Tensor, saved: Sequence[Tensor], grad_out: Tensor, weight: Tensor, gain: Tensor, grad_x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of `normalized_affine`.

    Args:
        saved: its result.
        grad_x: is filled with ∂L/∂x; may be the memory of x.

    Returns:
        The gradients of weight, bias and gain, in the type of the weight.
    """
    normalized, scale = saved
    grad_gain = (grad_out * normalized).sum(0).to(weight.dtype)
    grad_product = layer_normalize_backward(grad_out * gain.to(grad_out.dtype), normalized, scale).to(grad_out.dtype)
    grad_weight, _ = linear_backward(x, grad_product, weight, grad_x)
    return grad_weight, grad_out.sum(0).to(weight.dtype), grad_gain


class NormalizationBuffers:
    """Memory of the normalised products with one block of recurrent weights over a scan.

    Args:
        gain: `(outputs,)`.
        steps, batch: of the scan.

    Attributes:
        normalized: normalised products `(steps, batch, outputs)`; after the backward pass, the gradients of the
            products before normalisation.
        t: current step.
    """

    def __init__(self, gain: Tensor, steps: int, batch: int) -> None:
        self.gain = gain
        self.normalized = gain.new_empty(steps, batch, len(gain))
        self.scale = gain.new_empty(steps, batch, 1)
        self.grad_gain = torch.zeros_like(gain)
        self.t = 0


class _Normalized(PackedLinear):
    def __init__(self, weight: Tensor, rows: int, steps: int, bf16: bool, buffers: NormalizationBuffers) -> None:
        super().__init__(weight, rows, steps, bf16)
        self._buffers = buffers


class NormalizedLinear(_Normalized):
    """x ↦ gain ⊙ normalised(x Wᵀ)."""

    def __call__(self, x: Tensor) -> Tensor:
        buffers, product = self._buffers, super().__call__(x)
        normalized, _, scale = torch.native_layer_norm(product, product.shape[1:], None, None, EPSILON)
        buffers.normalized[buffers.t], buffers.scale[buffers.t] = normalized, scale
        return normalized.mul_(buffers.gain)

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        return self(x).add_(addend)


class NormalizedLinearBackward(_Normalized):
    """Derivative of `NormalizedLinear` with respect to x, for the transposed W: gradient of the result → of x."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(self._through_normalization(x))

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        return super().plus(self._through_normalization(x), addend)

    def _through_normalization(self, grad: Tensor) -> Tensor:
        buffers = self._buffers
        normalized = buffers.normalized[buffers.t]
        buffers.grad_gain += (grad * normalized).sum(0)
        scale = buffers.scale[buffers.t]
        return normalized.copy_(layer_normalize_backward(grad * buffers.gain, normalized, scale))
