"""A finished run as an object: evaluation and prediction."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from unrolled import native
from unrolled.cluster.ray_session import connect
from unrolled.data.questions import Box
from unrolled.decoding import Candidate, Strategy, parse_strategies
from unrolled.errors import UserError
from unrolled.evaluation import EnsembleMember, Predictor, check_strategy, ensemble_members
from unrolled.evaluation.evaluate import Evaluation, EvaluationReport, prepare_evaluation
from unrolled.evaluation.worker_pool import LocalPool, RayPool, WorkerPool
from unrolled.features import extract_locally, extract_splits, feature_jobs, uses_frozen_features
from unrolled.tasks import (
    GenerationTask,
    GroundingTask,
    ImageInputTask,
    Prediction,
    Seq2SeqTask,
    StepTraceTask,
    Task,
    VQATask,
    make_task,
)
from unrolled.training.console import Console
from unrolled.training.run_dir import RunDir, open_run


class PredictorOptions(TypedDict, total=False):
    """Options of all methods that use a run's model.

    Attributes:
        ensemble: further runs that decode together with this one and with its settings; p(token) is the mean over all
            models.
        overrides: of the run's config, such as ``decoding.beam.size=10``.
        checkpoint: `best` (default), `last` or `step-N`; `average` takes the mean weights of all checkpoints kept,
            `average-N` of the N newest.
    """

    ensemble: Sequence[Run]
    overrides: Sequence[str]
    checkpoint: str


class EvaluationOptions(PredictorOptions, total=False):
    """Options of evaluations.

    Attributes:
        workers: number of Ray workers that share a split (1).
        local: evaluate in this process, without Ray.
        address: of a running Ray cluster; default: `$RAY_ADDRESS`, otherwise a private Ray is started.
        console: for progress lines.
    """

    workers: int
    local: bool
    address: str | None
    console: Console | None


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: its files.
        interrupted: whether the last training was stopped on request.
    """

    folder: RunDir
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    def evaluate(
        self, split: str = "test", decode: Sequence[str] = (), **options: Unpack[EvaluationOptions]
    ) -> EvaluationReport:
        """Evaluates the run on one split and writes a report.

        A task that generates text is scored with each strategy; any other is measured on the model's predictions.

        Args:
            split: `train`, `validation`, `test`, or another split of the data.
            decode: strategies, such as `greedy`, `sample` or `beam:size=10`; these three if empty.
            options: see `EvaluationOptions`.

        Raises:
            UserError: an argument cannot be used; nothing was written then.
        """
        (report,) = evaluate([self], [split], decode, **options)
        return report

    def predictor(self, **options: Unpack[PredictorOptions]) -> Predictor:
        """Returns the loaded model with its task, or an ensemble."""
        return Predictor(_members(self, **options))

    def generate(
        self, texts: Sequence[str], decode: str | None = None, **options: Unpack[PredictorOptions]
    ) -> list[str]:
        """Returns one output per text.

        Args:
            decode: a strategy, such as `beam:size=10`; default: the task's own.
            options: see `PredictorOptions`.
        """
        predictor = self.predictor(**options)
        return predictor.predict(self._strategy(predictor, decode), range(len(texts)), texts)

    @property
    def takes_photos(self) -> bool:
        """Whether its inputs are photographs."""
        return isinstance(self._task(), ImageInputTask)

    def expand_inputs(self, names: Sequence[str]) -> list[str]:
        """Returns the inputs given by names; folders of photographs are expanded."""
        task = self._task()
        return task.expand_folders(names) if isinstance(task, ImageInputTask) else list(names)

    def candidates(
        self, texts: Sequence[str], count: int, decode: str | None = None, **options: Unpack[PredictorOptions]
    ) -> list[list[Candidate]]:
        """Returns the `count` best outputs per text with scores, the best first; other arguments as in `generate`.

        With beam and best-of-N they are different texts, fewer than `count` if the search found fewer; with sampling
        they are samples.

        Raises:
            UserError: the strategy cannot find as many, or the task does not score outputs.
        """
        predictor = self.predictor(**options)
        strategy = self._strategy(predictor, decode)
        if not isinstance(predictor.task, Seq2SeqTask):
            raise UserError(f"--n-best: a run of task {predictor.config.task} gives no scores to what it writes.")
        return predictor.candidates(strategy, texts, count)

    @property
    def answers_questions(self) -> bool:
        """Whether its model answers questions about photographs."""
        return isinstance(self._task(), VQATask)

    def ask(
        self,
        photo: str,
        questions: Sequence[str],
        choices: Sequence[str] = (),
        decode: str | None = None,
        **options: Unpack[PredictorOptions],
    ) -> list[Prediction]:
        """Returns one prediction per question about a photograph: a free answer, and the probabilities of `choices`.
        Other arguments as in `generate`."""
        predictor = self.predictor(**options)
        task = predictor.task
        if not isinstance(task, VQATask):
            raise UserError(f"{self.path}: a run of task {predictor.config.task} answers no questions.")
        strategy = parse_strategies([decode], task.decoding)[decode] if decode else None
        return [task.ask(predictor.model, photo, question, choices, strategy) for question in questions]

    @property
    def chooses_regions(self) -> bool:
        """Whether its model chooses regions of photographs."""
        return isinstance(self._task(), GroundingTask)

    def point(
        self, photo: str, questions: Sequence[str], boxes: Sequence[Box], **options: Unpack[PredictorOptions]
    ) -> list[Prediction]:
        """Returns one prediction per question about a photograph: the probabilities of the boxes, given as x and y of
        the upper left corner, width and height in pixels. Other arguments as in `generate`."""
        predictor = self.predictor(**options)
        task = predictor.task
        if not isinstance(task, GroundingTask):
            raise UserError(f"{self.path}: a run of task {predictor.config.task} chooses no regions.")
        return [task.point(predictor.model, photo, question, boxes) for question in questions]

    def explain(self, text: str | None = None, *, overrides: Sequence[str] = (), checkpoint: str = "best") -> str:
        """Returns the model's computation for a text (default: the beginning of its training text), step by step, in
        lines of up to 100 columns."""
        predictor = self.predictor(overrides=overrides, checkpoint=checkpoint)
        if not isinstance(predictor.task, StepTraceTask):
            raise UserError(f"--explain: a run of task {predictor.config.task} has no explanation of its steps.")
        return predictor.task.step_trace(predictor.model, text)

    def _task(self) -> Task:
        return make_task(self.folder.config(), self.folder.vocabulary)

    def _strategy(self, predictor: Predictor, decode: str | None) -> Strategy:
        """Returns the strategy, `decode` or the task's default, if the models support it."""
        if not isinstance(predictor.task, GenerationTask):
            raise UserError(f"{self.path}: a run of task {predictor.config.task} writes no text.")
        spelling = decode or predictor.task.default_strategy
        strategy = parse_strategies([spelling], predictor.task.decoding)[spelling]
        if isinstance(predictor.task, Seq2SeqTask):
            check_strategy(predictor.members, strategy)
        return strategy


def _members(
    run: Run, *, ensemble: Sequence[Run] = (), overrides: Sequence[str] = (), checkpoint: str = "best"
) -> Sequence[EnsembleMember]:
    return ensemble_members(run.folder, [other.folder for other in ensemble], overrides, checkpoint)


def evaluate(
    runs: Sequence[Run],
    splits: Sequence[str] = ("test",),
    decode: Sequence[str] = (),
    *,
    workers: int = 1,
    local: bool = False,
    address: str | None = None,
    console: Console | None = None,
    **options: Unpack[PredictorOptions],
) -> list[EvaluationReport]:
    """Evaluates every run on every split, with one report each; everything is checked before work begins. Arguments and
    errors as in `Run.evaluate`; `ensemble` goes with a single run."""
    console = console or Console()
    if options.get("ensemble") and len(runs) > 1:
        raise UserError(f"--ensemble: goes with one run, not with {len(runs)}; name the others behind it.")
    plans = [_plan(_members(run, **options), splits, decode, options, console) for run in runs]
    reports = []
    with ExitStack() as session:
        gpu = torch.cuda.is_available()
        if not local:
            resources = session.enter_context(connect(address, runs[0].folder.log))
            cpus, gpu = resources.per_worker(workers)
        for line in [] if gpu else native.cost_without():
            console.print(line)
        for evaluations in plans:
            members = evaluations[0].members
            pool: WorkerPool = LocalPool(members) if local else RayPool(members, workers=workers, cpus=cpus, gpu=gpu)
            with closing(pool):
                for evaluation in evaluations:
                    if len(runs) * len(splits) > 1:
                        console.print(evaluation.title)
                    evaluation.make_folder()
                    reports.append(evaluation.run(pool))
    return reports


def _plan(
    members: Sequence[EnsembleMember],
    splits: Sequence[str],
    decode: Sequence[str],
    options: PredictorOptions,
    console: Console,
) -> list[Evaluation]:
    """Returns the evaluation of each split, checked as far as possible before work begins."""
    for member in members:
        member.load()
    if uses_frozen_features(members[0].config):
        extract_splits(feature_jobs(members[0].config, splits), extract_locally, console.show_progress, console.print)
    evaluations = []
    for split in splits:
        if splits.count(split) > 1:
            raise UserError(f"--split: {split!r} is given twice.")
        first, *others = (str(member.run.path) for member in members)
        words = ["unrolled", "evaluate", first, *(["--ensemble", *others] if others else []), "--split", split]
        words += ["--decode", ",".join(decode)] if decode else []
        checkpoint = options.get("checkpoint", "best")
        words += ["--checkpoint", checkpoint] if checkpoint != "best" else []
        words += options.get("overrides", ())
        evaluations.append(prepare_evaluation(members, split, decode, shlex.join(words), console))
    return evaluations


def load(path: str | Path) -> Run:
    """Opens the folder of a run.

    Raises:
        UserError: there is no run.
    """
    return Run(open_run(path))
