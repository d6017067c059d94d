"""The commands as Python functions: what the command line calls, and what a notebook calls.

import unrolled
run = unrolled.train("configs/translation/dates.yaml", workers=2)
report = run.evaluate(split="test")
run.generate(["Monday 3 March 2025"])
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from unrolled.cluster.session import connect
from unrolled.config import Config
from unrolled.config_file import load_config
from unrolled.decoding import USUAL
from unrolled.errors import UserError
from unrolled.features.making import Compute, compute_here
from unrolled.features.run import has_features, make_splits, works_of
from unrolled.tasks import (
    Answerer,
    Counting,
    Prepared,
    Task,
    make_task,
    prepare,
)
from unrolled.trained_run import Run, evaluate, load
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Alone
from unrolled.training.console import Console, duration, written
from unrolled.training.launch import launch
from unrolled.training.run import RunFolder, claim
from unrolled.training.signals import stopping
from unrolled.training.start import check_start
from unrolled.training.trackers import reach_trackers
from unrolled.training.tracking import Tracking
from unrolled.training.worker import work

__all__ = ["Run", "evaluate", "load", "make_features", "train"]


def train(
    config: str | Path | Config,
    *,
    overrides: Sequence[str] = (),
    workers: int | tuple[int, int] = 1,
    local: bool = False,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tiny: bool = False,
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
        tiny: few examples and few steps, to try a config.

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
    settings = config if isinstance(config, Config) else load_config(config, overrides)
    settings = settings.smoke() if tiny else settings
    run = claim(settings, resume=resume, overwrite=overwrite)
    trackers = reach_trackers(settings)
    data = prepare(settings)
    check_start(run, settings, data, resume=resume)
    with ExitStack() as session:
        cpus, gpu = torch.get_num_threads(), torch.cuda.is_available()
        where = "this process, without Ray"
        if not local:
            resources = session.enter_context(connect(address, run.log))
            cpus, gpu = resources.share(resources.up_to(least, most))
            where = f"{wanted} Ray worker{'s' if most > 1 else ''} with {cpus} CPU{'s' if cpus > 1 else ''}"
            where += " and a GPU each" if gpu else " each"
        if has_features(settings):
            compute = compute_here if local else _on_ray(int(resources.free_cpus))
            make_splits(works_of(settings, ("train", "validation")), compute, console.evaluating, console.say)
        session.enter_context(run.held())
        run.start(settings, data, resume=resume)
        task = make_task(settings, run.vocabulary)
        counted = task.counted if isinstance(task, Counting) else "tokens"
        console.begin(settings, _introduction(task, run, data, where), task.shown, counted)
        tracking = session.enter_context(Tracking(trackers, run, settings, console.say))
        session.enter_context(stopping(run, console))

        def show(row: dict[str, Any]) -> None:
            console.show(row)
            tracking.take(row)

        if local:
            device = torch.device("cuda" if gpu else "cpu")
            progress = work(run, data.fingerprint, Alone(), device=device, threads=None, show=show)
        else:
            progress = launch(
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
    settings = config if isinstance(config, Config) else load_config(config, overrides)
    works = works_of(settings, splits)
    with ExitStack() as session:
        compute: Compute = compute_here
        if not local and not all(work.folder.exists() for work in works):
            resources = session.enter_context(connect(address))
            wanted = workers if workers is not None else max(1, int(resources.free_cpus))
            resources.require(wanted)
            compute = _on_ray(wanted)
        make_splits(works, compute, console.evaluating, console.say)


def _on_ray(workers: int) -> Compute:
    from unrolled.features.job import compute_on_ray

    return compute_on_ray(workers)


def _introduction(task: Task, run: RunFolder, data: Prepared, where: str) -> list[str]:
    model, examples = task.introduce(data)
    parameters = sum(parameter.numel() for parameter in task.build_model().parameters())
    return [
        f"run      {run.path}",
        f"model    {parameters:,} parameters: {model}",
        f"data     {examples}",
        f"workers  {where}",
    ]


def _conclude(console: Console, config: Config, run: RunFolder, progress: Progress, task: Task) -> None:
    done = f"{progress.step:,} steps in {duration(progress.seconds)}"
    if progress.best is not None:
        done += f"; best {written(config.training.metric, progress.best)} at step {progress.best_step:,}"
    if not progress.finished:
        console.say(f"stopped: {done}")
        console.say(f"continue with: unrolled train {run.path / 'config.yaml'} --resume")
        return
    console.say(f"trained: {done}")
    options = f"--split test --decode {','.join(USUAL)}" if isinstance(task, Answerer) else "--split validation"
    console.say(f"evaluate with: unrolled evaluate {run.path} {options}")
