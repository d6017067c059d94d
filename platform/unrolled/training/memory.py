"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache

TRIM, MAP = -1, -3
"""Numbers of `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` in glibc's malloc.h."""
LARGE = 32 * 2**20
"""The most that glibc takes for the second."""


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Has glibc keep what an update gives back for the next one, of the same sizes: else it returns large pieces to the
    system, which fills every page of them with zeros before it lends them again."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM, 2**31 - 1)
        library.mallopt(MAP, LARGE)
