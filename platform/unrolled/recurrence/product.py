"""The product with a recurrent matrix, which a scan repeats at every step."""

from __future__ import annotations

import torch
from torch import Tensor

WORTH_PACKING = (8, 2**18)
"""Steps and elements of the matrix from which on packing it once costs less than it saves."""


class Product:
    """x ↦ x Wᵀ for a matrix that many steps share.

    Where oneDNN runs the product, the matrix is packed into its blocks once; a BLAS would do that again at every
    step, which for a batch of 32 rows costs as much as the product itself.

    Args:
        weight: `(outputs, inputs)`.
        rows: of every x, the batch.
        steps: how often the product will be taken.
    """

    def __init__(self, weight: Tensor, rows: int, steps: int) -> None:
        self._transposed = weight.t()
        self._packed: Tensor | None = None
        if steps >= WORTH_PACKING[0] and weight.numel() >= WORTH_PACKING[1] and _by_onednn(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: Tensor) -> Tensor:
        """`(rows, inputs)` → `(rows, outputs)`."""
        if self._packed is None:
            return x @ self._transposed
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        """Returns `addend` `(rows, outputs)` + x Wᵀ."""
        if self._packed is None:
            return torch.addmm(addend, x, self._transposed)
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, addend, self._packed, None, "add")
        return y


def _by_onednn(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch._C._has_mkldnn
