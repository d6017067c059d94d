"""Profiler of training updates: time per phase of an update and per operation, and the table of `unrolled profile`."""

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

PHASES = ("data", "forward", "backward", "communication", "optimizer", "other")
"""In the order of an update; `other` is the time before and between them."""
WARM_UP = {"cpu": 1, "cuda": 3}
"""Unmeasured passes over the batches: libraries choose kernels on the first use of a shape, and a scan on a GPU is
recorded as a graph on its third use."""
PROFILED = 5
"""Maximum number of updates run under torch.profiler."""
OUTSIDE = "outside of operations (Python, waiting)"


@dataclass(frozen=True)
class Operation:
    """Statistics of one operation of torch.profiler, averaged per update.

    Attributes:
        seconds: CPU time (on a GPU: GPU time), without nested operations.
        share: fraction of the time of all operations.
    """

    name: str
    calls: float
    seconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Time of a training update as measured by the first worker.

    Attributes:
        name: of the config.
        where: processes and threads, or GPUs.
        precision: of matrix products.
        updates: number of measured updates.
        skipped: how many of them were skipped because loss or gradient was not finite.
        tokens: mean per update, all workers together.
        seconds: mean per update, by phase.
        profiled: number of updates under torch.profiler.
        operations: the most expensive one first.
    """

    name: str
    where: str
    precision: str
    updates: int
    skipped: int
    tokens: float
    seconds: dict[str, float]
    profiled: int
    operations: list[Operation]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def profile(path: str | Path, *, overrides: Sequence[str] = (), steps: int = 20, workers: int = 1) -> Profile:
    """Repeats the first updates of a run: to warm up, for timing, and under torch.profiler.

    Nothing is written. The model is fresh, since its weights do not change its speed.

    Args:
        path: a YAML file, or the folder of a run, whose config is used.
        overrides: of the config, such as ``model.decoder.cell=lstm``.
        steps: number of measured updates; a shorter epoch is repeated.
        workers: number of processes on this machine, which share its cores; each has a GPU if there are enough.

    Raises:
        UserError: an argument cannot be used.
        RunFailed: an update failed.
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
        return job.measure(SingleWorker()) if workers == 1 else _spawn_workers(job)


class Stopwatch:
    """Adds up the time of each phase of an update; called at the end of each phase."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def __call__(self, phase: str) -> None:
        if self._device.type == "cuda":  # whose kernels run asynchronously
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now


@dataclass(frozen=True)
class _Job:
    """The measurement made by each worker.

    Attributes:
        fingerprint: of the prepared data.
        folder: of the vocabulary and of the file by which the workers connect.
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
        device = torch.device("cuda", comm.rank) if self.gpu else torch.device("cpu")
        task = make_task(self.config, self.folder / "vocabulary")
        train_step = TrainStep(task, build_initial_model(task, self.config, device), self.config, comm, device)
        batches = task.plan(prepare(self.config, self.fingerprint), epoch=0)
        groups = group_by_update(batches, self.config)[: self.steps]
        _run(train_step, groups, WARM_UP[device.type] * len(groups))
        train_step.on_phase_end = watch = Stopwatch(device)
        tokens, skipped = _run(train_step, groups, self.steps)
        if comm.size == 1:  # the sum over one worker is no communication
            watch.seconds["other"] += watch.seconds.pop("communication")
        return Profile(
            name=self.config.name,
            where=self._where(device),
            precision=train_step.precision,
            updates=self.steps,
            skipped=skipped,
            tokens=tokens / self.steps,
            seconds={phase: watch.seconds[phase] / self.steps for phase in PHASES if phase in watch.seconds},
            profiled=min(self.steps, PROFILED),
            operations=_operations(train_step, groups, min(self.steps, PROFILED)),
        )

    def _where(self, device: torch.device) -> str:
        who = "1 process" if self.workers == 1 else f"{self.workers} processes"
        if device.type == "cuda":
            return f"{who} on {torch.cuda.get_device_name(device)}"
        threads = torch.get_num_threads()
        return f"{who} with {threads} thread{'s' if threads > 1 else ''}{' each' if self.workers > 1 else ''}"


def _run(train_step: TrainStep, groups: Sequence[Sequence[GlobalBatch]], steps: int) -> tuple[int, int]:
    """Makes updates as the trainer does, from the start of an epoch; returns their tokens and the number skipped."""
    tokens = skipped = 0
    for step, batch in enumerate(prefetch([groups[step % len(groups)] for step in range(steps)], train_step.comm)):
        train_step.on_phase_end("data")
        if step % len(groups) == 0:
            train_step.hidden_state = None
        with record_function(OUTSIDE):  # its own time under torch.profiler
            result = train_step(batch, step, 0.0, [0.0] * FLAGS, norms_by_layer=False)
        train_step.on_phase_end("other")
        tokens, skipped = tokens + result.tokens, skipped + result.skipped
    return tokens, skipped


def _operations(train_step: TrainStep, groups: Sequence[Sequence[GlobalBatch]], steps: int) -> list[Operation]:
    """Returns the operations found by torch.profiler: the kernels of a GPU, or CPU operations and the rest."""
    gpu = train_step.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise its library logs to the terminal
    with torch.profiler.profile(activities=activities) as profiler:
        _run(train_step, groups, steps)
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


def _spawn_workers(job: _Job) -> Profile:
    """Measures in one process per worker, with the cores divided among them; returns the first one's profile."""
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
    os._exit(0)  # gloo's threads may still release tensors, which would abort a Python that is shutting down


TABLE_OPERATIONS = 12
NAME_WIDTH = 58
MEANINGS = {
    "data": "collating the batch",
    "forward": "the loss",
    "backward": "its gradient",
    "communication": "the gradients' sum over the workers, and waiting for them",
    "optimizer": "norm, clipping, step, moving average",
    "other": "random numbers, bookkeeping",
}


def table(profile: Profile) -> list[str]:
    """Returns the lines that the command prints, at most 100 columns wide."""
    size = f"{_updates(profile.updates)} of {profile.tokens:,.0f} tokens on average"
    lines = [
        f"{profile.name}: {size}; {profile.where}, {profile.precision}",
        f"{'part of an update':<20}{'ms':>10}{'share':>9}",
        *(
            f"{phase:<20}{seconds * 1000:>10.3f}{_share(seconds / profile.total)}  {MEANINGS[phase]}"
            for phase, seconds in profile.seconds.items()
        ),
        f"{'together':<20}{profile.total * 1000:>10.3f}{_share(1)}  {profile.tokens / profile.total:,.0f} tokens/s",
    ]
    if profile.skipped:
        lines.append(f"{_updates(profile.skipped)} not made: loss or gradient not finite")
    return [
        *lines,
        "",
        f"{'operation':<{NAME_WIDTH}}{'calls':>10}{'ms':>11}{'share':>9}",
        *(_row(operation) for operation in profile.operations[:TABLE_OPERATIONS]),
        f"of {_updates(profile.profiled)} under torch.profiler, which slows them down; "
        "ms: without operations called within",
    ]


def _row(operation: Operation) -> str:
    name = operation.name if len(operation.name) < NAME_WIDTH else f"{operation.name[: NAME_WIDTH - 2]}…"
    return f"{name:<{NAME_WIDTH}}{operation.calls:>10,.1f}{operation.seconds * 1000:>11.3f}{_share(operation.share)}"


def _share(share: float) -> str:
    return f"{100 * share:>7.1f} %"


def _updates(count: int) -> str:
    return f"{count} update{'s' if count != 1 else ''}"
