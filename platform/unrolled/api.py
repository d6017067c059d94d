"""The commands as Python functions.

The commands as Python functions: what the command line calls, and what a notebook calls.

import unrolled
run = unrolled.train("configs/translation/dates.yaml", workers=2)
report = run.evaluate(split="test")
run.generate(["Monday 3 March 2025"])

Sweeps as a Python function: what `unrolled tune` calls, and what a notebook calls.

import unrolled
sweep = unrolled.tune("configs/memory/sweep.yaml")
sweep.best.evaluate(split="validation")
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unrolled
from unrolled.cluster.ray_session import connect
from unrolled.config import Config
from unrolled.config.load import load_config
from unrolled.decoding import DEFAULT_STRATEGIES
from unrolled.errors import UserError
from unrolled.features import ExtractBlocks, extract_locally, extract_splits, feature_jobs, uses_frozen_features
from unrolled.run import Run
from unrolled.tasks import PreparedData, Seq2SeqTask, Task, make_task, prepare
from unrolled.training.checkpoint import Progress
from unrolled.training.console import Console, format_duration, format_score
from unrolled.training.distributed import SingleWorker
from unrolled.training.loggers import TrackerGroup, connect_trackers
from unrolled.training.ray_train import train_on_ray
from unrolled.training.run_dir import RunDir, check_initial_weights, resolve_run_dir
from unrolled.training.trainer import handle_stop_signals, train_worker
from unrolled.tuning.progress import SweepProgress, closing_lines, opening_lines
from unrolled.tuning.sweep_dir import SweepDir, SweepInfo, TrialRecords, resolve_config, resolve_sweep_dir
from unrolled.tuning.tuner import Tuner, divide_resources
from unrolled.tuning.validate import check_sweep


def train(
    config: str | Path | Config,
    *,
    overrides: Sequence[str] = (),
    workers: int | tuple[int, int] = 1,
    local: bool = False,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    smoke: bool = False,
    console: Console | None = None,
) -> Run:
    """Trains what a config describes, into the run folder that it names.

    Args:
        config: a YAML file, or a config made in Python (then without `overrides`).
        overrides: such as ``model.decoder.cell=lstm``.
        workers: data-parallel Ray Train workers, each with a GPU where there are as many; `(least, most)`: as many as
            the cluster has room for, fewer when nodes leave, more when nodes come.
        local: train in this process, without Ray.
        address: of a running Ray cluster; default: `$RAY_ADDRESS`, else a Ray of our own.
        resume: continue from the newest checkpoint.
        overwrite: replace a run of that name.
        smoke: few examples and few steps, to try a config.

    Raises:
        UserError: something given cannot be used; nothing was written then.
        RunFailed: training began and could not end; its checkpoints are kept.
    """
    console = console or Console()
    least, most = (workers, workers) if isinstance(workers, int) else workers
    wanted = str(least) if least == most else f"{least}..{most}"
    if most < least:
        raise UserError(f"--workers {wanted}: the second number must not be smaller than the first.")
    if local and most != 1:
        raise UserError(f"--local trains in one process, so --workers {wanted} cannot be kept; leave one of them out.")
    settings = load_config(config, overrides)
    settings = settings.smoke_version() if smoke else settings
    run = resolve_run_dir(settings, resume=resume, overwrite=overwrite)
    trackers = connect_trackers(settings)
    data = prepare(settings)
    check_initial_weights(run, settings, data, resume=resume)
    with ExitStack() as session:
        cpus, gpu = torch.get_num_threads(), torch.cuda.is_available()
        where = "this process, without Ray"
        if not local:
            resources = session.enter_context(connect(address, run.log))
            cpus, gpu = resources.per_worker(resources.workers_between(least, most))
            where = f"{wanted} Ray worker{'s' if most > 1 else ''} with {cpus} CPU{'s' if cpus > 1 else ''}"
            where += " and a GPU each" if gpu else " each"
        if uses_frozen_features(settings):
            compute = extract_locally if local else _on_ray(int(resources.free_cpus))
            extract_splits(
                feature_jobs(settings, ("train", "validation")), compute, console.show_progress, console.print
            )
        session.enter_context(run.lock())
        run.initialize(settings, data, resume=resume)
        task = make_task(settings, run.vocabulary)
        console.introduce(settings, _introduction(task, run, data, where), task.metric_names, task.unit)
        tracking = session.enter_context(TrackerGroup(trackers, run, settings, console.print))
        session.enter_context(handle_stop_signals(run, console))

        def show(row: dict[str, Any]) -> None:
            console.show_row(row)
            tracking.send(row)

        if local:
            device = torch.device("cuda" if gpu else "cpu")
            progress = train_worker(run, data.fingerprint, SingleWorker(), device=device, threads=None, show=show)
        else:
            progress = train_on_ray(
                run,
                data.fingerprint,
                show,
                workers=(least, most),
                cpus=cpus,
                gpu=gpu,
                restarts=settings.training.restarts,
            )
        tracking.state = "finished" if progress.finished else "killed"
    _conclude(console, settings, run, progress, task)
    return Run(run, interrupted=not progress.finished)


def make_features(
    config: str | Path | Config,
    splits: Sequence[str] = ("train", "validation"),
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    local: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> None:
    """Makes the features of photographs that a config asks for, unless they are in the cache. An attempt that was ended
    goes on where it was.

    Args:
        workers: Ray workers of one CPU each; default: as many as there are free CPUs.

    Other arguments as in `train`.

    Raises:
        UserError: something given cannot be used.
        RunFailed: the workers failed; what was made is kept.
    """
    console = console or Console()
    settings = load_config(config, overrides)
    jobs = feature_jobs(settings, splits)
    with ExitStack() as session:
        compute: ExtractBlocks = extract_locally
        if not local and not all(work.folder.exists() for work in jobs):
            resources = session.enter_context(connect(address))
            wanted = workers if workers is not None else max(1, int(resources.free_cpus))
            resources.require(wanted)
            compute = _on_ray(wanted)
        extract_splits(jobs, compute, console.show_progress, console.print)


def _on_ray(workers: int) -> ExtractBlocks:
    from unrolled.features.ray_job import extract_on_ray

    return extract_on_ray(workers)


def _introduction(task: Task, run: RunDir, data: PreparedData, where: str) -> list[str]:
    model, examples = task.describe(data)
    parameters = sum(parameter.numel() for parameter in task.build_model().parameters())
    return [
        f"run      {run.path}",
        f"model    {parameters:,} parameters: {model}",
        f"data     {examples}",
        f"workers  {where}",
    ]


def _conclude(console: Console, config: Config, run: RunDir, progress: Progress, task: Task) -> None:
    done = f"{progress.step:,} steps in {format_duration(progress.seconds)}"
    if progress.best is not None:
        done += f"; best {format_score(config.training.metric, progress.best)} at step {progress.best_step:,}"
    if not progress.finished:
        console.print(f"stopped: {done}")
        console.print(f"continue with: unrolled train {run.config_file} --resume")
        return
    console.print(f"trained: {done}")
    options = (
        f"--split test --decode {','.join(DEFAULT_STRATEGIES)}"
        if isinstance(task, Seq2SeqTask)
        else "--split validation"
    )
    console.print(f"evaluate with: unrolled evaluate {run.path} {options}")


@dataclass(frozen=True)
class Sweep:
    """A sweep and what it found.

    Attributes:
        summary: what its sweep.json holds.
        interrupted: whether it ended before its time, on request.
    """

    folder: SweepDir
    summary: dict[str, Any]
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def best(self) -> Run | None:
        """The best trial, if any has a score."""
        name = self.summary["best"]
        return None if name is None else Run(self.folder.trial(name))


def tune(
    config: str | Path | Config,
    *,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    workers: int = 1,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    smoke: bool = False,
    console: Console | None = None,
) -> Sweep:
    """Searches the space of a config's `tuning` section with many trainings on Ray Tune.

    Args:
        config: a YAML file, the folder of a sweep, or a config made in Python (then without `overrides`).
        trials: points of the space, in place of `tuning.trials`.
        workers: Ray Train workers of every trial; 1: it trains in the trial's own process.
        resume: continue: what ended is not trained again, the rest goes on from its checkpoints.
        overwrite: replace a sweep of that name.
        smoke: few trials of few examples and few steps, to try a config.
        overrides, address: as for `train`.

    Raises:
        UserError: something given cannot be used; nothing was written then.
    """
    from unrolled.reports.sweep_report import write_report  # needs Optuna, which takes a second to import

    console = console or Console()
    given = shlex.join(["unrolled", "tune", str(config) if not isinstance(config, Config) else config.name, *overrides])
    settings = config if isinstance(config, Config) else load_config(*resolve_config(config, overrides))
    settings, tuning, metrics = check_sweep(settings, trials=trials, workers=workers, smoke=smoke)
    sweep = resolve_sweep_dir(settings, resume=resume, overwrite=overwrite)
    with ExitStack() as session:
        cluster = session.enter_context(connect(address, sweep.run.log))
        resources = divide_resources(cluster, tuning, workers)
        session.enter_context(sweep.run.lock())
        sweep.initialize(settings, resume=resume)
        info = SweepInfo(given, resources.trials, unrolled.__version__)
        records = TrialRecords(sweep, settings, metrics, info)
        tuner = Tuner(records, settings, resources, smoke=smoke)
        for line in opening_lines(records, resources.trials, resources.cpus, workers):
            console.print(line)
        session.enter_context(handle_stop_signals(sweep.run, console))
        progress = SweepProgress(console, records, tuner.num_trials)
        complete = tuner.fit(progress.update, progress.refresh)
        progress.close()
        summary = records.write()
        write_report(summary, sweep.page)
        shutil.rmtree(sweep.scratch, ignore_errors=True)
    for line in closing_lines(records, complete=complete):
        console.print(line)
    return Sweep(sweep, summary, interrupted=not complete)
