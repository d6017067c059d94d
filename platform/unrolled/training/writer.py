"""Writes checkpoints while training goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from unrolled.training import checkpoint
from unrolled.training.checkpoint import Snapshot


class Writer:
    """One thread that writes one checkpoint after the other.

    Args:
        folder: the run's `checkpoints`.
        keep: newest checkpoints kept beside the best.
        background: whether `save` returns at once; else when the checkpoint stands.
    """

    def __init__(self, folder: Path, keep: int, *, background: bool) -> None:
        self._folder, self._keep, self._background = folder, keep, background
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, after the one before it.

        Raises:
            RunFailed: this one or the one before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(checkpoint.save, self._folder, snapshot, self._keep)
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Returns when all checkpoints stand.

        Raises:
            RunFailed: one could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
