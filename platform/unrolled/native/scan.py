"""Bindings of `scan.c`: a whole scan in compiled code."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unrolled.native import build

if TYPE_CHECKING:
    from unrolled.recurrence.cell import Cell

KINDS = ("rnn", "irnn", "lstm", "gru", "reset")
"""Kinds of steps, in the order of scan.c."""
GROUP = 32
"""Units that a thread computes at a time, as in scan.c; in bfloat16 the hidden size must be a multiple."""


class _Scan(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *build.fields(ctypes.c_long, "cell", "gate_count"),
        ("blocks", ctypes.c_long * 3),
        *build.fields(ctypes.c_long, "z_gates_candidate", "threads", "steps", "batch", "size", "reverse"),
        *build.fields(ctypes.c_long, "errors_step", "errors_row", "count"),
        *build.fields(ctypes.c_void_p, "gates", "saved", "h", "c", "valid", "weights", "extra", "errors"),
        *build.fields(ctypes.c_void_p, "d_h", "d_c", "scratch"),
    )


def scan_supported(cell: Cell, *, bf16: bool) -> bool:
    """Whether a scan of this cell can run as compiled code: float32 on a CPU, with `bf16` products in bfloat16.

    A class must state its `native_kind` itself, because a subclass may have changed the step.
    """
    if cell.bias.dtype != torch.float32 or cell.bias.device.type != "cpu" or "native_kind" not in vars(type(cell)):
        return False
    if bf16 and cell.hidden_size % GROUP != 0:
        return False
    return build.amx_available() if bf16 else build.load() is not None


def run_scan(
    cell: Cell,
    gates: Tensor,
    states: list[Tensor],
    saved: list[Tensor],
    valid: Tensor | None,
    reverse: bool,
    grad_outputs: Tensor | None = None,
    gradient: tuple[Tensor, ...] = (),
) -> None:
    """Runs all steps of a scan, or with `grad_outputs` their derivative.

    Args:
        gates: projected inputs `(rows, num_gates · hidden)`, float32 or bfloat16; overwritten with what the derivative
            needs, and by the derivative with gradients.
        states: `(time + 1, batch, hidden)`; the first state is given, the others are filled.
        saved: `(rows, hidden)` in the type of the gates; filled, and by the derivative overwritten with gradients.
        valid: indices of the rows in `(time · batch)`, ascending; elsewhere the state is carried. `None`: all.
        grad_outputs: ∂L/∂outputs `(time, batch, hidden)`.
        gradient: ∂L/∂(last state); overwritten with that of the first.
    """
    library = build.load()
    assert library is not None
    steps, batch, extra = len(states[0]) - 1, states[0].shape[1], cell.native_parameter()
    if grad_outputs is not None and grad_outputs.stride(2) != 1:
        grad_outputs = grad_outputs.contiguous()
    scan = _Scan(
        cell=KINDS.index(cell.native_kind),
        gate_count=cell.num_gates,
        blocks=(ctypes.c_long * 3)(*cell.recurrent_blocks),
        z_gates_candidate=int(cell.z_gates_candidate),
        threads=torch.get_num_threads(),
        steps=steps,
        batch=batch,
        size=cell.hidden_size,
        reverse=int(reverse),
        errors_step=0 if grad_outputs is None else grad_outputs.stride(0),
        errors_row=0 if grad_outputs is None else grad_outputs.stride(1),
        count=len(gates),
        gates=gates.data_ptr(),
        saved=saved[0].data_ptr() if saved else None,
        h=states[0].data_ptr(),
        c=states[1].data_ptr() if len(states) > 1 else None,
        valid=None if valid is None else valid.data_ptr(),
        weights=cell.weight_hidden.data_ptr(),
        extra=None if extra is None else extra.data_ptr(),
        errors=None if grad_outputs is None else grad_outputs.data_ptr(),
        d_h=gradient[0].data_ptr() if gradient else None,
        d_c=gradient[1].data_ptr() if len(gradient) > 1 else None,
    )
    function = library.scan_bf16 if gates.dtype == torch.bfloat16 else library.scan_float
    backward = int(grad_outputs is not None)
    scratch = build.scratch(function(ctypes.byref(scan), backward))
    scan.scratch = scratch.data_ptr()
    function(ctypes.byref(scan), backward)
