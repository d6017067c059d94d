"""A finished run as an object: evaluated, asked for outputs, explained."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import unrolled
from unrolled.cluster.ray_session import connect
from unrolled.data.questions import Box
from unrolled.decoding import Candidate, Strategy, parse_strategies
from unrolled.errors import UserError
from unrolled.evaluation.ensemble import EnsembleMember, check_strategy, ensemble_members
from unrolled.evaluation.evaluate import Conduct, Evaluation, EvaluationReport, prepare_evaluation
from unrolled.evaluation.predictor import Predictor
from unrolled.evaluation.worker_pool import LocalPool, RayPool, WorkerPool
from unrolled.features.extract import compute_here, has_features, make_splits, works_of
from unrolled.tasks import (
    Explainer,
    GroundingTask,
    ImageInputTask,
    Reply,
    Seq2SeqTask,
    Task,
    VQATask,
    Writer,
    make_task,
)
from unrolled.training.console import Console
from unrolled.training.run_dir import RunDir, open_run


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: its files.
        interrupted: whether the last training ended before its time, on request.
    """

    folder: RunDir
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
    ) -> EvaluationReport:
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
        return isinstance(self._task(), ImageInputTask)

    def inputs(self, names: Sequence[str]) -> list[str]:
        """Returns the inputs that names stand for: where they are photographs, those in a folder."""
        task = self._task()
        return task.files(names) if isinstance(task, ImageInputTask) else list(names)

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
        if not isinstance(trained.task, Seq2SeqTask):
            raise UserError(f"--n-best: a run of task {trained.config.task} gives no scores to what it writes.")
        return trained.candidates(strategy, texts, count)

    @property
    def asks(self) -> bool:
        """Whether its model answers questions about photographs."""
        return isinstance(self._task(), VQATask)

    def ask(
        self,
        photo: str,
        questions: Sequence[str],
        choices: Sequence[str] = (),
        decode: str | None = None,
        *,
        ensemble: Sequence[Run] = (),
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[Reply]:
        """Returns a reply to every question about a photograph: a free answer, and the probabilities of `choices`.
        Other arguments as in `generate`."""
        trained = self._trained(overrides, checkpoint, ensemble)
        task = trained.task
        if not isinstance(task, VQATask):
            raise UserError(f"{self.path}: a run of task {trained.config.task} answers no questions.")
        strategy = parse_strategies([decode], task.decoding)[decode] if decode else None
        return [task.ask(trained.model, photo, question, choices, strategy) for question in questions]

    def _strategy(self, trained: Predictor, decode: str | None) -> Strategy:
        """Returns the strategy asked for, checked."""
        if not isinstance(trained.task, Writer):
            raise UserError(f"{self.path}: a run of task {trained.config.task} writes no text.")
        spelling = decode or trained.task.default_strategy
        strategy = parse_strategies([spelling], trained.task.decoding)[spelling]
        if isinstance(trained.task, Seq2SeqTask):
            trained.task.check(strategy)
            check_strategy(trained.members[1:], strategy)
        return strategy

    @property
    def points(self) -> bool:
        """Whether its model chooses regions of photographs."""
        return isinstance(self._task(), GroundingTask)

    def point(
        self,
        photo: str,
        questions: Sequence[str],
        boxes: Sequence[Box],
        *,
        ensemble: Sequence[Run] = (),
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
    ) -> list[Reply]:
        """Returns a reply to every question about a photograph: the probabilities of the boxes, each x and y of its
        upper left corner, width and height in pixels. Other arguments as in `generate`."""
        trained = self._trained(overrides, checkpoint, ensemble)
        task = trained.task
        if not isinstance(task, GroundingTask):
            raise UserError(f"{self.path}: a run of task {trained.config.task} chooses no regions.")
        return [task.point(trained.model, photo, question, boxes) for question in questions]

    def explain(self, text: str | None = None, *, overrides: Sequence[str] = (), checkpoint: str = "best") -> str:
        """Returns what the model computes for a text (default: the beginning of its training text), step by step, as
        lines of at most 100 columns."""
        trained = self._trained(overrides, checkpoint)
        if not isinstance(trained.task, Explainer):
            raise UserError(f"--explain: a run of task {trained.config.task} has no explanation of its steps.")
        return trained.task.explain(trained.model, text)

    def _trained(self, overrides: Sequence[str], checkpoint: str, ensemble: Sequence[Run] = ()) -> Predictor:
        return Predictor(ensemble_members(self.folder, [run.folder for run in ensemble], overrides, checkpoint))


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
) -> list[EvaluationReport]:
    """Evaluates every run on every split; a report each. Arguments and errors as in `Run.evaluate`: all is checked
    before work begins."""
    console = console or Console()
    if ensemble and len(runs) > 1:
        raise UserError(f"--ensemble: goes with one run, not with {len(runs)}; name the others behind it.")
    others = [run.folder for run in ensemble]
    plans = [
        _plan(
            ensemble_members(run.folder, others, overrides, checkpoint), splits, decode, overrides, checkpoint, console
        )
        for run in runs
    ]
    reports = []
    with ExitStack() as session:
        if not local:
            resources = session.enter_context(connect(address, runs[0].folder.log))
            cpus, gpu = resources.per_worker(workers)
        for plan in plans:
            given = plan[0][0].members
            workforce: WorkerPool = LocalPool(given) if local else RayPool(given, workers=workers, cpus=cpus, gpu=gpu)
            with closing(workforce):
                for evaluation, conduct in plan:
                    if len(runs) * len(splits) > 1:
                        console.say(" ".join(evaluation.of))
                    evaluation.make_folder()
                    reports.append(conduct(evaluation, workforce))
    return reports


def _plan(
    joined: Sequence[EnsembleMember],
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
