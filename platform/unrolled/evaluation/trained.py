"""A trained run, loaded: what every evaluation worker and `generate` hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unrolled.decoding import Answer, Beam, Best, Candidate, Strategy, n_best
from unrolled.evaluation.members import Member
from unrolled.evaluation.together import Together
from unrolled.tasks import Answerer, Attended, Examinee, Findings, Task, Writer

KEPT = 5
"""Candidates that an evaluation keeps of a list of the best."""


def load(members: Sequence[Member], device: torch.device) -> tuple[Task, nn.Module]:
    """Returns the task of the first run, and its model, or that which all runs are together.

    Raises:
        UserError: a checkpoint is damaged or belongs to another model.
    """
    models: list[Any] = [member.load().to(device).eval() for member in members]
    task = members[0].task()
    if len(models) == 1:
        return task, models[0]
    return task, Together(models) if isinstance(task, Answerer) else nn.ModuleList(models)


class Trained:
    """A task and its trained model, or several models that decode together.

    Args:
        members: of an ensemble, or a run alone.
        threads: of torch; `None` leaves its own choice.
    """

    def __init__(self, members: Sequence[Member], threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.members, self.config = members, members[0].config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task, self.model = load(members, self.device)

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def write(self, strategy: Strategy, numbers: Sequence[int], inputs: Sequence[str]) -> list[str]:
        """One output an input, in order; `numbers` are the inputs' places in the split."""
        assert isinstance(self.task, Writer)
        return self.task.predict(self.model, inputs, strategy, numbers)

    def answers(self, strategy: Strategy, numbers: Sequence[int], inputs: Sequence[str]) -> list[Answer]:
        """As `write`, with everything that the search tells of an output, but `KEPT` of a list of the best at most."""
        assert isinstance(self.task, Answerer)
        found = self.task.answers(self.model, inputs, strategy, numbers)
        if not isinstance(strategy, Beam | Best):
            return found
        return [replace(answer, candidates=answer.candidates[:KEPT]) for answer in found]

    def candidates(self, strategy: Strategy, inputs: Sequence[str], count: int) -> list[list[Candidate]]:
        """Up to `count` outputs an input, the best first; raises `UserError` if the strategy cannot find so many."""
        assert isinstance(self.task, Answerer)
        found = self.task.answers(self.model, inputs, n_best(strategy, count))
        return [sorted(answer.candidates, key=lambda one: -one.score)[:count] for answer in found]

    def attention(self, text: str, output: str) -> Attended | None:
        """Where the model looks in a text while it writes an output."""
        assert isinstance(self.task, Answerer)
        return self.task.attention(self.model, text, output)

    def examine(self, data: Any, rank: int, size: int) -> Any:
        """Measures the share `rank` of `size` of a split."""
        assert isinstance(self.task, Examinee)
        return self.task.examine(self.model, data, rank, size)

    def sum_up(self, data: Any, shares: Sequence[Any]) -> Findings:
        """Sums up the examined shares of a split."""
        assert isinstance(self.task, Examinee)
        return self.task.findings(self.model, data, shares)
