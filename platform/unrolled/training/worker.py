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
from unrolled.training.tensorboard import TensorBoard


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
    board = TensorBoard(run) if comm.rank == 0 else None

    def report(row: dict[str, Any]) -> None:
        if board is None:
            return
        run.append(row)
        board.log(row)
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
