"""Ctrl-C and SIGTERM: end with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from unrolled.errors import RunFailed
from unrolled.files import writing
from unrolled.training.console import Console
from unrolled.training.run import KEPT, RunFolder


@contextmanager
def stopping(run: RunFolder, console: Console) -> Iterator[None]:
    """While open, the first signal asks the workers to end after their step; the second one interrupts at once.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    run.stop_file.unlink(missing_ok=True)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if run.stop_file.exists():
            raise KeyboardInterrupt
        with writing(run.stop_file, RunFailed, KEPT):
            run.stop_file.touch()
        console.say("stopping after this step, with a checkpoint (once more: stop at once)")

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        with suppress(OSError):  # where nothing can be written any more, why has been said
            run.stop_file.unlink(missing_ok=True)
