"""The projected inputs of a scan, of which a part may be the same at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell
from unrolled.recurrence.product import linear, weight_gradient


def project_forward(
    cell: Cell, inputs: Tensor, constant: Tensor | None, places: Tensor | None, gates: Tensor
) -> tuple[Tensor, ...]:
    """`Cell.project_forward` of `[inputs; constant]`; the constant's share is a product a row of the batch, not a step.

    Args:
        inputs: `(rows, features)`.
        constant: `(batch, features)`, in the type of the inputs, of a cell that `projects_linearly`; `None`: none.
        places: where the rows stand in `(time · batch)`; `None`: everywhere.
        gates: `(rows, gates · hidden)`; is filled.
    """
    if constant is None:
        return cell.project_forward(inputs, gates)
    own, other = _parts(cell.weight_input, inputs)
    share = gates.new_empty(len(constant), gates.shape[1])
    linear(constant, other, cell.bias, share)
    linear(inputs, own, None, gates)
    if places is None:
        gates.view(-1, *share.shape).add_(share)
    else:
        gates += share.index_select(0, places % len(share))
    return ()


def project_backward(
    cell: Cell,
    inputs: Tensor,
    constant: Tensor | None,
    places: Tensor | None,
    kept: Sequence[Tensor],
    errors: Tensor,
    into: Tensor,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The derivative of `project_forward`.

    Args:
        errors: ∂L/∂gates, `(rows, gates · hidden)`.
        into: is filled with ∂L/∂inputs; may be the memory of the inputs.

    Returns:
        ∂L/∂constant, and the gradients of `input_parameters`.
    """
    if constant is None:
        return None, cell.project_backward(inputs, kept, errors, into)
    own, other = _parts(cell.weight_input, inputs)
    if places is None:
        summed = errors.view(-1, len(constant), errors.shape[1]).sum(0)
    else:
        wide = torch.zeros(len(constant), errors.shape[1], dtype=cell.bias.dtype, device=errors.device)
        summed = wide.index_add_(0, places % len(constant), errors.to(wide.dtype)).to(errors.dtype)
    into_weight = torch.empty_like(cell.weight_input)
    for rows, operand, part in zip((errors, summed), (inputs, constant), _parts(into_weight, inputs), strict=True):
        weight_gradient(rows, operand, part)
    torch.mm(errors, own.to(errors.dtype), out=into)
    return summed @ other.to(summed.dtype), (into_weight, summed.sum(0).to(into_weight.dtype))


def _parts(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of inputs and constant."""
    features = inputs.shape[1]
    return weight[:, :features], weight[:, features:]
