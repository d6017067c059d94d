"""Matrix products of a scan: those repeated at every step, and the large ones outside of the loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORTH_PACKING = (8, 2**18)
"""Steps, and elements of the matrix, beyond which packing it once costs less than it saves."""


class PackedLinear:
    """x ↦ x Wᵀ for a matrix that many steps share.

    Where oneDNN runs the product, the matrix is packed into its blocks once; a BLAS would do that again at every
    step, which for a batch of 32 rows costs as much as the product itself. A float32 matrix that is given turned lies
    as a BLAS wants it, and to turn it for packing would cost more than that saves.

    Args:
        weight: `(outputs, inputs)`.
        rows: of every x, the batch.
        steps: how often the product will be taken.
        half: multiply in bfloat16. Sums stay in float32, and so do x and the result.
    """

    def __init__(self, weight: Tensor, rows: int, steps: int, half: bool = False) -> None:
        self._output = weight.new_empty(rows, len(weight))
        self._rounded = weight.new_empty(rows, weight.shape[1], dtype=torch.bfloat16) if half else None
        weight = weight.bfloat16() if half else weight
        self._transposed = weight.t()
        turned = weight.stride(0) == 1 < len(weight)
        large = half or (weight.numel() > WORTH_PACKING[1] and not turned)
        self._packed: Tensor | None = None
        if steps >= WORTH_PACKING[0] and large and _by_onednn(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: Tensor) -> Tensor:
        """`(rows, inputs)` → `(rows, outputs)`; the next call may overwrite it."""
        if self._rounded is not None:
            return self._output.copy_(self._multiply(self._rounded.copy_(x)))
        if self._packed is None:
            return torch.mm(x, self._transposed, out=self._output)
        return self._multiply(x)

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        """Returns `addend` `(rows, outputs)` + x Wᵀ; the next call may overwrite it."""
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
    """Whether the device has units for matrices of bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """What to multiply a parameter in: its own type, or the narrower one that autocast asks for."""
    device = weight.device.type
    narrow = torch.is_autocast_enabled(device) and weight.dtype == torch.float32
    return torch.get_autocast_dtype(device) if narrow else weight.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, into: Tensor) -> None:
    """Fills `into` `(rows, outputs)` with x Wᵀ + b, multiplied in the type of x, which may be narrower than W's."""
    weight = weight.to(x.dtype).t()
    torch.mm(x, weight, out=into) if bias is None else torch.addmm(bias.to(x.dtype), x, weight, out=into)


def weight_gradient(errors: Tensor, operand: Tensor, into: Tensor) -> None:
    """Fills `into` `(outputs, inputs)` with Σ errorᵀ operand over the rows of both, multiplied in the type of the
    errors, which may be narrower."""
    if errors.dtype == into.dtype:
        torch.mm(errors.t(), operand, out=into)
    else:
        # Turned by hand and the smaller side: oneDNN takes up to twice as long for a product with a turned left side.
        turned = operand.to(errors.dtype).t().contiguous()
        into.copy_((turned @ errors).t().contiguous())


def weight_gradients(pairs: Sequence[tuple[Tensor, Tensor]], kind: torch.dtype, into: Tensor) -> None:
    """`weight_gradient` of errors and operands for one block of rows after the other, multiplied in the type `kind`."""
    row = 0
    for errors, operand in pairs:
        weight_gradient(errors.to(kind), operand, into[row : row + errors.shape[1]])
        row += errors.shape[1]
