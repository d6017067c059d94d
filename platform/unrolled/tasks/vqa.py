"""Visual question answering: a photograph and a question in, an answer out; one of several candidates, or free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.batching import QuestionBatch, pad, plan_by_photo, plan_texts
from unrolled.data.photo_corpus import QuestionCorpus, QuestionSplit, prepare_questions
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Box, Question
from unrolled.decoding import Strategy, resolve_auto
from unrolled.errors import UserError
from unrolled.recurrence import Nest
from unrolled.tasks.base import MetricResults, MetricTask, Prediction, VQATask, WindowLoss, interleave
from unrolled.tasks.image_inputs import ImageInputs, ImageInputTask, ImageTextBatch, PreparedImageText, photo_address
from unrolled.tasks.vqa_heads import AnswerHead, ClassHead, VectorHead, WordHead, normalize_answer
from unrolled.tasks.vqa_results import AnsweredQuestion, check_metrics, check_wordnet, score_answers, vqa_results

SHARD_SIZE = 256
"""Questions per shard of an evaluation."""
ValidationShard = tuple[float, int, list[AnsweredQuestion]]
"""Summed loss, number of targets, answered questions."""


@dataclass(frozen=True)
class OpenedQuestions:
    """The questions of a split whose photographs can be read.

    Attributes:
        names: of all photographs of the split.
        boxes: of the candidates by id, in pixels, where these are regions.
    """

    split: str
    names: Sequence[str]
    questions: list[Question]
    boxes: Mapping[str, Box]

    def address(self, question: Question) -> str:
        """Returns the address of a question's photograph."""
        return photo_address(self.split, question.photo, self.names[question.photo])


class QuestionTask(ImageInputTask, MetricTask):
    """A task on questions about photographs, `answer_batch` of which are answered at a time."""

    answer_batch: int

    @abstractmethod
    def answer_some(self, model: Any, split: str, questions: Sequence[Question]) -> list[Prediction]:
        """Answers at most `answer_batch` questions about photographs of a split."""

    @torch.inference_mode()
    def answer(self, model: Any, split: str, questions: Sequence[Question]) -> list[AnsweredQuestion]:
        """Answers questions about photographs of a split."""
        model.eval()
        answered: list[AnsweredQuestion] = []
        for start in range(0, len(questions), self.answer_batch):
            some = questions[start : start + self.answer_batch]
            predictions = self.answer_some(model, split, some)
            answered += [AnsweredQuestion(*pair) for pair in zip(some, predictions, strict=True)]
        return answered

    def validation_scores(self, shards: Sequence[ValidationShard]) -> dict[str, float]:
        losses, targets, answered = zip(*shards, strict=True)
        return {"loss": sum(losses) / max(1, sum(targets))} | score_answers(self.metric_names, interleave(answered))

    def open(self, split: str) -> OpenedQuestions:
        asked, unreadable = open_questions(self.config.data, split), self.images.unreadable(split)
        questions = [question for question in asked.questions if question.photo not in unreadable]
        return OpenedQuestions(split, asked.names, questions, asked.boxes)

    def num_shards(self, data: OpenedQuestions) -> int:
        return -(-len(data.questions) // SHARD_SIZE)

    def evaluate_shard(self, model: Any, data: OpenedQuestions, rank: int, size: int) -> list[AnsweredQuestion]:
        return self.answer(model, data.split, data.questions[rank::size])


class QuestionAnswering(QuestionTask, VQATask):
    """A model that sees a photograph, reads a question and answers by `model.answers`."""

    ensemble_keys = ("model.answers", "model.most_answers", "model.sees")

    def __init__(self, config: QuestionAnsweringConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.answer_batch = config.decoding.batch
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.head: AnswerHead
        if config.model.answers == "words":
            self.head = WordHead(config, self.vocabulary)
        elif config.model.answers == "vectors":
            self.head = VectorHead(config, self.vocabulary, QuestionCorpus(folder).answers)
        else:
            self.head = ClassHead(config, len(self.vocabulary), QuestionCorpus(folder).answers)

    @classmethod
    def prepare_corpus(cls, config: QuestionAnsweringConfig, fingerprint: str | None) -> QuestionCorpus:
        check_wordnet(config)  # before minutes are spent on the data
        corpus = prepare_questions(config.data, normalize_answer, fingerprint)
        validation = corpus.split("validation")
        check_metrics(config, validation.questions(range(len(validation))))
        return corpus

    @classmethod
    def image_inputs(cls, config: QuestionAnsweringConfig) -> ImageInputs:
        return ImageInputs(config, grid=config.model.attends, blind=config.model.sees == "question")

    def build_model(self) -> nn.Module:
        return self.head.build(self.shape, self.images.build_backbone())

    def describe(self, data: PreparedImageText) -> tuple[str, str]:
        model, corpus = self.config.model, data.split("train")
        learned = len(self._learnable_rows(data, "train"))
        sees = "sees no photograph" if self.images.blind else f"{model.features.backbone} {self.shape.channels}"
        attention = ", attention" if model.attends else ""
        reads = "" if model.sees == "picture" else f", {model.question.cell} {model.question.hidden}"
        left = f" of {len(corpus):,}" if learned < len(corpus) else ""
        return (
            f"answers by {model.answers}, {sees}{reads}{attention}",
            f"{learned:,}{left} questions about {len(corpus.names):,} photographs, vocabulary {len(self.vocabulary):,}",
        )

    def plan(self, data: PreparedImageText, epoch: int) -> list[ImageTextBatch]:
        """Returns batches within the token budget; every question whose answer can be learned once."""
        return self._plan(data, "train", self.config.seed, epoch)

    def _plan(self, data: PreparedImageText, split: str, seed: int, epoch: int) -> list[ImageTextBatch]:
        corpus, rows = data.split(split), self._learnable_rows(data, split)
        limits: dict[str, Any] = {"batch_tokens": self.config.training.batch_tokens, "seed": seed, "epoch": epoch}
        lengths = corpus.lengths[rows].sum(1)
        if self.config.training.together or self.config.model.features.fine_tune:
            planned = plan_by_photo(lengths, corpus.photo_index[rows], **limits)
        else:
            planned = plan_texts(lengths, **limits)
        view_epoch = epoch if split == "train" else None
        return [ImageTextBatch(self, corpus, split, np.sort(rows[batch]), view_epoch) for batch in planned]

    def _learnable_rows(self, data: PreparedImageText, split: str) -> np.ndarray:
        """Returns the rows whose answers the model can give and whose photographs can be read."""
        return np.intersect1d(self.head.learnable(data.split(split)), data.readable_rows(split))

    def num_targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        return self.head.num_targets(corpus, rows)

    def collate(self, batch: ImageTextBatch, rows: np.ndarray, photos: list[int], photo_index: Tensor) -> QuestionBatch:
        inputs, target = self.images.read(batch.split, photos, batch.epoch), self.head.target(batch.corpus, rows)
        return QuestionBatch(inputs, photo_index, *pad(batch.corpus.tokens("question_tokens", rows)), target)

    def losses(self, model: Any, shard: QuestionBatch, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed cross-entropy of the correct answers; batches are independent of each other."""
        yield WindowLoss(self.head.loss(model, shard, self.config.training.label_smoothing), None, last=True)

    @torch.inference_mode()
    def validate(self, model: Any, data: PreparedImageText, rank: int, size: int) -> ValidationShard:
        model.eval()
        device, total = next(model.parameters()).device, 0.0
        for batch in self._plan(data, "validation", 0, 0):
            if shard := batch.shard(rank, size):
                total += float(self.head.loss(model, shard.to(device)).double())
        corpus = data.split("validation")
        targets = self.num_targets(corpus, self._learnable_rows(data, "validation")) if rank == 0 else 0
        rows = data.readable_rows("validation")[rank::size]
        return total, targets, self.answer(model, "validation", corpus.questions(rows))

    def open(self, split: str) -> OpenedQuestions:
        data = super().open(split)
        check_metrics(self.config, data.questions)
        return data

    def summarize(self, model: Any, data: OpenedQuestions, shards: Sequence[list[AnsweredQuestion]]) -> MetricResults:
        """Returns scores with intervals, overall and by kind of question, and baselines."""

        def attention(one: AnsweredQuestion) -> list[float] | None:
            return self.attention(model, data.address(one.question), one.question.question)

        training = open_questions(self.config.data, "train").questions if data.questions[0].choices else []
        return vqa_results(self.metric_names, data.address, interleave(shards), training, attention)

    def answer_some(self, model: Any, split: str, questions: Sequence[Question]) -> list[Prediction]:
        photos, photo_index = np.unique([question.photo for question in questions], return_inverse=True)
        inputs = self.images.read(split, photos.tolist())
        batch = self._batch(inputs, photo_index, [question.question for question in questions])
        batch = batch.to(next(model.parameters()).device)
        return self.head.predict(model, batch, [question.choices for question in questions], None)

    def _batch(self, inputs: Tensor, photo_index: np.ndarray, questions: Sequence[str]) -> QuestionBatch:
        return QuestionBatch(inputs, torch.from_numpy(photo_index), *pad(self.vocabulary.encode(questions)))

    @torch.inference_mode()
    def ask(
        self, model: Any, photo: str, question: str, choices: Sequence[str] = (), strategy: Strategy | None = None
    ) -> Prediction:
        model.eval()
        if len(set(map(normalize_answer, choices))) < len(choices) or len(choices) == 1:
            raise UserError("--choices: wants two candidates or more, each once.")
        batch = self._single(photo, question).to(next(model.parameters()).device)
        (prediction,) = self.head.predict(model, batch, [choices], strategy)
        return prediction

    def attention(self, model: Any, photo: str, question: str) -> list[float] | None:
        """Returns the attention weights of the grid's positions, row by row; `None` without attention."""
        model.eval()
        batch = self._single(photo, question).to(next(model.parameters()).device)
        weights = self.head.attention(model, batch)
        return None if weights is None else weights[0]

    def _single(self, photo: str, question: str) -> QuestionBatch:
        return self._batch(self.images.read_named([photo]), np.zeros(1, dtype=np.int64), [question])
