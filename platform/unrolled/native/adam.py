"""Bindings of `adam.c`: a step of Adam and the norm of gradients."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.native import build

PIECE = 4096
"""Numbers that are worked on at a time, as in adam.c."""


_POINTERS: Any = ctypes.POINTER(ctypes.c_void_p)


class _Descent(ctypes.Structure):
    """`struct descent` of adam.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "threads", "count", "decoupled"),
        *build.fields(ctypes.c_double, "rate", "momentum", "second_momentum", "epsilon", "decay", "factor", "follow"),
        ("sizes", ctypes.POINTER(ctypes.c_long)),
        *build.fields(_POINTERS, "parameters", "gradients", "means", "squares", "steps", "averages"),
    )


def can_descend(tensors: Sequence[Tensor]) -> bool:
    """Whether compiled code knows such tensors: float32 on a CPU, all of them contiguous."""
    fit = (each.dtype == torch.float32 and each.device.type == "cpu" and each.is_contiguous() for each in tensors)
    return all(fit) and build.load() is not None


def descend(
    group: dict[str, Any],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    averages: Sequence[Tensor],
    factor: float,
    follow: float,
) -> None:
    """A step of `torch.optim.Adam` or `AdamW`, with tensors that `can_descend` allows.

    Args:
        group: what the optimizer holds for these parameters.
        states: likewise, of each of them.
        averages: of the parameters, or none.
        factor: how often the gradients count.
        follow: share of the way to the parameters after the step that the averages go.
    """
    functions = build.load()
    assert functions is not None
    kept = ([state[kind] for state in states] for kind in ("exp_avg", "exp_avg_sq", "step"))
    columns = (_pointers(column) for column in (parameters, gradients, *kept))
    first, second = group["betas"]
    given = _Descent(
        torch.get_num_threads(),
        len(parameters),
        group["decoupled_weight_decay"],
        *(group["lr"], first, second, group["eps"], group["weight_decay"], factor, follow),
        _sizes(parameters),
        *columns,
        _pointers(averages) if averages else None,
    )
    functions.descend(ctypes.byref(given))


def norm(tensors: Sequence[Tensor]) -> float:
    """The L2 norm of all numbers of tensors that `can_descend` allows; it does not depend on the threads."""
    functions = build.load()
    assert functions is not None
    most = max((each.numel() for each in tensors), default=0)
    scratch = build.scratch(8 * (most // PIECE + 1))
    shape = (ctypes.c_long(number) for number in (torch.get_num_threads(), len(tensors)))
    given = *shape, _sizes(tensors), _pointers(tensors), ctypes.c_void_p(scratch.data_ptr())
    return math.sqrt(functions.square_sum(*given))


def _sizes(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * len(tensors))(*(each.numel() for each in tensors))


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(each.data_ptr() for each in tensors))
