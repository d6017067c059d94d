"""The element-wise parts of the steps as compiled functions, where there is a C compiler.

torch takes a pass over the memory for every operation, and on a few threads those passes cost as much as the matrix
products between them. `kernels.c` holds the same operations in one pass. It is compiled for this processor when it is
first needed, which takes a second or two, and kept in the cache folder. Without a compiler nothing is lost but speed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from unrolled.cache import made_once

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
NAMES = {
    "rnn_forward": 3,
    "rnn_backward": 3,
    "irnn_forward": 3,
    "irnn_backward": 3,
    "lstm_forward": 6,
    "lstm_backward": 6,
    "gru_forward": 6,
    "gru_backward": 6,
    "reset_gates": 6,
    "reset_mix": 5,
    "reset_mix_backward": 5,
    "reset_gates_backward": 4,
}
"""How many arguments each function takes behind threads, batch and hidden size."""


def apply(tensor: Tensor) -> bool:
    """Whether the functions can work on tensors such as this one."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and _library() is not None


def run(name: str, state: Tensor, *arguments: Tensor | int | None) -> None:
    """Calls a function of `kernels.c`.

    Args:
        state: `(batch, hidden)`, gives the shape.
        arguments: contiguous tensors, or the first block of gates, for their rows; numbers; `None` for a null pointer.
    """
    library = _library()
    assert library is not None
    batch, size = state.shape
    places = (argument.data_ptr() if isinstance(argument, Tensor) else argument or 0 for argument in arguments)
    getattr(library, name)(torch.get_num_threads(), batch, size, *places)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() != "Linux":
        return None
    digest = hashlib.sha256("\n".join([SOURCE.read_text(), compiler, *FLAGS, _processor()]).encode())
    try:
        folder = made_once(f"kernels-{digest.hexdigest()[:20]}", lambda folder: _compile(compiler, folder))
        library = ctypes.CDLL(str(folder / "kernels.so"))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, count in NAMES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_long] * 3 + [ctypes.c_void_p] * count, None
    return library


def _compile(compiler: str, folder: Path) -> None:
    target = folder / "kernels.so"
    for words in (
        [*FLAGS, "-c", str(SOURCE), "-o", str(folder / "kernels.o")],
        # Without -fopenmp the library takes the threads that torch has loaded, not a second set.
        ["-shared", str(folder / "kernels.o"), "-o", str(target)],
    ):
        subprocess.run([compiler, *words], check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """What decides which instructions may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model name")))
