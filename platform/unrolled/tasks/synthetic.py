"""Synthetic memory tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unrolled.config.synthetic import MemoryConfig
from unrolled.data.synthetic_tasks import PROBLEMS, Examples, Problem
from unrolled.errors import UserError, did_you_mean
from unrolled.metrics import mean_interval, metric_info
from unrolled.models import SequenceModel, build_dropout, build_stack
from unrolled.recurrence import Nest
from unrolled.tasks.base import MetricResults, MetricTask, Table, WindowLoss, interleave

SHARD_SIZE = 100
"""Sequences per shard of an evaluation, and per batch."""


@dataclass(frozen=True)
class ExampleRange:
    """A global batch or a fixed split: numbered examples, generated where they are needed."""

    problem: Problem
    seed: int
    split: str
    indices: range

    @property
    def tokens(self) -> int:
        return len(self.indices) * self.problem.num_targets

    def shard(self, rank: int, size: int) -> Examples | None:
        mine = self.indices[rank::size]
        return self.problem.examples(self.seed, self.split, mine) if mine else None


@dataclass(frozen=True)
class NoData:
    """Prepared data of a task whose examples follow from its config alone."""

    fingerprint: str

    def save(self, folder: Path) -> None:
        """Creates the folder, which stays empty."""
        folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class ShardResults:
    """Results of one shard: mean loss, mean score, answers and targets of every sequence."""

    losses: list[float]
    scores: list[float]
    answers: list[list[float]]
    targets: list[list[float]]


class SyntheticMemory(MetricTask):
    """A recurrent network on a problem of `unrolled.data.synthetic_tasks`."""

    def __init__(self, config: MemoryConfig, folder: Path) -> None:
        self.config = config
        self.problem = PROBLEMS[config.data.problem](config.data.length)
        self.metric_names, self.baseline = (self.problem.metric,), self.problem.baseline

    @classmethod
    def prepare(cls, config: MemoryConfig, fingerprint: str | None = None) -> NoData:
        data = config.data
        return NoData(f"{data.problem}-{data.length}-{data.validation}-{data.test}-{config.seed}")

    def build_model(self) -> SequenceModel:
        settings = self.config.model
        stack = build_stack(settings, self.problem.num_features, settings.engine)
        return SequenceModel(stack, self.problem.num_outputs, build_dropout(settings))

    def describe(self, data: NoData) -> tuple[str, str]:
        settings, window = self.config.model, self.config.training.truncate
        layers = f"{settings.layers} layers of " if settings.layers > 1 else ""
        reach = "the whole sequence" if window is None else f"windows of {window:,} steps"
        info, baseline = metric_info(self.problem.metric), self.baseline[self.problem.metric]
        return (
            f"{layers}{settings.cell} {settings.hidden}, gradients through {reach}",
            f"{self.config.data.problem}: new sequences of {self.problem.steps:,} steps, "
            f"{self.config.data.validation:,} fixed ones to validate; without memory "
            f"{info.label.lower()} {info.format(baseline)}",
        )

    def plan(self, data: NoData, epoch: int) -> list[ExampleRange]:
        """Returns batches of sequences that occur once in the training."""
        size, steps = self.config.training.batch, self.config.training.epoch_steps
        starts = (size * step for step in range(epoch * steps, (epoch + 1) * steps))
        return [self._examples("train", range(start, start + size)) for start in starts]

    def losses(self, model: SequenceModel, shard: Examples, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed squared error or cross-entropy; the model itself truncates back-propagation."""
        outputs = model(_inputs(model, shard), self.problem.num_targets, self.config.training.truncate)
        yield WindowLoss(self.problem.loss(outputs, shard.targets).sum(), None, last=True)

    def validate(self, model: SequenceModel, data: NoData, rank: int, size: int) -> tuple[float, float, int]:
        """Returns summed loss, summed score and the number of sequences."""
        results = self.evaluate_shard(model, self.open("validation"), rank, size)
        return sum(results.losses), sum(results.scores), len(results.losses)

    def validation_scores(self, shards: Sequence[tuple[float, float, int]]) -> dict[str, float]:
        losses, scores, counts = zip(*shards, strict=True)
        return {"loss": sum(losses) / sum(counts), self.problem.metric: sum(scores) / sum(counts)}

    def open(self, split: str) -> ExampleRange:
        """Returns the fixed sequences of `validation` or `test`; those of training are not fixed."""
        sizes = {"validation": self.config.data.validation, "test": self.config.data.test}
        if split not in sizes:
            hint = did_you_mean(split, sizes)
            raise UserError(f"--split {split}: a memory problem has fixed sequences for validation and test.{hint}")
        return self._examples(split, range(sizes[split]))

    def num_shards(self, data: ExampleRange) -> int:
        return -(-len(data.indices) // SHARD_SIZE)

    @torch.inference_mode()
    def evaluate_shard(self, model: SequenceModel, data: ExampleRange, rank: int, size: int) -> ShardResults:
        model.eval()
        results = ShardResults([], [], [], [])
        mine = data.indices[rank::size]
        for start in range(0, len(mine), SHARD_SIZE):
            examples = self.problem.examples(data.seed, data.split, mine[start : start + SHARD_SIZE])
            examples = examples.to(next(model.parameters()).device)
            outputs = model(_inputs(model, examples), self.problem.num_targets)
            answers, scored = self.problem.predictions(outputs), self.problem.num_scored
            results.losses.extend(self.problem.loss(outputs, examples.targets).double().mean(1).tolist())
            results.scores.extend(self.problem.score(answers, examples.targets).double().mean(1).tolist())
            results.answers.extend(answers[:, -scored:].tolist())
            results.targets.extend(examples.targets[:, -scored:].tolist())
        return results

    def summarize(self, model: SequenceModel, data: ExampleRange, shards: Sequence[ShardResults]) -> MetricResults:
        """Returns means over the sequences with their intervals, and the scores of a model without memory."""
        name = self.problem.metric
        values = {name: interleave([shard.scores for shard in shards])}
        if name != "mse":  # which is the loss
            values["loss"] = interleave([shard.losses for shard in shards])
        scores = {score: sum(each) / len(each) for score, each in values.items()}
        answers = interleave([shard.answers for shard in shards])
        targets = interleave([shard.targets for shard in shards])
        return MetricResults(
            scores=scores,
            targets=data.tokens,
            intervals={score: mean_interval(each) for score, each in values.items()},
            outputs=[
                {"sequence": index, "target": target, "output": answer, name: value}
                for index, (target, answer, value) in enumerate(zip(targets, answers, values[name], strict=True))
            ],
            tables=[
                Table(
                    "With and without memory",
                    "Without memory: the best answer that looks at no input, in closed form.",
                    ["Score", "This model", "Without memory"],
                    [
                        [info.label, info.format(value), info.format(self.baseline[score])]
                        for score, value in scores.items()
                        for info in [metric_info(score)]
                    ],
                )
            ],
        )

    def _examples(self, split: str, indices: range) -> ExampleRange:
        return ExampleRange(self.problem, self.config.seed, split, indices)


def _inputs(model: SequenceModel, examples: Examples) -> Tensor:
    return examples.inputs.to(model.head.weight.dtype)
