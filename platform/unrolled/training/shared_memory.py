"""Sums over workers on one machine: each reads the others' numbers where they lie, so none travel."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PIECE = 2**15
"""Numbers that are summed at a time: few enough that they stay in a core's cache."""


class Segments:
    """A tensor of every worker, in memory that all of them see.

    Attributes:
        own: this worker's tensor, `(count,)`.
    """

    def __init__(self, memory: mmap.mmap, rank: int, size: int, dtype: torch.dtype, barrier: Callable[[], Any]) -> None:
        self._all = torch.frombuffer(memory, dtype=dtype).view(size, -1)
        self._rank, self._barrier = rank, barrier
        self.own = self._all[rank]

    def all_reduce(self) -> None:
        """Replaces the tensors of all workers by their sum, the same to the last bit in each.

        Every worker sums its own share of the places over all tensors, in the order of ranks, and writes it to all.
        """
        self._barrier()  # all have written theirs
        size, count = self._all.shape
        low, high = (count * (self._rank + edge) // size for edge in (0, 1))
        for start in range(low, high, PIECE):
            first, *others = self._all[:, start : min(start + PIECE, high)]
            for other in others:
                first += other
            for other in others:
                other.copy_(first)
        self._barrier()


def share(
    count: int, dtype: torch.dtype, rank: int, size: int, gather: Callable[[Any], list[Any]], barrier: Callable[[], Any]
) -> Segments | None:
    """Makes a tensor of `count` numbers for every worker; `None`, for all of them, where they do not share a machine or
    it has not got so much memory.

    The memory is a file without a place in any folder, which the others open through the first worker's `/proc` entry:
    whoever is killed at whatever moment, it goes with the last process that has it open.
    """
    length = size * count * dtype.itemsize
    made = gather(_make(length) if rank == 0 else None)[0]
    memory = None if made is None else _open(made, length)
    everywhere = all(gather(memory is not None))
    if rank == 0 and made is not None:
        os.close(made[0])  # what is mapped stays
    return Segments(memory, rank, size, dtype, barrier) if everywhere and memory is not None else None


def _make(length: int) -> tuple[int, Path, Path] | None:
    """Returns the file, where others find it, and what they find there."""
    try:
        file = os.memfd_create(f"unrolled-{secrets.token_hex(16)}")
    except (AttributeError, OSError):  # not every system has such files
        return None
    place = Path(f"/proc/{os.getpid()}/fd/{file}")
    try:
        os.posix_fallocate(file, 0, length)  # or the first write beyond what is free would be fatal
        return file, place, place.readlink()
    except OSError:
        os.close(file)
        return None


def _open(made: tuple[int, Path, Path], length: int) -> mmap.mmap | None:
    _, place, name = made
    try:
        if place.readlink() != name:  # on this machine, another process has that number
            return None
        with place.open("r+b") as file:
            return mmap.mmap(file.fileno(), length)
    except OSError:
        return None
