"""One worker's training: the same function wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unrolled.tasks import make_task, prepare
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Comm
from unrolled.training.loop import fit
from unrolled.training.run import RunFolder


def work(
    run: RunFolder,
    fingerprint: str,
    comm: Comm,
    *,
    device: torch.device,
    threads: int | None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Progress:
    """Trains `run` as worker `comm.rank`, from its newest checkpoint if it has one.

    Args:
        fingerprint: of the prepared data.
        threads: of torch; `None` leaves its own choice.
        show: receives every row of metrics.jsonl (first worker).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    config = run.config()
    board = _board(run) if comm.rank == 0 else None

    def report(row: dict[str, Any]) -> None:
        if board is None:
            return
        run.append(row)
        for name, value in row.items():
            if isinstance(value, float) and name not in ("seconds", "epoch"):
                board.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        board.flush()
        if show is not None:
            show(row)

    try:
        return fit(
            make_task(config, run.vocabulary),
            prepare(config, fingerprint),
            run,
            config,
            comm,
            device=device,
            report=report,
            interrupted=run.stop_file.exists,
        )
    finally:
        if board is not None:
            board.close()


def _board(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only one process needs it

    return SummaryWriter(str(run.path / "tensorboard"))  # type: ignore[no-untyped-call]
