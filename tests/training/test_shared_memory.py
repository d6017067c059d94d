"""Shared memory of workers on one machine: sums, and release after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from unrolled.training.distributed import CHUNK, make_shared_tensors

FORK = multiprocessing.get_context("fork")  # a fresh process would import torch first


class Pair:
    """Two processes connected by a pipe, each of which runs `work(rank, gather, barrier)`."""

    def __init__(self, work):
        ends, barrier, self._answers = FORK.Pipe(), FORK.Barrier(2), FORK.SimpleQueue()

        def run(rank):
            def gather(value):
                ends[rank].send(value)
                other = ends[rank].recv()
                return [value, other] if rank == 0 else [other, value]

            self._answers.put((rank, work(rank, gather, lambda: barrier.wait(60))))

        self.processes = [FORK.Process(target=run, args=[rank], daemon=True) for rank in (0, 1)]
        for process in self.processes:
            process.start()

    def answers(self):
        found = dict(self._answers.get() for _ in self.processes)
        return [found[0], found[1]]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7, 2 * CHUNK + 3])
def test_all_workers_get_the_sum(count, kind):
    def work(rank, gather, barrier):
        segments = make_shared_tensors(count, kind, rank, 2, gather, barrier)
        sums = []
        for time in (1, 2):
            segments.own.copy_(torch.arange(count, dtype=kind) * (rank + time))
            segments.all_reduce()
            sums.append(segments.own.tolist())
        return sums

    want = [(torch.arange(count, dtype=kind) * times).tolist() for times in (3, 5)]
    assert Pair(work).answers() == [want, want]


@pytest.mark.parametrize("missing", [0, 1])
def test_without_common_memory_all_know_it(missing):
    """The first worker may get no memory; the second may find another process under the first one's number."""

    def work(rank, gather, barrier):
        def tampered(value):
            values = gather(value)
            if rank == missing == 1 and isinstance(values[0], tuple):
                values[0] = (*values[0][:2], Path("/another"))
            return values

        if rank == missing == 0:
            del os.memfd_create
        return make_shared_tensors(5, torch.float32, rank, 2, tampered, barrier) is None

    assert Pair(work).answers() == [True, True]


def test_workers_killed_while_they_meet_leave_nothing():
    """The first one is killed after it allocated the memory, before the other one knows of it."""
    named = {path for path in Path("/dev/shm").iterdir() if path.name.startswith("unrolled")}

    def work(rank, gather, barrier):
        def deadly(value):
            if isinstance(value, tuple):
                os.kill(os.getpid(), signal.SIGKILL)
            return gather(value)

        make_shared_tensors(2**20, torch.float32, rank, 2, deadly, barrier)

    first, second = Pair(work).processes
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    second.kill()
    second.join(60)
    assert {path for path in Path("/dev/shm").iterdir() if path.name.startswith("unrolled")} <= named
