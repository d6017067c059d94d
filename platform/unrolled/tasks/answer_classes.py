"""Answering by classes: the answers that are frequent in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.answering import QuestionAnsweringConfig
from unrolled.data.question_batches import AnswerClass, QuestionBatch
from unrolled.data.question_corpus import Normal, QuestionCorpus
from unrolled.decoding import Strategy
from unrolled.errors import UserError
from unrolled.models.answer_classifier import AnswerClassifier
from unrolled.models.answerer import build_classifier
from unrolled.models.joint import Joined
from unrolled.tasks.answering import mean_weights, models_of, reply
from unrolled.tasks.pictures import Shape
from unrolled.tasks.task import Reply


class Classes:
    """Args:
    vocabulary: tokens of questions.
    answers: in the order of their numbers, as they are compared.
    normal: makes of an answer as people gave it what is compared.
    """

    def __init__(
        self, config: QuestionAnsweringConfig, vocabulary: int, answers: Sequence[str], normal: Normal
    ) -> None:
        self._config, self._vocabulary, self._normal = config, vocabulary, normal
        self._answers = list(answers[: config.model.most_answers])
        self._numbers = {answer: number for number, answer in enumerate(self._answers)}
        self._known: dict[Path, AnswerClass] = {}

    def build(self, shape: Shape, network: nn.Module | None) -> AnswerClassifier:
        """Makes the model."""
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_classifier(self._config.model, *sizes, network)

    def learnable(self, corpus: QuestionCorpus) -> np.ndarray:
        """Rows of the questions whose answer has a number."""
        return np.flatnonzero(self._of(corpus).right.numpy() >= 0)

    def targets(self, corpus: QuestionCorpus, rows: np.ndarray) -> int:
        """One a question."""
        return len(rows)

    def target(self, corpus: QuestionCorpus, rows: np.ndarray) -> AnswerClass:
        """Numbers of the right answers and of the candidates."""
        every, chosen = self._of(corpus), torch.from_numpy(rows)
        return AnswerClass(every.right[chosen], every.candidates[chosen])

    def loss(self, model: AnswerClassifier, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the right answers, summed; while the model is trained, mixed with that among the candidates
        alone."""
        target, share = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerClass)
        joined = _joined(model, batch)
        loss = model.loss(joined, target.right, smoothing)
        if not model.training or share == 0:
            return loss
        return (1 - share) * loss + share * model.choice_loss(joined, target.right, target.candidates, target.texts)

    @torch.inference_mode()
    def replies(
        self,
        model: nn.Module,
        batch: QuestionBatch,
        choices: Sequence[Sequence[str]],
        strategy: Strategy | None = None,
    ) -> list[Reply]:
        """The likeliest of all answers, and of the candidates; a candidate that is no class is impossible."""
        if strategy is not None:
            way = self._config.model.answers
            raise UserError(f"--decode: model.answers {way!r} chooses an answer and writes none; leave it out.")
        everything, scores = [], []
        for one in models_of(model):
            joined = _joined(one, batch)
            everything.append(one.log_probabilities(joined).double())
            scores.append(self._own_scores(one, joined, everything[-1], choices))
        likeliest, rows = torch.stack(everything).logsumexp(0).argmax(1).tolist(), zip(*scores, strict=True)
        return [reply(self._answers[best], own, row) for best, own, row in zip(likeliest, choices, rows, strict=True)]

    def _own_scores(
        self, model: AnswerClassifier, joined: Joined, logs: Tensor, choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probabilities of the candidates of every question, up to a constant each; `logs`: of all answers."""
        numbers = [[self._number(choice) for choice in own] for own in choices]
        known = logs.tolist()
        return [
            [row[number] if number >= 0 else -math.inf for number in own]
            for row, own in zip(known, numbers, strict=True)
        ]

    @torch.inference_mode()
    def attention(self, model: nn.Module, batch: QuestionBatch, answers: Sequence[str]) -> list[list[float]] | None:
        """Weights of the last look, whatever the answers."""
        return mean_weights([_joined(one, batch).weights for one in models_of(model)])

    def _number(self, answer: str) -> int:
        return self._numbers.get(self._normal(answer), -1)

    def _of(self, corpus: QuestionCorpus) -> AnswerClass:
        """Returns the numbers of all questions of a split, made once."""
        if corpus.path not in self._known:
            asked = corpus.questions(np.arange(len(corpus)))
            most = max((len(each.choices) for each in asked), default=0)
            candidates = torch.full((len(asked), most), -1)
            for row, each in enumerate(asked):
                candidates[row, : len(each.choices)] = torch.tensor([*map(self._number, each.choices)])
            right = torch.tensor([self._number(each.answer) for each in asked])
            self._known[corpus.path] = AnswerClass(right, candidates)
        return self._known[corpus.path]


def _joined(model: AnswerClassifier, batch: QuestionBatch) -> Joined:
    joined: Joined = model(batch.pictures, batch.owners, batch.tokens, batch.mask)
    return joined
