"""A whole scan as compiled code on CPUs, where there is a C compiler.

torch takes a pass over the memory for every operation of a step, and its matrix products begin anew at every step. The
C files beside this one keep each thread's part of the recurrent matrices packed, and compute what is element by element
while it is at hand. They are compiled for this processor when they are first needed, which takes a few seconds, and
kept in the cache folder. Without a compiler nothing is lost but speed: the cells' own steps do the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unrolled.cache import made_once

if TYPE_CHECKING:
    from unrolled.recurrence.cell import Cell

FOLDER = Path(__file__).parent
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
)
LOOPS = ("rnn", "irnn", "lstm", "gru", "reset")
"""The kinds of steps, in the order of scan.c."""
GROUP = 32
"""Units that a thread sees to at a time, as in scan.c; in bfloat16 the hidden size must be a multiple."""


class _Scan(ctypes.Structure):
    """`struct scan` of scan.c."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("cell", "gate_count")),
        ("products", ctypes.c_long * 3),
        *(
            (name, ctypes.c_long)
            for name in ("writes", "threads", "steps", "batch", "size", "reverse", "errors_step", "errors_row")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in ("gates", "saved", "h", "c", "mask", "weights", "extra", "errors", "d_h", "d_c", "scratch")
        ),
    )


def applies(cell: Cell, *, half: bool) -> bool:
    """Whether a scan of this cell can run as compiled code: float32 on a CPU, and with `half` products of bfloat16.

    A class must name its loop itself: one that inherits may have changed the steps.
    """
    if cell.bias.dtype != torch.float32 or cell.bias.device.type != "cpu" or "loop" not in vars(type(cell)):
        return False
    library = _library()
    return library is not None and (not half or (cell.hidden_size % GROUP == 0 and _lent()))


def forward(
    cell: Cell, gates: Tensor, states: list[Tensor], saved: list[Tensor], mask: Tensor | None, reverse: bool
) -> None:
    """All steps of a scan.

    Args:
        gates: the projected inputs `(time, batch, gates · hidden)`, float32 or bfloat16; become what `backward` needs.
        states: `(time + 1, batch, hidden)`; the first state is given, the others are filled.
        saved: `(time, batch, hidden)` in the type of the gates, is filled.
        mask: `(time, batch)`, bool.
    """
    _run(cell, gates, states, saved, mask, reverse)


def backward(
    cell: Cell,
    gates: Tensor,
    states: list[Tensor],
    saved: list[Tensor],
    mask: Tensor | None,
    reverse: bool,
    errors: Tensor,
    gradient: tuple[Tensor, ...],
) -> None:
    """The derivative of `forward`: `gates` and `saved` become gradients.

    Args:
        errors: ∂L/∂outputs `(time, batch, hidden)`.
        gradient: ∂L/∂(last state); becomes that of the first.
    """
    _run(cell, gates, states, saved, mask, reverse, errors if errors.stride(2) == 1 else errors.contiguous(), gradient)


def _run(
    cell: Cell,
    gates: Tensor,
    states: list[Tensor],
    saved: list[Tensor],
    mask: Tensor | None,
    reverse: bool,
    errors: Tensor | None = None,
    gradient: tuple[Tensor, ...] = (),
) -> None:
    library = _library()
    assert library is not None
    steps, batch, _ = gates.shape
    extra, mask = cell.loop_parameters(), None if mask is None else mask.contiguous()
    scan = _Scan(
        cell=LOOPS.index(cell.loop),
        gate_count=cell.gates,
        products=(ctypes.c_long * 3)(*cell.products),
        writes=int(cell.writes),
        threads=torch.get_num_threads(),
        steps=steps,
        batch=batch,
        size=cell.hidden_size,
        reverse=int(reverse),
        errors_step=0 if errors is None else errors.stride(0),
        errors_row=0 if errors is None else errors.stride(1),
        gates=gates.data_ptr(),
        saved=saved[0].data_ptr() if saved else None,
        h=states[0].data_ptr(),
        c=states[1].data_ptr() if len(states) > 1 else None,
        mask=None if mask is None else mask.data_ptr(),
        weights=cell.weight_hidden.data_ptr(),
        extra=None if extra is None else extra.data_ptr(),
        errors=None if errors is None else errors.data_ptr(),
        d_h=gradient[0].data_ptr() if gradient else None,
        d_c=gradient[1].data_ptr() if len(gradient) > 1 else None,
    )
    run = library.scan_half if gates.dtype == torch.bfloat16 else library.scan_float
    back = int(errors is not None)
    scratch = _scratch(run(ctypes.byref(scan), back))
    scan.scratch = scratch.data_ptr()
    run(ctypes.byref(scan), back)


_kept = threading.local()


def _scratch(size: int) -> Tensor:
    """`size` bytes to work in, the same ones again in each thread: new memory costs as much as a step."""
    scratch: Tensor | None = getattr(_kept, "scratch", None)
    if scratch is None or len(scratch) < size:
        scratch = _kept.scratch = torch.empty(size, dtype=torch.uint8)
    return scratch


@lru_cache(maxsize=1)
def _lent() -> bool:
    library = _library()
    return library is not None and bool(library.may_scan_half())


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() != "Linux":
        return None
    sources = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]"))]
    digest = hashlib.sha256("\n".join([*sources, compiler, *FLAGS, _processor()]).encode())
    try:
        folder = made_once(f"scan-{digest.hexdigest()[:20]}", lambda folder: _compile(compiler, folder))
        library = ctypes.CDLL(str(folder / "scan.so"))
    except (OSError, subprocess.SubprocessError):
        return None
    for function in (library.scan_float, library.scan_half):
        function.argtypes, function.restype = [ctypes.POINTER(_Scan), ctypes.c_int], ctypes.c_long
    return library


def _compile(compiler: str, folder: Path) -> None:
    for words in (
        [*FLAGS, "-c", str(FOLDER / "scan.c"), "-o", str(folder / "scan.o")],
        # Without -fopenmp the library takes the threads that torch has loaded, not a second set.
        ["-shared", str(folder / "scan.o"), "-o", str(folder / "scan.so")],
    ):
        subprocess.run([compiler, *words], check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """What decides which instructions may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model name")))
