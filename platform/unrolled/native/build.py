"""Compilation of the C files of this folder, and access to the compiled library."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from unrolled.errors import UserError
from unrolled.files import build_cached

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
ON_X86 = ("-mprefer-vector-width=512",)


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """Returns the library, compiled for this processor on first use; `None` if it cannot be compiled."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() != "Linux":
        return None
    command = [compiler, *FLAGS, *(ON_X86 if platform.machine() == "x86_64" else ())]
    sources = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]"))]
    digest = hashlib.sha256("\n".join([*sources, *command, _processor()]).encode())
    try:
        folder = build_cached(f"compiled-{digest.hexdigest()[:20]}", lambda folder: _compile(command, folder))
        library = ctypes.CDLL(str(folder / "compiled.so"))
    except (UserError, OSError, subprocess.SubprocessError):
        return None
    library.scan_float.restype = library.scan_bf16.restype = ctypes.c_long
    library.rank_pack.restype = library.rank_rows.restype = ctypes.c_long
    return library


def cost_without() -> list[str]:
    """Returns what is shown at the start of a run on CPUs without the library: the cost as measured by
    `jobs/benchmark.py kernels`. Nothing if the library is there."""
    if load() is not None:
        return []
    return ["kernels  none: no C compiler on Linux, as gcc; an update takes up to 2 times as long, a search up to 3"]


def _compile(command: list[str], folder: Path) -> None:
    objects = [str(folder / f"{path.stem}.o") for path in sorted(FOLDER.glob("*.c"))]
    for path, made in zip(sorted(FOLDER.glob("*.c")), objects, strict=True):
        _run([*command, "-c", str(path), "-o", made])
    # Without -fopenmp the library uses the OpenMP runtime that torch has loaded, not a second one.
    _run([command[0], "-shared", *objects, "-o", str(folder / "compiled.so")])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """Identifies the processor, which decides the instructions that may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model name")))


@lru_cache(maxsize=1)
def amx_available() -> bool:
    """Whether the CPU has a matrix unit for bfloat16 (AMX) and the system lets this process use it."""
    library = load()
    return library is not None and bool(library.amx_available())
