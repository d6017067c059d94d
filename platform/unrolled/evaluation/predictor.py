"""A trained run in memory: what evaluation workers and `generate` hold.

Encoder–decoders that write together.

A trained run, loaded: what every evaluation worker and `generate` hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

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
from unrolled.evaluation.ensemble import EnsembleMember
from unrolled.models import EncoderDecoder, EncoderOutput, Rows
from unrolled.models.heads import Precision
from unrolled.recurrence.state import Nest
from unrolled.tasks import Attended, Findings, MetricTask, Seq2SeqTask, Task, Writer


class EnsembleModel(nn.Module):
    """Models with the same vocabularies as one model, searched as each of them is: an `Ensemble` with encoders."""

    def __init__(self, models: Sequence[EncoderDecoder]) -> None:
        super().__init__()
        self.registered = nn.ModuleList(models)
        self._models, self._ensemble = models, Ensemble(models)

    def encode(self, *inputs: Tensor) -> EnsembleInputs[EncoderOutput]:
        """The inputs of one encoder → the memories of all models."""
        return EnsembleInputs(tuple(model.encode(*inputs) for model in self._models))

    def start(self, memory: EnsembleInputs[EncoderOutput]) -> Nest:
        """The states of all models."""
        return self._ensemble.start(memory)

    def step(
        self, tokens: Tensor, state: Nest, memory: EnsembleInputs[EncoderOutput], rows: Rows
    ) -> tuple[Tensor, Nest]:
        """The logarithm of the mean probabilities `(rows, vocabulary)`, and the states."""
        return self._ensemble.step(tokens, state, memory, rows)

    @property
    def attends(self) -> bool:
        """Whether all models look at the input, and so have a mean of where they look."""
        return all(model.attends for model in self._models)

    def step_with_attention(
        self, tokens: Tensor, state: Nest, memory: EnsembleInputs[EncoderOutput], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor]:
        """As `step`, and the mean weights of attention `(rows, positions)`."""
        outputs, states, weights = self.step_outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.scorer("float32").logits(outputs)[1], states, weights

    def step_outputs(
        self, tokens: Tensor, state: Nest, memory: EnsembleInputs[EncoderOutput], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor | None]:
        """As `EncoderDecoder.step_outputs`: the outputs of all models side by side, and the mean of their weights."""
        each = zip(self._models, memory.each, state, strict=True)
        found = [model.step_outputs(tokens, own, part, rows) for model, part, own in each]
        outputs, states, weights = zip(*found, strict=True)
        seen = torch.stack(weights).mean(0) if self.attends else None
        return torch.cat(outputs, dim=1), states, seen

    def scorer(self, precision: Precision) -> EnsembleScorer:
        """The heads of all models, made ready for the steps of a search."""
        return EnsembleScorer([model.scorer(precision) for model in self._models])


KEPT = 5
"""Candidates that an evaluation keeps of a list of the best."""


def load_task_and_model(members: Sequence[EnsembleMember], device: torch.device) -> tuple[Task, nn.Module]:
    """Returns the task of the first run, and its model, or that which all runs are together.

    Raises:
        UserError: a checkpoint is damaged or belongs to another model.
    """
    models: list[Any] = [member.load().to(device).eval() for member in members]
    task = members[0].task()
    if len(models) == 1:
        return task, models[0]
    return task, EnsembleModel(models) if isinstance(task, Seq2SeqTask) else nn.ModuleList(models)


class Predictor:
    """A task and its trained model, or several models that decode together.

    Args:
        members: of an ensemble, or a run alone.
        threads: of torch; `None` leaves its own choice.
    """

    def __init__(self, members: Sequence[EnsembleMember], threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.members, self.config = members, members[0].config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task, self.model = load_task_and_model(members, self.device)

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def write(self, strategy: Strategy, numbers: Sequence[int], inputs: Sequence[str]) -> list[str]:
        """One output an input, in order; `numbers` are the inputs' places in the split."""
        assert isinstance(self.task, Writer)
        return self.task.predict(self.model, inputs, strategy, numbers)

    def answers(self, strategy: Strategy, numbers: Sequence[int], inputs: Sequence[str]) -> list[Output]:
        """As `write`, with everything that the search tells of an output, but `KEPT` of a list of the best at most."""
        assert isinstance(self.task, Seq2SeqTask)
        found = self.task.answers(self.model, inputs, strategy, numbers)
        if not isinstance(strategy, Beam | BestOfN):
            return found
        return [replace(answer, candidates=answer.candidates[:KEPT]) for answer in found]

    def candidates(self, strategy: Strategy, inputs: Sequence[str], count: int) -> list[list[Candidate]]:
        """Up to `count` outputs an input, the best first; raises `UserError` if the strategy cannot find so many."""
        assert isinstance(self.task, Seq2SeqTask)
        found = self.task.answers(self.model, inputs, n_best(strategy, count))
        return [sorted(answer.candidates, key=lambda one: -one.score)[:count] for answer in found]

    def attention(self, text: str, output: str) -> Attended | None:
        """Where the model looks in a text while it writes an output."""
        assert isinstance(self.task, Seq2SeqTask)
        return self.task.attention(self.model, text, output)

    def examine(self, data: Any, rank: int, size: int) -> Any:
        """Measures the share `rank` of `size` of a split."""
        assert isinstance(self.task, MetricTask)
        return self.task.examine(self.model, data, rank, size)

    def sum_up(self, data: Any, shares: Sequence[Any]) -> Findings:
        """Sums up the examined shares of a split."""
        assert isinstance(self.task, MetricTask)
        return self.task.findings(self.model, data, shares)
