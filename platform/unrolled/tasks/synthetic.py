"""Synthetic memory tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.config.synthetic import MemoryConfig
from unrolled.data.synthetic_tasks import PROBLEMS, Examples, Problem
from unrolled.errors import UserError, did_you_mean
from unrolled.metrics import mean_interval, metric_info
from unrolled.models.builders import build_dropout, build_stack
from unrolled.models.sequence_model import SequenceModel
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import Findings, Table, WindowLoss

SHARE = 100
"""Sequences that an evaluation worker takes at a time."""


@dataclass(frozen=True)
class Drawn:
    """A global batch or a fixed split: numbered examples, drawn where they are needed."""

    problem: Problem
    seed: int
    split: str
    indices: range

    @property
    def tokens(self) -> int:
        return len(self.indices) * self.problem.targets

    def part(self, rank: int, size: int) -> Examples | None:
        mine = self.indices[rank::size]
        return self.problem.examples(self.seed, self.split, mine) if mine else None


@dataclass(frozen=True)
class Generated:
    """Data that are nowhere kept: the config says them all."""

    fingerprint: str

    def save(self, folder: Path) -> None:
        """Makes the folder; it stays empty."""
        folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Measured:
    """What a share of a split gave: for every sequence its mean loss, its mean score, answers and targets."""

    losses: list[float]
    merits: list[float]
    answers: list[list[float]]
    targets: list[list[float]]


class Memory:
    """A recurrent network on a problem of `unrolled.data.synthetic_tasks`."""

    def __init__(self, config: MemoryConfig, folder: Path) -> None:
        self.config = config
        self.problem = PROBLEMS[config.data.problem](config.data.length)
        self.shown, self.baseline = (self.problem.metric,), self.problem.baseline

    @classmethod
    def prepare(cls, config: MemoryConfig, fingerprint: str | None = None) -> Generated:
        """There is nothing to make ready."""
        data = config.data
        return Generated(f"{data.problem}-{data.length}-{data.validation}-{data.test}-{config.seed}")

    def build_model(self) -> SequenceModel:
        """The stack of the config's `model` section and a linear head."""
        settings = self.config.model
        stack = build_stack(settings, self.problem.features, settings.engine)
        return SequenceModel(stack, self.problem.outputs, build_dropout(settings))

    def introduce(self, data: Generated) -> tuple[str, str]:
        """Cell, size and window; problem and what guessing reaches."""
        settings, window = self.config.model, self.config.training.truncate
        layers = f"{settings.layers} layers of " if settings.layers > 1 else ""
        reach = "the whole sequence" if window is None else f"windows of {window:,} steps"
        name = self.problem.metric
        guess = f"{metric_info(name).label.lower()} {metric_info(name).format(self.baseline[name])}"
        return (
            f"{layers}{settings.cell} {settings.hidden}, gradients through {reach}",
            f"{self.config.data.problem}: new sequences of {self.problem.steps:,} steps, "
            f"{self.config.data.validation:,} fixed ones to validate; without memory {guess}",
        )

    def plan(self, data: Generated, epoch: int) -> list[Drawn]:
        """Batches of sequences that no other batch has."""
        size, steps = self.config.training.batch, self.config.training.epoch_steps
        starts = (size * step for step in range(epoch * steps, (epoch + 1) * steps))
        return [self._drawn("train", range(start, start + size)) for start in starts]

    def losses(self, model: SequenceModel, part: Examples, state: Nest) -> Iterator[WindowLoss]:
        """Squared error or cross-entropy, summed; no sequence goes on in the next batch."""
        outputs = model(_inputs(model, part), self.problem.targets, self.config.training.truncate)
        yield WindowLoss(self.problem.loss(outputs, part.targets).sum(), None, last=True)

    def validate(self, model: SequenceModel, data: Generated, rank: int, size: int) -> tuple[float, float, int]:
        """Summed loss and score, and how many sequences they are of."""
        measured = self._measure(model, self.open("validation"), rank, size)
        return sum(measured.losses), sum(measured.merits), len(measured.losses)

    def scores(self, shares: Sequence[tuple[float, float, int]]) -> dict[str, float]:
        """Loss, and mean squared error or accuracy."""
        losses, merits, counts = zip(*shares, strict=True)
        return {"loss": sum(losses) / sum(counts), self.problem.metric: sum(merits) / sum(counts)}

    def open(self, split: str) -> Drawn:
        """The fixed sequences of `validation` or `test`; those of training are not fixed."""
        sizes = {"validation": self.config.data.validation, "test": self.config.data.test}
        if split not in sizes:
            hint = did_you_mean(split, sizes)
            raise UserError(f"--split {split}: a memory problem has fixed sequences for validation and test.{hint}")
        return self._drawn(split, range(sizes[split]))

    def shares(self, data: Drawn) -> int:
        """One a hundred sequences."""
        return -(-len(data.indices) // SHARE)

    def examine(self, model: SequenceModel, data: Drawn, rank: int, size: int) -> Measured:
        """Runs the sequences `rank::size`."""
        return self._measure(model, data, rank, size)

    def findings(self, model: SequenceModel, data: Drawn, shares: Sequence[Measured]) -> Findings:
        """Means over the sequences with their intervals, beside what is reached without a memory."""
        name = self.problem.metric
        values = {name: _dealt_back([share.merits for share in shares])}
        if name != "mse":  # which is the loss
            values["loss"] = _dealt_back([share.losses for share in shares])
        scores = {score: sum(each) / len(each) for score, each in values.items()}
        answers = _dealt_back([share.answers for share in shares])
        targets = _dealt_back([share.targets for share in shares])
        return Findings(
            scores=scores,
            targets=data.tokens,
            intervals={score: mean_interval(each) for score, each in values.items()},
            outputs=[
                {"sequence": number, "target": target, "output": answer, name: merit}
                for number, (target, answer, merit) in enumerate(zip(targets, answers, values[name], strict=True))
            ],
            tables=[
                Table(
                    "With and without memory",
                    "Without memory: the best answer that looks at no input, in closed form.",
                    ["Score", "This model", "Without memory"],
                    [
                        [
                            metric_info(score).label,
                            metric_info(score).format(value),
                            metric_info(score).format(self.baseline[score]),
                        ]
                        for score, value in scores.items()
                    ],
                )
            ],
        )

    @torch.inference_mode()
    def _measure(self, model: SequenceModel, data: Drawn, rank: int, size: int) -> Measured:
        model.eval()
        measured = Measured([], [], [], [])
        mine = data.indices[rank::size]
        for start in range(0, len(mine), SHARE):
            drawn = self.problem.examples(data.seed, data.split, mine[start : start + SHARE])
            drawn = drawn.to(next(model.parameters()).device)
            outputs = model(_inputs(model, drawn), self.problem.targets)
            answers, scored = self.problem.answers(outputs), self.problem.scored
            measured.losses.extend(self.problem.loss(outputs, drawn.targets).double().mean(1).tolist())
            measured.merits.extend(self.problem.merit(answers, drawn.targets).double().mean(1).tolist())
            measured.answers.extend(answers[:, -scored:].tolist())
            measured.targets.extend(drawn.targets[:, -scored:].tolist())
        return measured

    def _drawn(self, split: str, indices: range) -> Drawn:
        return Drawn(self.problem, self.config.seed, split, indices)


def _inputs(model: SequenceModel, examples: Examples) -> Tensor:
    return examples.inputs.to(model.head.weight.dtype)


def _dealt_back(shares: Sequence[list[Any]]) -> list[Any]:
    """Puts what was dealt out in turn back into its order."""
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]
