"""What the next update needs, made ready in the background while the present one is computed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from unrolled.tasks import GlobalBatch, Part
from unrolled.training.comm import Comm


@dataclass(frozen=True)
class Work:
    """One worker's share of an update.

    Attributes:
        parts: of the global batches, without those that leave nothing to this worker.
        tokens: targets of the global batches, all workers together.
    """

    parts: Sequence[Part]
    tokens: int


def ahead(groups: Sequence[Sequence[GlobalBatch]], comm: Comm) -> Generator[Work]:
    """Yields the work of each group of global batches in turn; one more than was taken is made ready in a thread."""

    def work(group: Sequence[GlobalBatch]) -> Work:
        parts = (batch.part(comm.rank, comm.size) for batch in group)
        return Work([part for part in parts if part is not None], sum(batch.tokens for batch in group))

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready: Future[Work] | None = None
        for group in groups:
            following = thread.submit(work, group)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
