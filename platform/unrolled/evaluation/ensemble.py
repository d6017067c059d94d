"""Members of an ensemble: which runs can be combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unrolled.config import Config
from unrolled.config.load import value_at
from unrolled.data import parallel_corpus
from unrolled.decoding import Strategy
from unrolled.errors import UserError
from unrolled.tasks import GroundingTask, ImageInputTask, Seq2SeqTask, Task, VQATask, make_task
from unrolled.training.checkpoint import load_model, sha256
from unrolled.training.run_dir import ChosenCheckpoint, RunDir, choose_checkpoint


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
