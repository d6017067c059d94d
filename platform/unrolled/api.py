"""The commands as Python functions, for the command line and for notebooks.

import unrolled

run = unrolled.train("configs/translation/dates.yaml", workers=2)
report = run.evaluate(split="test")
run.generate(["Monday 3 March 2025"])

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
from unrolled import native
from unrolled.cluster.ray_session import connect
from unrolled.config import Config
from unrolled.config.load import ConfigLike, load_config
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
from unrolled.tuning.sweep_checks import check_sweep
from unrolled.tuning.sweep_dir import SweepDir, SweepInfo, TrialRecords, resolve_config, resolve_sweep_dir
from unrolled.tuning.tuner import Tuner, divide_resources


def train(
    config: ConfigLike,
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
    """Trains the model of a config and returns the run, in the folder `storage`/`name` of the config.

    Args:
        config: a YAML file, a dict or a `Config`.
        overrides: of the config, such as ``model.decoder.cell=lstm``.
        workers: number of data-parallel Ray Train workers, each with a GPU if there are enough. `(least, most)`: as
            many as fit on the cluster; the number changes when nodes leave or join.
        local: train in this process, without Ray.
        address: of a running Ray cluster; default: `$RAY_ADDRESS`, otherwise a private Ray is started.
        resume: continue from the newest checkpoint.
        overwrite: replace an existing run of that name.
        smoke: use few examples and few updates, to try a config.
        console: receives all output; default: one that prints to standard output.

    Raises:
        UserError: an argument cannot be used; nothing was written.
        RunFailed: training began and failed; its checkpoints are kept.
    """
    console = console or Console()
    least, most = (workers, workers) if isinstance(workers, int) else workers
    count = str(least) if least == most else f"{least}..{most}"
    if most < least:
        raise UserError(f"--workers {count}: the second number must not be smaller than the first.")
    if local and most != 1:
        raise UserError(f"--local trains in one process, so --workers {count} cannot be kept; leave one of them out.")
    config = load_config(config, overrides)
    config = config.smoke_version() if smoke else config
    run = resolve_run_dir(config, resume=resume, overwrite=overwrite)
    trackers = connect_trackers(config)
    data = prepare(config)
    check_initial_weights(run, config, data, resume=resume)
    with ExitStack() as stack:
        cpus, gpu = torch.get_num_threads(), torch.cuda.is_available()
        workers_line = "this process, without Ray"
        if not local:
            resources = stack.enter_context(connect(address, run.log))
            cpus, gpu = resources.per_worker(resources.workers_between(least, most))
            workers_line = f"{count} Ray worker{'s' if most > 1 else ''} with {cpus} CPU{'s' if cpus > 1 else ''}"
            workers_line += " and a GPU each" if gpu else " each"
        if uses_frozen_features(config):
            extract = extract_locally if local else _extract_on_ray(int(resources.free_cpus))
            extract_splits(feature_jobs(config, ("train", "validation")), extract, console.show_progress, console.print)
        stack.enter_context(run.lock())
        run.initialize(config, data, resume=resume)
        task = make_task(config, run.vocabulary)
        lines = [*_opening_lines(task, run, data, workers_line), *([] if gpu else native.cost_without())]
        console.introduce(config, lines, task.metric_names, task.unit)
        tracking = stack.enter_context(TrackerGroup(trackers, run, config, console.print))
        stack.enter_context(handle_stop_signals(run, console))

        def show(row: dict[str, Any]) -> None:
            console.show_row(row)
            tracking.send(row)

        if local:
            device = torch.device("cuda" if gpu else "cpu")
            progress = train_worker(run, data.fingerprint, SingleWorker(), device=device, threads=None, show=show)
        else:
            restarts = config.training.restarts
            progress = train_on_ray(
                run, data.fingerprint, show, workers=(least, most), cpus=cpus, gpu=gpu, restarts=restarts
            )
        tracking.state = "finished" if progress.finished else "killed"
    for line in _closing_lines(config, run, progress, task):
        console.print(line)
    return Run(run, interrupted=not progress.finished)


def _opening_lines(task: Task, run: RunDir, data: PreparedData, workers: str) -> list[str]:
    model, examples = task.describe(data)
    parameters = sum(parameter.numel() for parameter in task.build_model().parameters())
    return [
        f"run      {run.path}",
        f"model    {parameters:,} parameters: {model}",
        f"data     {examples}",
        f"workers  {workers}",
    ]


def _closing_lines(config: Config, run: RunDir, progress: Progress, task: Task) -> list[str]:
    done = f"{progress.step:,} steps in {format_duration(progress.seconds)}"
    if progress.best is not None:
        done += f"; best {format_score(config.training.metric, progress.best)} at step {progress.best_step:,}"
    if not progress.finished:
        return [f"stopped: {done}", f"continue with: unrolled train {run.config_file} --resume"]
    generates = isinstance(task, Seq2SeqTask)
    options = f"--split test --decode {','.join(DEFAULT_STRATEGIES)}" if generates else "--split validation"
    return [f"trained: {done}", f"evaluate with: unrolled evaluate {run.path} {options}"]


def make_features(
    config: ConfigLike,
    splits: Sequence[str] = ("train", "validation"),
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    local: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> None:
    """Computes the image features of a config unless they are cached; an interrupted extraction is continued.

    Args:
        workers: number of Ray workers of one CPU each; default: the number of free CPUs.

    Other arguments as in `train`.

    Raises:
        UserError: an argument cannot be used.
        RunFailed: the workers failed; the features computed so far are kept.
    """
    console = console or Console()
    jobs = feature_jobs(load_config(config, overrides), splits)
    with ExitStack() as stack:
        extract: ExtractBlocks = extract_locally
        if not local and not all(job.folder.exists() for job in jobs):
            resources = stack.enter_context(connect(address))
            workers = workers if workers is not None else max(1, int(resources.free_cpus))
            resources.require(workers)
            extract = _extract_on_ray(workers)
        extract_splits(jobs, extract, console.show_progress, console.print)


def _extract_on_ray(workers: int) -> ExtractBlocks:
    from unrolled.features.ray_job import extract_on_ray

    return extract_on_ray(workers)


@dataclass(frozen=True)
class Sweep:
    """A sweep and its results.

    Attributes:
        folder: its files.
        summary: the content of its sweep.json.
        interrupted: whether it was stopped on request before its end.
    """

    folder: SweepDir
    summary: dict[str, Any]
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def best(self) -> Run | None:
        """The best trial, if any trial has a score."""
        name = self.summary["best"]
        return None if name is None else Run(self.folder.trial(name))


def tune(
    config: ConfigLike,
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
    """Searches the space of a config's `tuning` section by many trainings on Ray Tune.

    Args:
        config: a YAML file, the folder of a sweep, a dict or a `Config`.
        trials: number of points of the space, in place of `tuning.trials`.
        workers: number of Ray Train workers per trial; with 1, a trial trains in its own process.
        resume: continue: finished trials are kept, the others continue from their checkpoints.
        overwrite: replace an existing sweep of that name.
        smoke: few trials of few examples and few updates, to try a config.

    Other arguments as in `train`.

    Raises:
        UserError: an argument cannot be used; nothing was written.
    """
    from unrolled.reports.sweep_report import write_report  # needs Optuna, which takes a second to import

    console = console or Console()
    if isinstance(config, (str, Path)):
        command = shlex.join(["unrolled", "tune", str(config), *overrides])
        config = load_config(*resolve_config(config, overrides))
    else:
        config = load_config(config, overrides)
        command = shlex.join(["unrolled", "tune", config.name, *overrides])
    config, tuning, metrics = check_sweep(config, trials=trials, workers=workers, smoke=smoke)
    sweep = resolve_sweep_dir(config, resume=resume, overwrite=overwrite)
    with ExitStack() as stack:
        cluster = stack.enter_context(connect(address, sweep.run.log))
        resources = divide_resources(cluster, tuning, workers)
        stack.enter_context(sweep.run.lock())
        sweep.initialize(config, resume=resume)
        info = SweepInfo(command, resources.trials, unrolled.__version__)
        records = TrialRecords(sweep, config, metrics, info)
        tuner = Tuner(records, config, resources, smoke=smoke)
        lines = opening_lines(records, resources.trials, resources.cpus, workers)
        for line in [*lines, *([] if resources.gpu else native.cost_without())]:
            console.print(line)
        stack.enter_context(handle_stop_signals(sweep.run, console))
        progress = SweepProgress(console, records, tuner.num_trials)
        complete = tuner.fit(progress.update, progress.refresh)
        progress.close()
        summary = records.write()
        write_report(summary, sweep.page)
        shutil.rmtree(sweep.scratch, ignore_errors=True)
    for line in closing_lines(records, complete=complete):
        console.print(line)
    return Sweep(sweep, summary, interrupted=not complete)
