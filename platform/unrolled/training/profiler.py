"""Profiler of training updates.

Where the time of training updates goes: by the parts of an update, and by the operations that these consist of.

What `unrolled profile` prints.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.profiler import ProfilerActivity, record_function

from unrolled.config import Config
from unrolled.config.load import load_config
from unrolled.errors import RunFailed, UserError
from unrolled.tasks import GlobalBatch, make_task, prepare
from unrolled.training.distributed import Comm, ProcessGroup, SingleWorker
from unrolled.training.run_dir import open_run
from unrolled.training.train_step import FLAGS, TrainStep, build_initial_model, group_by_update, prefetch

PARTS = ("data", "forward", "backward", "communication", "optimizer", "other")
"""In the order of an update; `other` is what happens before and between them."""
WARM_UP = {"cpu": 1, "cuda": 3}
"""Passes over the batches that nobody measures: libraries choose kernels when a shape comes first, and a scan on a GPU
is recorded as a graph when it comes for the third time."""
PROFILED = 5
"""Updates that the operations are taken from, at most."""
OUTSIDE = "outside of operations (Python, waiting)"


@dataclass(frozen=True)
class Operation:
    """What torch.profiler counts under one name, an update on average.

    Attributes:
        seconds: of the processor (on a GPU: of the GPU), without operations that are called from within.
        share: of the same time of all operations.
    """

    name: str
    calls: float
    seconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Where the time of an update goes, as the first worker sees it.

    Attributes:
        name: of the config.
        where: what computes.
        precision: of the products.
        updates: that were measured.
        left_out: of these, how many were not made because loss or gradient was not finite.
        tokens: of an update, all workers together, on average.
        seconds: of an update, on average, by part; together they are the whole.
        profiled: updates that the operations are taken from.
        operations: the most expensive one first.
    """

    name: str
    where: str
    precision: str
    updates: int
    left_out: int
    tokens: float
    seconds: dict[str, float]
    profiled: int
    operations: list[Operation]

    @property
    def whole(self) -> float:
        """Seconds of an update."""
        return sum(self.seconds.values())


def profile(path: str | Path, *, overrides: Sequence[str] = (), steps: int = 20, workers: int = 1) -> Profile:
    """Makes the first updates of a run again and again: to warm up, against the clock, and under torch.profiler.

    Nothing is written. The model is fresh, as what it has learned does not change its speed.

    Args:
        path: a YAML file, or a run's folder, whose config is taken.
        overrides: of the config, such as ``model.decoder.cell=lstm``.
        steps: updates that are measured. Where an epoch has fewer, it begins again.
        workers: processes of this machine, which share its cores; each has a GPU where there are as many.

    Raises:
        UserError: something given cannot be used.
        RunFailed: an update could not be made.
    """
    for flag, number in (("--steps", steps), ("--workers", workers)):
        if number < 1:
            raise UserError(f"{flag} {number}: give 1 or more.")
    is_file = Path(path).suffix in (".yaml", ".yml")
    config = load_config(path, overrides) if is_file else open_run(path).config(overrides)
    data = prepare(config)
    with tempfile.TemporaryDirectory(prefix="unrolled-profile-") as scratch:
        folder = Path(scratch)
        data.save(folder / "vocabulary")
        job = _Job(config, data.fingerprint, folder, steps, workers)
        return job.measure(SingleWorker()) if workers == 1 else _together(job)


class Stopwatch:
    """Adds up the time that goes to each part of an update, by being told whenever one is over."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, part: str) -> None:
        if self._device.type == "cuda":  # which else would still be at work on the part
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True)
class _Job:
    """What every worker does alike.

    Attributes:
        fingerprint: of the prepared data.
        folder: for the vocabulary, and for the workers to find each other.
    """

    config: Config
    fingerprint: str
    folder: Path
    steps: int
    workers: int

    @property
    def gpu(self) -> bool:
        return torch.cuda.device_count() >= self.workers

    def measure(self, comm: Comm) -> Profile:
        """Makes the updates as worker `comm.rank`."""
        device = torch.device("cuda", comm.rank) if self.gpu else torch.device("cpu")
        updater = self._updater(comm, device)
        batches = updater.task.plan(prepare(self.config, self.fingerprint), epoch=0)
        groups = group_by_update(batches, self.config)[: self.steps]
        _run(updater, groups, WARM_UP[device.type] * len(groups))
        updater.on_phase_end = watch = Stopwatch(device)
        tokens, made = _run(updater, groups, self.steps)
        seconds = _by_part(watch.seconds, self.steps, comm)
        return Profile(
            name=self.config.name,
            where=self._where(device),
            precision=updater.precision,
            updates=self.steps,
            left_out=self.steps - made,
            tokens=tokens / self.steps,
            seconds=seconds,
            profiled=min(self.steps, PROFILED),
            operations=_operations(updater, groups, min(self.steps, PROFILED)),
        )

    def _updater(self, comm: Comm, device: torch.device) -> TrainStep:
        task = make_task(self.config, self.folder / "vocabulary")
        return TrainStep(task, build_initial_model(task, self.config, device), self.config, comm, device)

    def _where(self, device: torch.device) -> str:
        who = "1 process" if self.workers == 1 else f"{self.workers} processes"
        if device.type == "cuda":
            return f"{who} on {torch.cuda.get_device_name(device)}"
        threads = torch.get_num_threads()
        return f"{who} with {threads} thread{'s' if threads > 1 else ''}{' each' if self.workers > 1 else ''}"


def _run(updater: TrainStep, groups: Sequence[Sequence[GlobalBatch]], steps: int) -> tuple[int, int]:
    """Makes updates as the loop does, from the beginning of the epoch; returns their tokens and how many were made."""
    tokens = made = 0
    for step, work in enumerate(prefetch([groups[step % len(groups)] for step in range(steps)], updater.comm)):
        updater.on_phase_end("data")
        if step % len(groups) == 0:
            updater.hidden_state = None
        with record_function(OUTSIDE):  # what is left to it under torch.profiler
            update = updater(work, step, 0.0, [0.0] * FLAGS, norms_by_layer=False)
        updater.on_phase_end("other")
        tokens, made = tokens + update.tokens, made + (not update.skipped)
    return tokens, made


def _by_part(seconds: dict[str, float], updates: int, comm: Comm) -> dict[str, float]:
    """Returns the means, in the order of a table."""
    if comm.size == 1:  # the sum over one worker is no communication
        seconds["other"] += seconds.pop("communication")
    return {part: seconds[part] / updates for part in PARTS if part in seconds}


def _operations(updater: TrainStep, groups: Sequence[Sequence[GlobalBatch]], steps: int) -> list[Operation]:
    """Returns what torch.profiler finds: the kernels of a GPU, or operations and what is around them."""
    gpu = updater.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or its library writes a log of its own to the terminal
    with torch.profiler.profile(activities=activities) as profiler:
        _run(updater, groups, steps)
    found = [
        (event.key, event.count, event.self_device_time_total if gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
        if not gpu or (event.device_type.name == "CUDA" and not event.is_user_annotation)
    ]
    total = sum(microseconds for _, _, microseconds in found)
    found.sort(key=lambda row: -row[2])
    return [
        Operation(name, calls / steps, microseconds / 1e6 / steps, microseconds / total)
        for name, calls, microseconds in found
    ]


def _together(job: _Job) -> Profile:
    """Measures in as many processes as there are workers, with the cores shared out; returns what the first one saw."""
    outcomes = get_context("spawn").SimpleQueue()  # of the first worker, or of one that failed
    threads = max(1, torch.get_num_threads() // job.workers)
    try:
        spawn(_work, (job, threads, outcomes), nprocs=job.workers)  # type: ignore[no-untyped-call]
    except ProcessException as error:
        if outcomes.empty():
            raise RunFailed(f"a worker failed: {str(error).strip().splitlines()[-1]}") from None
    outcome: Profile | Exception = outcomes.get()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _work(rank: int, job: _Job, threads: int, outcomes: Any) -> None:
    """Runs in every process."""
    torch.set_num_threads(threads)
    if job.gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if job.gpu else "gloo", init_method=f"file://{job.folder}/workers", rank=rank, world_size=job.workers
    )
    try:
        outcome = job.measure(ProcessGroup())
    except (UserError, RunFailed) as error:
        outcomes.put(error)
        os._exit(1)
    if rank == 0:
        outcomes.put(outcome)
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may still let go of tensors, which ends a Python that is shutting down with an abort


SHOWN = 12
"""Operations, the most expensive ones."""
NAME = 58
"""Columns for the name of an operation."""
MEANING = {
    "data": "collating the batch",
    "forward": "the loss",
    "backward": "its gradient",
    "communication": "the gradients' sum over the workers, and waiting for them",
    "optimizer": "norm, clipping, step, moving average",
    "other": "random numbers, bookkeeping",
}


def table(profile: Profile) -> list[str]:
    """Returns the lines that the command prints, 100 columns at most."""
    size = f"{_updates(profile.updates)} of {profile.tokens:,.0f} tokens on average"
    lines = [
        f"{profile.name}: {size}; {profile.where}, {profile.precision}",
        f"{'part of an update':<20}{'ms':>10}{'share':>9}",
        *(
            f"{part:<20}{seconds * 1000:>10.3f}{_share(seconds / profile.whole)}  {MEANING[part]}"
            for part, seconds in profile.seconds.items()
        ),
        f"{'together':<20}{profile.whole * 1000:>10.3f}{_share(1)}  {profile.tokens / profile.whole:,.0f} tokens/s",
    ]
    if profile.left_out:
        lines.append(f"{_updates(profile.left_out)} not made: loss or gradient not finite")
    return [
        *lines,
        "",
        f"{'operation':<{NAME}}{'calls':>10}{'ms':>11}{'share':>9}",
        *(_row(operation) for operation in profile.operations[:SHOWN]),
        f"of {_updates(profile.profiled)} under torch.profiler, which slows them down; "
        "ms: without operations called within",
    ]


def _row(operation: Operation) -> str:
    name = operation.name if len(operation.name) < NAME else f"{operation.name[: NAME - 2]}…"
    return f"{name:<{NAME}}{operation.calls:>10,.1f}{operation.seconds * 1000:>11.3f}{_share(operation.share)}"


def _share(share: float) -> str:
    return f"{100 * share:>7.1f} %"


def _updates(count: int) -> str:
    return f"{count} update{'s' if count != 1 else ''}"
