"""Compilation and loading of the C files of this folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from unrolled.errors import UserError
from unrolled.files import build_cached

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
ON_X86 = ("-mprefer-vector-width=512",)


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The compiled functions, made for this processor when they are first needed; `None` where they cannot be made."""
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
    library.scan_float.restype = library.scan_half.restype = ctypes.c_long
    library.square_sum.restype = ctypes.c_double
    library.rank_pack.restype = library.rank_rows.restype = ctypes.c_long
    return library


def _compile(command: list[str], folder: Path) -> None:
    objects = [str(folder / f"{path.stem}.o") for path in sorted(FOLDER.glob("*.c"))]
    for path, made in zip(sorted(FOLDER.glob("*.c")), objects, strict=True):
        _run([*command, "-c", str(path), "-o", made])
    # Without -fopenmp the library takes the threads that torch has loaded, not a second set.
    _run([command[0], "-shared", *objects, "-o", str(folder / "compiled.so")])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _processor() -> str:
    """What decides which instructions may be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model name")))


@lru_cache(maxsize=1)
def lent() -> bool:
    """Whether the CPU has a matrix unit for bfloat16 that the library uses and the system lets this process have."""
    library = load()
    return library is not None and bool(library.may_scan_half())


def fields(kind: type, *names: str) -> Iterator[tuple[str, type]]:
    """Fields of one type for a `ctypes.Structure`."""
    return ((name, kind) for name in names)


_kept = threading.local()


def scratch(size: int) -> Tensor:
    """`size` bytes to work in, the same ones again in each thread: new memory costs as much as a step."""
    bytes_: Tensor | None = getattr(_kept, "scratch", None)
    if bytes_ is None or len(bytes_) < size:
        bytes_ = _kept.scratch = torch.empty(size, dtype=torch.uint8)
    return bytes_
