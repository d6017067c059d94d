"""Bindings of `scan.c`: a whole scan in compiled code."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unrolled.native import build

if TYPE_CHECKING:
    from unrolled.recurrence.cell import Cell


LOOPS = ("rnn", "irnn", "lstm", "gru", "reset")
"""The kinds of steps, in the order of scan.c."""
GROUP = 32
"""Units that a thread sees to at a time, as in scan.c; in bfloat16 the hidden size must be a multiple."""


class _Scan(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "cell", "gate_count"),
        ("products", ctypes.c_long * 3),
        *build.fields(ctypes.c_long, "writes", "threads", "steps", "batch", "size", "reverse"),
        *build.fields(ctypes.c_long, "errors_step", "errors_row", "count"),
        *build.fields(ctypes.c_void_p, "gates", "saved", "h", "c", "places", "weights", "extra", "errors"),
        *build.fields(ctypes.c_void_p, "d_h", "d_c", "scratch"),
    )


def applies(cell: Cell, *, half: bool) -> bool:
    """Whether a scan of this cell can run as compiled code: float32 on a CPU, and with `half` products of bfloat16.

    A class must name its loop itself: one that inherits may have changed the steps.
    """
    if cell.bias.dtype != torch.float32 or cell.bias.device.type != "cpu" or "native_kind" not in vars(type(cell)):
        return False
    if half and cell.hidden_size % GROUP != 0:
        return False
    return build.lent() if half else build.load() is not None


def run(
    cell: Cell,
    gates: Tensor,
    states: list[Tensor],
    saved: list[Tensor],
    places: Tensor | None,
    reverse: bool,
    errors: Tensor | None = None,
    gradient: tuple[Tensor, ...] = (),
) -> None:
    """All steps of a scan, or with `errors` its derivative.

    Args:
        gates: the projected inputs `(rows, gates · hidden)`, float32 or bfloat16; become what the derivative needs, and
            by it gradients.
        states: `(time + 1, batch, hidden)`; the first state is given, the others are filled.
        saved: `(rows, hidden)` in the type of the gates; filled, and by the derivative overwritten by gradients.
        places: where the rows stand in `(time · batch)`, rising; elsewhere the state is carried. `None`: everywhere.
        errors: ∂L/∂outputs `(time, batch, hidden)`.
        gradient: ∂L/∂(last state); becomes that of the first.
    """
    functions = build.load()
    assert functions is not None
    steps, batch, extra = len(states[0]) - 1, states[0].shape[1], cell.native_parameter()
    if errors is not None and errors.stride(2) != 1:
        errors = errors.contiguous()
    scan = _Scan(
        cell=LOOPS.index(cell.native_kind),
        gate_count=cell.num_gates,
        products=(ctypes.c_long * 3)(*cell.recurrent_blocks),
        writes=int(cell.z_gates_candidate),
        threads=torch.get_num_threads(),
        steps=steps,
        batch=batch,
        size=cell.hidden_size,
        reverse=int(reverse),
        errors_step=0 if errors is None else errors.stride(0),
        errors_row=0 if errors is None else errors.stride(1),
        count=len(gates),
        gates=gates.data_ptr(),
        saved=saved[0].data_ptr() if saved else None,
        h=states[0].data_ptr(),
        c=states[1].data_ptr() if len(states) > 1 else None,
        places=None if places is None else places.data_ptr(),
        weights=cell.weight_hidden.data_ptr(),
        extra=None if extra is None else extra.data_ptr(),
        errors=None if errors is None else errors.data_ptr(),
        d_h=gradient[0].data_ptr() if gradient else None,
        d_c=gradient[1].data_ptr() if len(gradient) > 1 else None,
    )
    function = functions.scan_half if gates.dtype == torch.bfloat16 else functions.scan_float
    back = int(errors is not None)
    scratch = build.scratch(function(ctypes.byref(scan), back))
    scan.scratch = scratch.data_ptr()
    function(ctypes.byref(scan), back)
