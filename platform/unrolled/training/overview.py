"""The list of runs in a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from unrolled.config_file import resolve_storage
from unrolled.errors import UserError
from unrolled.training import checkpoint
from unrolled.training.console import duration, written
from unrolled.training.run import RunFolder

ROW = "{:<24} {:<14} {:>9} {:>8}  {:<22} {}"
RECENT_SECONDS = 180
"""A run whose metrics or log grew in this time is taken to be training."""


def overview(storage: str | Path) -> Iterator[str]:
    """Yields a heading and a line a run: name, state, steps, time, best score, last change.

    Raises:
        UserError: there is no such folder.
    """
    folder = resolve_storage(storage)
    if not folder.is_dir():
        raise UserError(f"{storage}: there is no such folder of runs.")
    yield ROW.format("RUN", "STATE", "STEPS", "TIME", "BEST", "CHANGED")
    for path in sorted(folder.iterdir()):
        if (path / "config.yaml").is_file():
            yield _line(RunFolder(path))


def _line(run: RunFolder) -> str:
    changed = max(file.stat().st_mtime for file in (run.metrics, run.log, run.path) if file.exists())
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
    active = time.time() - changed < RECENT_SECONDS
    newest = checkpoint.last(run.checkpoints)
    if newest is None:
        return ROW.format(run.name, "starting" if active else "no checkpoint", "", "", "", when)
    progress = checkpoint.read_progress(newest)
    state = "finished" if progress.finished else "training" if active else "stopped"
    best = "" if progress.best is None else written(run.config().training.metric, progress.best)
    return ROW.format(run.name, state, f"{progress.step:,}", duration(progress.seconds), best, when)
