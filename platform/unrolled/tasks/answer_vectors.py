"""Answering by vectors: answers are known by the words in them, so that candidates may be new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.answering import QuestionAnsweringConfig
from unrolled.data.question_batches import AnswerClass
from unrolled.data.question_corpus import Normal, QuestionCorpus
from unrolled.data.vocabulary import UNKNOWN, Vocabulary
from unrolled.models.answer_classifier import AnswerClassifier
from unrolled.models.answerer import build_classifier
from unrolled.models.joint import Joined
from unrolled.tasks.answer_classes import Classes
from unrolled.tasks.pictures import Shape


class Vectors(Classes):
    """Args: `vocabulary`, of questions and answers; others as of `Classes`."""

    def __init__(
        self, config: QuestionAnsweringConfig, vocabulary: Vocabulary, answers: Sequence[str], normal: Normal
    ) -> None:
        super().__init__(config, len(vocabulary), answers, normal)
        self._words = vocabulary

    def build(self, shape: Shape, network: nn.Module | None) -> AnswerClassifier:
        """Makes the model."""
        (texts,) = self._texts([self._answers])
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_classifier(self._config.model, *sizes, network, texts)

    def target(self, corpus: QuestionCorpus, rows: np.ndarray) -> AnswerClass:
        """Numbers of the right answers and of the candidates, and the words of these."""
        texts = self._texts([each.choices for each in corpus.questions(rows)])
        return replace(super().target(corpus, rows), texts=texts)

    def _own_scores(
        self, model: AnswerClassifier, joined: Joined, logs: Tensor, choices: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """A candidate of whose words none is in an answer of training is impossible."""
        texts = self._texts(choices).to(logs.device)
        scores = model.text_scores(joined, texts).double().tolist() if texts.shape[1] else [[] for _ in choices]
        return [row[: len(own)] for row, own in zip(scores, choices, strict=True)]

    def _texts(self, answers: Sequence[Sequence[str]]) -> Tensor:
        """Tokens of several answers a row, `(rows, most, words)`, padded with -1; those unknown are left out."""
        encoded = iter(self._words.encode([self._normal(answer) for own in answers for answer in own]))
        known = [[[token for token in next(encoded) if token != UNKNOWN] for _ in own] for own in answers]
        longest = max((len(tokens) for own in known for tokens in own), default=0)
        texts = torch.full((len(known), max(map(len, known), default=0), longest), -1)
        for row, own in enumerate(known):
            for place, tokens in enumerate(own):
                texts[row, place, : len(tokens)] = torch.tensor(tokens)
        return texts
