"""Matrix products of a scan: those repeated at every step, and the large ones outside the loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PACKING_MIN_STEPS, PACKING_MIN_ELEMENTS = 8, 2**18
"""Steps, and elements of a float32 matrix, from which packing it once costs less than it saves."""


class PackedLinear:
    """x ↦ x Wᵀ for a matrix that is used at many steps.

    Where oneDNN computes the product, the matrix is packed into its blocks once; a BLAS would do that at every step,
    which for a batch of 32 rows costs as much as the product itself. A float32 matrix that is given transposed already
    has the layout that a BLAS prefers; transposing it for packing would cost more than packing saves.

    Args:
        weight: `(outputs, inputs)`.
        rows: batch size of every x.
        steps: number of products to expect.
        bf16: multiply in bfloat16. Sums, x and the result stay in float32.
    """

    def __init__(self, weight: Tensor, rows: int, steps: int, bf16: bool = False) -> None:
        self._output = weight.new_empty(rows, len(weight))
        self._rounded = weight.new_empty(rows, weight.shape[1], dtype=torch.bfloat16) if bf16 else None
        weight = weight.bfloat16() if bf16 else weight
        self._transposed = weight.t()
        given_transposed = weight.stride(0) == 1 < len(weight)
        large = bf16 or (weight.numel() > PACKING_MIN_ELEMENTS and not given_transposed)
        self._packed: Tensor | None = None
        if steps >= PACKING_MIN_STEPS and large and _by_onednn(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: Tensor) -> Tensor:
        """`(rows, inputs)` → `(rows, outputs)`; the next call may overwrite it."""
        if self._rounded is not None:
            return self._output.copy_(self._multiply(self._rounded.copy_(x)))
        if self._packed is None:
            return torch.mm(x, self._transposed, out=self._output)
        return self._multiply(x)

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        """Returns x Wᵀ + `addend` `(rows, outputs)`; the next call may overwrite it."""
        if self._rounded is not None:
            return torch.add(addend, self._multiply(self._rounded.copy_(x)))
        if self._packed is None:
            return torch.addmm(addend, x, self._transposed, out=self._output)
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, addend, self._packed, None, "add")
        return y

    def _multiply(self, x: Tensor) -> Tensor:
        if self._packed is None:
            return x @ self._transposed
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y


def _by_onednn(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def has_bfloat16_matmul(device: torch.device) -> bool:
    """Whether the device has matrix units for bfloat16.

    The vector instructions of other CPUs (AVX-512 BF16) do not count: updates are slower by them than in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """Type to multiply a parameter in: its own, or the narrower one that autocast asks for."""
    device = weight.device.type
    autocast = torch.is_autocast_enabled(device) and weight.dtype == torch.float32
    return torch.get_autocast_dtype(device) if autocast else weight.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Fills `out` `(rows, outputs)` with x Wᵀ + b, multiplied in the type of x, which may be narrower than W's."""
    weight = weight.to(x.dtype).t()
    torch.mm(x, weight, out=out) if bias is None else torch.addmm(bias.to(x.dtype), x, weight, out=out)


def weight_gradient(grad_outputs: Tensor, operand: Tensor, out: Tensor) -> None:
    """Fills `out` `(outputs, inputs)` with Σ gradᵀ operand over the rows of both, multiplied in the type of
    `grad_outputs`, which may be narrower."""
    if grad_outputs.dtype == out.dtype:
        torch.mm(grad_outputs.t(), operand, out=out)
    else:
        # The smaller side is transposed here: oneDNN takes up to twice as long for a transposed left side.
        transposed = operand.to(grad_outputs.dtype).t().contiguous()
        out.copy_((transposed @ grad_outputs).t().contiguous())


def linear_backward(x: Tensor, grad_out: Tensor, weight: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative of `linear`; fills `grad_x`, which may be the memory of x.

    Returns:
        The gradients of weight and bias, in the type of the weight.
    """
    grad_weight, grad_bias = torch.empty_like(weight), grad_out.sum(0).to(weight.dtype)
    weight_gradient(grad_out, x, grad_weight)
    torch.mm(grad_out, weight.to(grad_out.dtype), out=grad_x)
    return grad_weight, grad_bias


def weight_gradients(operands: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype, out: Tensor) -> None:
    """`weight_gradient` of `(grad_outputs, operand)` for successive blocks of rows, multiplied in `dtype`."""
    row = 0
    for grad_outputs, operand in operands:
        weight_gradient(grad_outputs.to(dtype), operand, out[row : row + grad_outputs.shape[1]])
        row += grad_outputs.shape[1]
