"""The projected inputs of a scan, of which a part may be the same at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell
from unrolled.recurrence.product import linear, weight_gradient


def project_forward(cell: Cell, inputs: Tensor, constant: Tensor | None, gates: Tensor) -> tuple[Tensor, ...]:
    """`Cell.project_forward` of `[inputs; constant]`; the constant's share is a product a row, not a step.

    Args:
        inputs: `(time · batch, features)`.
        constant: `(batch, features)`, in the type of the inputs, of a cell that `projects_linearly`; `None`: none.
        gates: `(time, batch, gates · hidden)`; is filled.
    """
    flat = gates.flatten(0, 1)
    if constant is None:
        return cell.project_forward(inputs, flat)
    own, other = _parts(cell.weight_input, inputs)
    share = gates.new_empty(gates.shape[1:])
    linear(constant, other, cell.bias, share)
    linear(inputs, own, None, flat)
    gates += share
    return ()


def project_backward(
    cell: Cell, inputs: Tensor, constant: Tensor | None, kept: Sequence[Tensor], errors: Tensor, into: Tensor
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The derivative of `project_forward`.

    Args:
        errors: ∂L/∂gates, `(time, batch, gates · hidden)`.
        into: is filled with ∂L/∂inputs; may be the memory of the inputs.

    Returns:
        ∂L/∂constant, and the gradients of `input_parameters`.
    """
    flat = errors.flatten(0, 1)
    if constant is None:
        return None, cell.project_backward(inputs, kept, flat, into)
    own, other = _parts(cell.weight_input, inputs)
    summed, into_weight = errors.sum(0), torch.empty_like(cell.weight_input)
    for rows, operand, part in zip((flat, summed), (inputs, constant), _parts(into_weight, inputs), strict=True):
        weight_gradient(rows, operand, part)
    torch.mm(flat, own.to(flat.dtype), out=into)
    return summed @ other.to(summed.dtype), (into_weight, summed.sum(0).to(into_weight.dtype))


def _parts(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of inputs and constant."""
    features = inputs.shape[1]
    return weight[:, :features], weight[:, features:]
