"""How much memory a scan takes, measured on the process itself."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from measure import Figure
from unrolled.recurrence import CELLS, Cell, scan

SHAPE = (64, 500, 256, 256)
"""(batch, time, input, hidden): long enough that the fixed costs of a process are small beside it."""


def memory(quick: bool) -> Iterator[Figure]:
    """Peaks of a forward pass, and of both passes, against what a scan has to keep; and growth over many calls.

    Forward: inputs (in the order of time), states, gates and what else a derivative needs. Backward: besides, the
    gradients of inputs and parameters.
    """
    if not Path("/proc/self/clear_refs").exists():
        return
    batch, steps, size, hidden = (16, 200, 256, 256) if quick else SHAPE
    inputs = torch.randn(batch, steps, size, requires_grad=True)
    errors = torch.randn(batch, steps, hidden)
    for name in ("lstm", "gru", "mut1"):
        cell = CELLS[name](size, hidden)
        kept = size + hidden * (cell.num_states + cell.num_gates + cell.num_saved)
        weights = sum(parameter.numel() for parameter in cell.parameters())

        def clear(cell: torch.nn.Module = cell) -> None:
            inputs.grad = None
            cell.zero_grad(set_to_none=True)

        def forward(cell: Cell = cell) -> torch.Tensor:
            return scan(cell, inputs, engine="bptt")[0]

        def both() -> None:
            forward().backward(errors)

        both()
        peaks = {"forward": [peak(forward, clear) for _ in range(5)], "both": [peak(both, clear) for _ in range(5)]}
        # inputs.grad is a second copy of their gradient, in their own order
        bounds = {"forward": batch * steps * kept, "both": batch * steps * (kept + 2 * size) + 2 * weights}
        for passes, bound in bounds.items():
            values = [peak / (4 * bound) for peak in peaks[passes]]
            baseline = "what is kept" if passes == "forward" else "with gradients"
            yield _figure(f"recurrence/{name}/memory/{passes}", values, 1.10, baseline)
        before, grown = _resident(), []
        for _ in range(3):
            for _ in range(10):
                clear()
                both()
            grown.append(_resident() / before)
        yield _figure(f"recurrence/{name}/memory/growth", grown, 1.02, "first calls")


def _figure(name: str, values: list[float], goal: float, baseline: str) -> Figure:
    spread = (round(min(values), 3), round(max(values), 3))
    return Figure(name, round(statistics.median(values), 3), goal, "lower", baseline, len(values), spread)


def peak(work: Callable[[], object], clear: Callable[[], None]) -> int:
    """Bytes that the process grows by while `work` runs, `clear` before it."""
    clear()
    _give_back()
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # starts the peak anew
    result = work()
    peak = _status("VmHWM") - before
    del result
    return peak


def _resident() -> int:
    _give_back()
    return _status("VmRSS")


def _give_back() -> None:
    """Returns freed memory to the system, so that what is resident is what is used."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
