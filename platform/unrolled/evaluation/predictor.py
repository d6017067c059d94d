"""Trained runs loaded for prediction: a single run, or an ensemble of runs that can be combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.config.load import value_at
from unrolled.data import parallel_corpus
from unrolled.decoding import (
    Beam,
    BestOfN,
    Candidate,
    Ensemble,
    EnsembleInputs,
    EnsembleScorer,
    Output,
    Strategy,
    n_best,
)
from unrolled.errors import UserError
from unrolled.models import EncoderDecoder, EncoderOutput, Precision, Rows
from unrolled.recurrence import Nest
from unrolled.tasks import (
    AttentionMap,
    GenerationTask,
    GroundingTask,
    ImageInputTask,
    MetricResults,
    MetricTask,
    Seq2SeqTask,
    Task,
    VQATask,
    make_task,
)
from unrolled.training.checkpoint import load_model, sha256
from unrolled.training.run_dir import ChosenCheckpoint, RunDir, choose_checkpoint

MAX_CANDIDATES = 5
"""Candidates of an n-best list that an evaluation keeps per input."""


class Predictor:
    """A task and its trained model, or an ensemble.

    Args:
        members: the runs of an ensemble, or a single run.
        threads: number of torch threads; `None` keeps torch's default.
    """

    def __init__(self, members: Sequence[EnsembleMember], threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.members, self.config = members, members[0].config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task, self.model = load_task_and_model(members, self.device)

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def predict(self, strategy: Strategy, example_ids: Sequence[int], inputs: Sequence[str]) -> list[str]:
        """Returns one text per input, in order; `example_ids` are the inputs' indices in the split."""
        assert isinstance(self.task, GenerationTask)
        return self.task.predict(self.model, inputs, strategy, example_ids)

    def decode(self, strategy: Strategy, example_ids: Sequence[int], inputs: Sequence[str]) -> list[Output]:
        """Returns one `Output` per input, in order, with at most `MAX_CANDIDATES` of an n-best list."""
        assert isinstance(self.task, Seq2SeqTask)
        outputs = self.task.decode(self.model, inputs, strategy, example_ids)
        if not isinstance(strategy, Beam | BestOfN):
            return outputs
        return [replace(output, candidates=output.candidates[:MAX_CANDIDATES]) for output in outputs]

    def candidates(self, strategy: Strategy, inputs: Sequence[str], count: int) -> list[list[Candidate]]:
        """Returns up to `count` candidates per input, the best first; raises `UserError` if the strategy cannot find as
        many."""
        assert isinstance(self.task, Seq2SeqTask)
        outputs = self.task.decode(self.model, inputs, n_best(strategy, count))
        return [sorted(output.candidates, key=lambda one: -one.score)[:count] for output in outputs]

    def attention(self, text: str, output: str) -> AttentionMap | None:
        """Returns the attention weights over `text` while the model writes `output`."""
        assert isinstance(self.task, Seq2SeqTask)
        return self.task.attention(self.model, text, output)

    def evaluate_shard(self, data: Any, shard: int, num_shards: int) -> Any:
        assert isinstance(self.task, MetricTask)
        return self.task.evaluate_shard(self.model, data, shard, num_shards)

    def summarize(self, data: Any, shards: Sequence[Any]) -> MetricResults:
        assert isinstance(self.task, MetricTask)
        return self.task.summarize(self.model, data, shards)


def load_task_and_model(members: Sequence[EnsembleMember], device: torch.device) -> tuple[Task, nn.Module]:
    """Returns the first run's task, and its model or the model of the whole ensemble.

    Raises:
        UserError: a checkpoint is damaged or belongs to another model.
    """
    models: list[Any] = [member.load().to(device).eval() for member in members]
    task = members[0].task()
    if len(models) == 1:
        return task, models[0]
    return task, EnsembleModel(models) if isinstance(task, Seq2SeqTask) else nn.ModuleList(models)


@dataclass(frozen=True)
class EnsembleMember:
    """A run with the config and checkpoint to evaluate. A single run is an ensemble of one.

    Attributes:
        config: the run's, with the overrides of the evaluation.
        checkpoint: one, or several to average.
    """

    run: RunDir
    config: Config
    checkpoint: ChosenCheckpoint

    def task(self) -> Task:
        """Returns the task with the run's own vocabularies."""
        return make_task(self.config, self.run.vocabulary)

    def load(self) -> nn.Module:
        """Returns the model with the chosen weights; raises `UserError` for a checkpoint that is damaged or belongs to
        another model."""
        model = self.task().build_model().to(getattr(torch, self.config.training.parameter_type))
        load_model(self.checkpoint.folders, model)
        return model

    def vocabularies(self) -> dict[str, str]:
        """Returns the SHA-256 of each vocabulary file by name."""
        paths = sorted(path for path in self.run.vocabulary.glob("*.json") if path.name != parallel_corpus.LENGTHS)
        return {path.name: sha256(path) for path in paths}


def ensemble_members(
    run: RunDir, others: Sequence[RunDir], overrides: Sequence[str], checkpoint: str
) -> tuple[EnsembleMember, ...]:
    """Returns a run and the others, which decode with its settings.

    Args:
        overrides: of every run's config.
        checkpoint: of every run, as `choose_checkpoint` takes it.

    Raises:
        UserError: a run has no such checkpoint, or the runs cannot be combined.
    """
    first = EnsembleMember(run, run.config(overrides), choose_checkpoint(run, checkpoint))
    if not others:
        return (first,)
    task = first.task()
    if not isinstance(task, Seq2SeqTask | VQATask | GroundingTask):
        raise UserError(f"--ensemble: runs of task {first.config.task} write no answers together; leave it out.")
    return first, *(_compatible_member(first, task, other, overrides, checkpoint) for other in others)


def check_strategy(others: Sequence[EnsembleMember], strategy: Strategy) -> None:
    """Raises `UserError` if one of the models does not support the strategy."""
    for member in others:
        task = member.task()
        assert isinstance(task, Seq2SeqTask)
        try:
            task.check_strategy(strategy)
        except UserError as error:
            raise UserError(f"--ensemble {member.run.path}: {error}") from None


def _compatible_member(
    first: EnsembleMember, task: Task, run: RunDir, overrides: Sequence[str], checkpoint: str
) -> EnsembleMember:
    """Returns a run that can decode with the first one, whose task is `task`; raises `UserError` if it cannot."""
    refused, name = f"--ensemble: {run.path} and {first.run.path} cannot answer together", run.config().task
    if name != first.config.task:
        raise UserError(f"{refused}: the one was trained with task={name}, the other with task={first.config.task}.")
    config = run.config(overrides)
    if isinstance(task, Seq2SeqTask | VQATask):
        config = config.model_copy(update={"decoding": task.decoding})
    member = EnsembleMember(run, config, choose_checkpoint(run, checkpoint))
    other = member.task()
    if isinstance(task, ImageInputTask) and isinstance(other, ImageInputTask):
        for key in task.ensemble_keys:
            theirs, ours = (value_at(each.config.model_dump(), key) for each in (member, first))
            if theirs != ours:
                raise UserError(f"{refused}: the one has {key}={theirs}, the other {ours}.")
        theirs, ours = other.encoder_input, task.encoder_input
        if theirs != ours:
            raise UserError(f"{refused}: of a photograph the one reads {theirs}, the other {ours}.")
    vocabularies, expected = member.vocabularies(), first.vocabularies()
    files = sorted(vocabularies | expected)
    if different := [file for file in files if vocabularies.get(file) != expected.get(file)]:
        raise UserError(f"{refused}: vocabulary/{different[0]} of the one is not that of the other.")
    theirs, ours = (each.config.data.model_dump().get("columns") or {} for each in (member, first))
    if theirs.get("input") == ours.get("target") != ours.get("input") == theirs.get("target"):
        raise UserError(f"{refused}: the one writes {theirs['target']}, the other {ours['target']}.")
    return member


class EnsembleModel(nn.Module):
    """Encoder-decoders with the same vocabularies as one searchable model: an `Ensemble` with encoders."""

    def __init__(self, models: Sequence[EncoderDecoder]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._models, ensemble = models, Ensemble(models)
        self.start, self.step = ensemble.start, ensemble.step

    def encode(self, *inputs: Tensor) -> EnsembleInputs[EncoderOutput]:
        return EnsembleInputs(tuple(model.encode(*inputs) for model in self._models))

    @property
    def attends(self) -> bool:
        """Whether all models have attention, so that their weights can be averaged."""
        return all(model.attends for model in self._models)

    def step_with_attention(
        self, tokens: Tensor, state: Nest, memory: EnsembleInputs[EncoderOutput], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor]:
        """As `step`, and the mean attention weights `(rows, positions)`."""
        outputs, states, weights = self.step_outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.scorer("float32").logits(outputs)[1], states, weights

    def step_outputs(
        self, tokens: Tensor, state: Nest, memory: EnsembleInputs[EncoderOutput], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor | None]:
        """As `EncoderDecoder.step_outputs`: all models' outputs, concatenated, and their mean attention weights."""
        each = zip(self._models, memory.each, state, strict=True)
        steps = [model.step_outputs(tokens, own, inputs, rows) for model, inputs, own in each]
        outputs, states, weights = zip(*steps, strict=True)
        mean_weights = torch.stack(weights).mean(0) if self.attends else None
        return torch.cat(outputs, dim=1), states, mean_weights

    def scorer(self, precision: Precision) -> EnsembleScorer:
        """Returns the output layers of all models, prepared for the steps of a search."""
        return EnsembleScorer([model.scorer(precision) for model in self._models])
