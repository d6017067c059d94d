"""The commands as Python functions: what the command line calls, and what a notebook calls.

import unrolled
run = unrolled.train("configs/translation/dates.yaml", workers=2)
report = run.evaluate(split="test")
run.generate(["Monday 3 March 2025"])
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unrolled
from unrolled.cluster.session import connect
from unrolled.config import Config
from unrolled.config_file import load_config
from unrolled.data.asked import Box
from unrolled.decoding import USUAL, Candidate, Strategy, choose
from unrolled.errors import UserError
from unrolled.evaluation.evaluation import Evaluation, Report
from unrolled.evaluation.job import Here, OnRay, Workforce
from unrolled.evaluation.members import Member, check, members
from unrolled.evaluation.prepare import Conduct, prepare_evaluation
from unrolled.evaluation.trained import Trained
from unrolled.features.making import Compute, compute_here
from unrolled.features.run import has_features, make_splits, works_of
from unrolled.tasks import (
    Answerer,
    Asker,
    Chooser,
    Counting,
    Explainer,
    Prepared,
    Reply,
    Task,
    Viewer,
    Writer,
    make_task,
    prepare,
)
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Alone
from unrolled.training.console import Console, duration, written
from unrolled.training.launch import launch
from unrolled.training.run import RunFolder, claim, open_run
from unrolled.training.signals import stopping
from unrolled.training.start import check_start
from unrolled.training.trackers import reach_trackers
from unrolled.training.tracking import Tracking
from unrolled.training.worker import work


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: its files.
        interrupted: whether the last training ended before its time, on request.
    """

    folder: RunFolder
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    def evaluate(
        self,
        split: str = "test",
        decode: Sequence[str] = (),
        *,
        ensemble: Sequence[Run] = (),
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
        workers: int = 1,
        local: bool = False,
        address: str | None = None,
        console: Console | None = None,
    ) -> Report:
        """Scores the run on a split and writes the report: of a task that answers in text, every strategy of
        `decode`; of any other, what its model makes of the data themselves.

        Args:
            split: `train`, `validation`, `test`, or another split of the data.
            decode: strategies, such as `greedy`, `sample` or `beam:size=10`; these three if empty.
            ensemble: runs that decode together with this one, whose settings hold: p(token) is the mean of all models'.
            overrides: of the run's config, such as ``decoding.beam.size=10``.
            checkpoint: `best`, `last` or `step-N`; `average` takes the mean of the weights of all checkpoints that the
                run kept, `average-N` of the N newest.
            workers: Ray workers that share the split; with `local`, this process does it all.
            address: of a running Ray cluster; default: `$RAY_ADDRESS`, else a Ray of our own.

        Raises:
            UserError: something given cannot be used; nothing was written then.
        """
        (report,) = evaluate(
            [self],
            [split],
            decode,
            ensemble=ensemble,
            overrides=overrides,
            checkpoint=checkpoint,
            workers=workers,
            local=local,
            address=address,
            console=console,
        )
        return report

    def generate(
        self,
        texts: Sequence[str],
        decode: str | None = None,
        *,
        ensemble: Sequence[Run] = (),
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[str]:
        """Returns one output a text; `decode` as the task has it by default. Arguments as in `evaluate`."""
        trained = self._trained(overrides, checkpoint, ensemble)
        return trained.write(self._strategy(trained, decode), range(len(texts)), texts)

    @property
    def sees(self) -> bool:
        """Whether its inputs are photographs."""
        return isinstance(self._task(), Viewer)

    def inputs(self, names: Sequence[str]) -> list[str]:
        """Returns the inputs that names stand for: where they are photographs, those in a folder."""
        task = self._task()
        return task.files(names) if isinstance(task, Viewer) else list(names)

    def _task(self) -> Task:
        return make_task(self.folder.config(), self.folder.vocabulary)

    def candidates(
        self,
        texts: Sequence[str],
        count: int,
        decode: str | None = None,
        *,
        ensemble: Sequence[Run] = (),
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[list[Candidate]]:
        """Returns the n-best list of every text, n being `count`: outputs with their scores, the best first.

        With beam and best-of-N they are different texts, fewer than `count` where the search found no more; with
        sampling they are samples. Other arguments as in `generate`.

        Raises:
            UserError: the strategy cannot find so many, or the task scores no outputs.
        """
        trained = self._trained(overrides, checkpoint, ensemble)
        strategy = self._strategy(trained, decode)
        if not isinstance(trained.task, Answerer):
            raise UserError(f"--n-best: a run of task {trained.config.task} gives no scores to what it writes.")
        return trained.candidates(strategy, texts, count)

    @property
    def asks(self) -> bool:
        """Whether its model answers questions about photographs."""
        return isinstance(self._task(), Asker)

    def ask(
        self,
        photo: str,
        questions: Sequence[str],
        choices: Sequence[str] = (),
        decode: str | None = None,
        *,
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[Reply]:
        """Returns a reply to every question about a photograph: a free answer, and the probabilities of `choices`.
        Other arguments as in `generate`."""
        trained = self._trained(overrides, checkpoint)
        task = trained.task
        if not isinstance(task, Asker):
            raise UserError(f"{self.path}: a run of task {trained.config.task} answers no questions.")
        strategy = choose([decode], task.decoding)[decode] if decode else None
        return [task.ask(trained.model, photo, question, choices, strategy) for question in questions]

    def _strategy(self, trained: Trained, decode: str | None) -> Strategy:
        """Returns the strategy asked for, checked."""
        if not isinstance(trained.task, Writer):
            raise UserError(f"{self.path}: a run of task {trained.config.task} writes no text.")
        spelling = decode or trained.task.default_strategy
        strategy = choose([spelling], trained.task.decoding)[spelling]
        if isinstance(trained.task, Answerer):
            trained.task.check(strategy)
            check(trained.members[1:], strategy)
        return strategy

    @property
    def points(self) -> bool:
        """Whether its model chooses regions of photographs."""
        return isinstance(self._task(), Chooser)

    def point(
        self,
        photo: str,
        questions: Sequence[str],
        boxes: Sequence[Box],
        *,
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[Reply]:
        """Returns a reply to every question about a photograph: the probabilities of the boxes, each x and y of its
        upper left corner, width and height in pixels. Other arguments as in `generate`."""
        trained = self._trained(overrides, checkpoint)
        task = trained.task
        if not isinstance(task, Chooser):
            raise UserError(f"{self.path}: a run of task {trained.config.task} chooses no regions.")
        return [task.point(trained.model, photo, question, boxes) for question in questions]

    def explain(self, text: str | None = None, *, overrides: Sequence[str] = (), checkpoint: str = "best") -> str:
        """Returns what the model computes for a text (default: the beginning of its training text), step by step, as
        lines of at most 100 columns."""
        trained = self._trained(overrides, checkpoint)
        if not isinstance(trained.task, Explainer):
            raise UserError(f"--explain: a run of task {trained.config.task} has no explanation of its steps.")
        return trained.task.explain(trained.model, text)

    def _trained(self, overrides: Sequence[str], checkpoint: str, ensemble: Sequence[Run] = ()) -> Trained:
        return Trained(members(self.folder, [run.folder for run in ensemble], overrides, checkpoint))


def evaluate(
    runs: Sequence[Run],
    splits: Sequence[str] = ("test",),
    decode: Sequence[str] = (),
    *,
    ensemble: Sequence[Run] = (),
    overrides: Sequence[str] = (),
    checkpoint: str = "best",
    workers: int = 1,
    local: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> list[Report]:
    """Evaluates every run on every split; a report each. Arguments and errors as in `Run.evaluate`: all is checked
    before work begins."""
    console = console or Console()
    if ensemble and len(runs) > 1:
        raise UserError(f"--ensemble: goes with one run, not with {len(runs)}; name the others behind it.")
    others = [run.folder for run in ensemble]
    plans = [
        _plan(members(run.folder, others, overrides, checkpoint), splits, decode, overrides, checkpoint, console)
        for run in runs
    ]
    reports = []
    with ExitStack() as session:
        if not local:
            resources = session.enter_context(connect(address, runs[0].folder.log))
            cpus, gpu = resources.share(workers)
        for plan in plans:
            given = plan[0][0].members
            workforce: Workforce = Here(given) if local else OnRay(given, workers=workers, cpus=cpus, gpu=gpu)
            with closing(workforce):
                for evaluation, conduct in plan:
                    if len(runs) * len(splits) > 1:
                        console.say(" ".join(evaluation.of))
                    evaluation.make_folder()
                    reports.append(conduct(evaluation, workforce))
    return reports


def _plan(
    joined: Sequence[Member],
    splits: Sequence[str],
    decode: Sequence[str],
    overrides: Sequence[str],
    checkpoint: str,
    console: Console,
) -> list[tuple[Evaluation, Conduct]]:
    """Returns the evaluations of a run, or of an ensemble, everything checked that can be."""
    task = joined[0].task()
    for member in joined:
        member.load()
    if has_features(joined[0].config):
        make_splits(works_of(joined[0].config, splits), compute_here, console.evaluating, console.say)
    plan = []
    for split in splits:
        if splits.count(split) > 1:
            raise UserError(f"--split: {split!r} is given twice.")
        conduct = prepare_evaluation(task, joined, split, decode)
        first, *others = (str(member.run.path) for member in joined)
        given = ["unrolled", "evaluate", first, *(["--ensemble", *others] if others else []), "--split", split]
        given += ["--decode", ",".join(decode)] if decode else []
        given += ["--checkpoint", checkpoint] if checkpoint != "best" else []
        given += overrides
        told = console.evaluating, console.say
        plan.append((Evaluation(joined, split, shlex.join(given), unrolled.__version__, *told), conduct))
    return plan


def load(path: str | Path) -> Run:
    """Opens the folder of a run; raises `UserError` if it is none."""
    return Run(open_run(path))


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
