"""Answer heads of visual question answering: classes, vectors of words, or written words."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.batching import AnswerClasses, AnswerTexts, CandidateTexts, QuestionBatch, join_answers
from unrolled.data.photo_corpus import QuestionSplit
from unrolled.data.tokenizer import BEGIN, UNKNOWN, Vocabulary
from unrolled.decoding import Ensemble, EnsembleInputs, Strategy, decode, length_limits, make_outputs, resolve_auto
from unrolled.errors import UserError
from unrolled.metrics import pairwise_scores
from unrolled.models import (
    AnswerClassifier,
    EncoderDecoder,
    EncoderOutput,
    FusedFeatures,
    build_answer_classifier,
    build_answer_generator,
)
from unrolled.tasks.base import SYMBOLS, Prediction, greedy_strategy
from unrolled.tasks.image_inputs import FeatureShape


def normalize_answer(answer: str) -> str:
    """Returns an answer as it is learned and compared: in lower case, with single spaces."""
    return " ".join(answer.lower().split())


Scores = list[list[float]]
"""Log-probabilities of the candidates of every question, up to a constant per question; −∞ is impossible."""


class AnswerHead(ABC):
    """One way of answering."""

    @abstractmethod
    def build(self, shape: FeatureShape, network: nn.Module | None) -> nn.Module:
        """Builds the model, with fresh parameters drawn from torch's generator."""

    @abstractmethod
    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        """Returns the rows of the questions whose answers the model can give."""

    @abstractmethod
    def num_targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        """Returns the number of targets of these questions."""

    @abstractmethod
    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses | AnswerTexts:
        """Returns the training targets of these questions."""

    @abstractmethod
    def loss(self, model: Any, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Returns the summed cross-entropy (nats) of the targets."""

    @torch.inference_mode()
    def predict(
        self, model: nn.Module, batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None
    ) -> list[Prediction]:
        """Answers questions, independently of the order of candidates.

        Args:
            model: one model, or an ensemble (see `member_models`).
            choices: candidates of each question; may be empty.
            strategy: of written answers; `None`: greedy.
        """
        orders = [canonical_order(row) for row in choices]
        ordered = [[row[i] for i in order] for row, order in zip(choices, orders, strict=True)]
        answers, scores = self._answer(member_models(model), batch, ordered, strategy)
        rows = zip(answers, zip(*scores, strict=True), orders, strict=True)
        return [reorder(average_prediction(answer, row), order) for answer, row, order in rows]

    @abstractmethod
    def _answer(
        self, models: list[Any], batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None
    ) -> tuple[list[str], list[Scores]]:
        """Returns the free answers of the ensemble, and the scores of the candidates by every model."""

    @torch.inference_mode()
    def attention(self, model: nn.Module, batch: QuestionBatch) -> list[list[float]] | None:
        """Returns the attention weights of the positions for each question; `None` without attention."""
        return mean_attention([self._attention(member, batch) for member in member_models(model)])

    @abstractmethod
    def _attention(self, model: Any, batch: QuestionBatch) -> Tensor | None:
        """Returns one model's attention weights `(batch, positions)`."""


class ClassHead(AnswerHead):
    """Classification into the most frequent answers of training. `vocabulary`: number of tokens of questions;
    `answers`: normalised, by class."""

    def __init__(self, config: QuestionAnsweringConfig, vocabulary: int, answers: Sequence[str]) -> None:
        self._config, self._vocabulary = config, vocabulary
        self._answers = list(answers[: config.model.most_answers])
        self._classes = {answer: i for i, answer in enumerate(self._answers)}
        self._targets: dict[Path, AnswerClasses] = {}

    def build(self, shape: FeatureShape, network: nn.Module | None) -> AnswerClassifier:
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_answer_classifier(self._config.model, *sizes, network)

    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        return np.flatnonzero(self._all_targets(corpus).correct.numpy() >= 0)

    def num_targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        return len(rows)

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses:
        targets, indices = self._all_targets(corpus), torch.from_numpy(rows)
        return AnswerClasses(targets.correct[indices], targets.candidates[indices])

    def _all_targets(self, corpus: QuestionSplit) -> AnswerClasses:
        """Returns the classes of all questions of a split, computed once."""
        if corpus.path not in self._targets:
            questions = corpus.questions(np.arange(len(corpus)))
            most = max((len(question.choices) for question in questions), default=0)
            candidates = torch.full((len(questions), most), -1)
            for row, question in enumerate(questions):
                candidates[row, : len(question.choices)] = torch.tensor([*map(self._class, question.choices)])
            right = torch.tensor([self._class(question.answer) for question in questions])
            self._targets[corpus.path] = AnswerClasses(right, candidates)
        return self._targets[corpus.path]

    def _class(self, answer: str) -> int:
        return self._classes.get(normalize_answer(answer), -1)

    def loss(self, model: AnswerClassifier, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Returns the summed cross-entropy of the correct answers; in training interpolated with the cross-entropy
        among the candidates alone."""
        target, weight = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerClasses)
        fused = _fused(model, batch)
        loss = model.loss(fused, target.correct, smoothing)
        if not model.training or weight == 0:
            return loss
        return (1 - weight) * loss + weight * model.choice_loss(fused, target.correct, target.candidates, target.texts)

    def _answer(
        self, models: list[Any], batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None
    ) -> tuple[list[str], list[Scores]]:
        if strategy is not None:
            answers = self._config.model.answers
            raise UserError(f"--decode: model.answers {answers!r} chooses an answer and writes none; leave it out.")
        log_probs, scores = [], []
        for model in models:
            fused = _fused(model, batch)
            log_probs.append(model.log_probabilities(fused).double())
            scores.append(self._choice_scores(model, fused, log_probs[-1], choices))
        best = torch.stack(log_probs).logsumexp(0).argmax(1).tolist()
        return [self._answers[i] for i in best], scores

    def _choice_scores(
        self, model: AnswerClassifier, fused: FusedFeatures, log_probs: Tensor, choices: Sequence[Sequence[str]]
    ) -> Scores:
        """Returns the scores of the candidates, given the log-probabilities of all answers, `(batch, answers)`."""
        classes = [[self._class(choice) for choice in row] for row in choices]
        return [
            [values[i] if i >= 0 else -math.inf for i in row]
            for values, row in zip(log_probs.tolist(), classes, strict=True)
        ]

    def _attention(self, model: AnswerClassifier, batch: QuestionBatch) -> Tensor | None:
        """Returns the weights of the last attention step."""
        return _fused(model, batch).weights


def _fused(model: AnswerClassifier, batch: QuestionBatch) -> FusedFeatures:
    fused: FusedFeatures = model(batch.photos, batch.photo_index, batch.tokens, batch.mask)
    return fused


class VectorHead(ClassHead):
    """Classification by vectors of the answers' words, so that candidates need not be answers of training; arguments as
    of `ClassHead`, with the vocabulary of questions and answers."""

    def __init__(self, config: QuestionAnsweringConfig, vocabulary: Vocabulary, answers: Sequence[str]) -> None:
        super().__init__(config, len(vocabulary), answers)
        self._words = vocabulary

    def build(self, shape: FeatureShape, network: nn.Module | None) -> AnswerClassifier:
        (texts,) = self._texts([self._answers])
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_answer_classifier(self._config.model, *sizes, network, texts)

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses:
        texts = self._texts([question.choices for question in corpus.questions(rows)])
        return replace(super().target(corpus, rows), texts=texts)

    def _choice_scores(
        self, model: AnswerClassifier, fused: FusedFeatures, log_probs: Tensor, choices: Sequence[Sequence[str]]
    ) -> Scores:
        """As in the base class; a candidate none of whose words is in an answer of training is impossible."""
        texts = self._texts(choices).to(log_probs.device)
        scores = model.text_logits(fused, texts).double().tolist() if texts.shape[1] else [[] for _ in choices]
        return [values[: len(row)] for values, row in zip(scores, choices, strict=True)]

    def _texts(self, answers: Sequence[Sequence[str]]) -> Tensor:
        """Returns the tokens of several answers per row, `(rows, answers, words)`, padded with -1, without unknown
        words."""
        encoded = iter(self._words.encode([normalize_answer(answer) for row in answers for answer in row]))
        known = [[[token for token in next(encoded) if token != UNKNOWN] for _ in row] for row in answers]
        longest = max((len(tokens) for row in known for tokens in row), default=0)
        texts = torch.full((len(known), max(map(len, known), default=0), longest), -1)
        for i, row in enumerate(known):
            for j, tokens in enumerate(row):
                texts[i, j, : len(tokens)] = torch.tensor(tokens)
        return texts


NO_TOKENS = np.empty(0, dtype=np.int32)


class WordHead(AnswerHead):
    """Written answers; candidates are ranked by their likelihood (Zhu et al. 2016, "Visual7W"). `vocabulary` is that of
    questions and answers."""

    def __init__(self, config: QuestionAnsweringConfig, vocabulary: Vocabulary) -> None:
        self._config, self._vocabulary = config, vocabulary
        self._decoding = resolve_auto(config.decoding, config.training.precision)
        self._reads_question = config.model.sees != "picture"

    def build(self, shape: FeatureShape, network: nn.Module | None) -> EncoderDecoder:
        return build_answer_generator(
            self._config.model, shape.channels, shape.positions, len(self._vocabulary), network
        )

    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        return np.arange(len(corpus))

    def num_targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        """Returns the number of the answers' tokens, end symbols included."""
        return int(corpus.lengths[rows, 1].sum())

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerTexts:
        """Returns questions followed by their answers, and by every candidate where the loss takes them."""
        questions = corpus.tokens("question_tokens", rows) if self._reads_question else [NO_TOKENS] * len(rows)
        text = join_answers(questions, corpus.tokens("answer_tokens", rows))
        if self._config.training.candidates == 0:
            return text
        asked = corpus.questions(rows)
        question_index = np.repeat(np.arange(len(rows)), [len(question.choices) for question in asked])
        if not len(question_index):
            return text
        candidates = self._tokens([choice for question in asked for choice in question.choices])
        correct = [i == question.answer_index for question in asked for i in range(len(question.choices))]
        texts = join_answers([questions[i] for i in question_index], candidates)
        return replace(text, candidates=CandidateTexts(texts, torch.from_numpy(question_index), torch.tensor(correct)))

    def loss(self, model: EncoderDecoder, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Returns the summed cross-entropy of the answers' words under teacher forcing; in training interpolated with
        the cross-entropy of the correct one among the candidates."""
        target, weight = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerTexts)
        memory = model.encode(batch.photos).select(batch.photo_index)
        loss = model.loss(memory, target.decoder_inputs, target.targets, target.answer_mask, smoothing)
        if not model.training or target.candidates is None:
            return loss
        texts, question_index = target.candidates.texts, target.candidates.questions
        tensors = texts.decoder_inputs, texts.targets, texts.answer_mask
        memory = memory.select(question_index)
        choice_loss = model.choice_loss(memory, *tensors, question_index, target.candidates.correct)
        return (1 - weight) * loss + weight * choice_loss

    def _answer(
        self, models: list[Any], batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None
    ) -> tuple[list[str], list[Scores]]:
        memories = [self._encode(model, batch) for model in models]
        scores = [self._choice_scores(*pair, choices) for pair in zip(models, memories, strict=True)]
        return self._decode(models, memories, strategy), scores

    def _attention(self, model: EncoderDecoder, batch: QuestionBatch) -> Tensor | None:
        """Returns the weights of the step that predicts the answer's first word."""
        if not model.attends:
            return None
        memory = self._encode(model, batch)
        begin = torch.full((len(batch),), BEGIN, device=batch.photo_index.device)
        _, _, weights = model.step_with_attention(begin, model.start(memory), memory)
        return weights

    def _encode(self, model: EncoderDecoder, batch: QuestionBatch) -> EncoderOutput:
        """Encodes the photographs and reads the questions."""
        memory = model.encode(batch.photos).select(batch.photo_index)
        return model.read_prefix(memory, batch.tokens, batch.mask) if self._reads_question else memory

    def _choice_scores(self, model: EncoderDecoder, memory: EncoderOutput, choices: Sequence[Sequence[str]]) -> Scores:
        """Returns the log-likelihoods of the candidates."""
        texts = [choice for row in choices for choice in row]
        if not texts:
            return [[] for _ in choices]
        device, counts = memory.states.device, torch.tensor([len(row) for row in choices])
        question_index = torch.arange(len(choices)).repeat_interleave(counts).to(device)
        target = join_answers([NO_TOKENS] * len(texts), self._tokens(texts)).to(device)
        tensors = target.decoder_inputs, target.targets, target.answer_mask
        log_probs = iter(model.sequence_log_probs(memory.select(question_index), *tensors).double().tolist())
        return [[next(log_probs) for _ in row] for row in choices]

    def _decode(
        self, models: Sequence[EncoderDecoder], memories: Sequence[EncoderOutput], strategy: Strategy | None
    ) -> list[str]:
        strategy = strategy or greedy_strategy(self._decoding)
        searched: tuple[Any, Any] = models[0], memories[0]
        if len(models) > 1:
            searched = Ensemble(models), EnsembleInputs(tuple(memories))
        decoded = decode(*searched, strategy, **SYMBOLS)
        limits = length_limits(strategy, None, None, len(memories[0]))
        outputs = make_outputs(decoded, strategy, self._vocabulary.decode, limits, pairwise_scores)
        return [output.text for output in outputs]

    def _tokens(self, answers: Sequence[str]) -> list[list[int]]:
        return self._vocabulary.encode([normalize_answer(answer) for answer in answers])


def canonical_order(choices: Sequence[str]) -> list[int]:
    """Returns indices of the candidates in an order that is independent of the given one, so that the choice among
    equally probable candidates is, too."""
    return sorted(range(len(choices)), key=choices.__getitem__)


def reorder(prediction: Prediction, order: Sequence[int]) -> Prediction:
    """Returns the prediction for candidates in another order: `order[i]` is the new index of candidate i."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    chosen = order[prediction.chosen] if order else -1
    return Prediction(prediction.answer, tuple(prediction.probabilities[i] for i in inverse), chosen)


def average_prediction(answer: str, scores: Sequence[Sequence[float]]) -> Prediction:
    """Returns the prediction with the mean probabilities of all models. `scores`: log-probabilities of the candidates,
    in `canonical_order`, up to a constant, for every model; −∞ is impossible."""
    if not scores[0]:
        return Prediction(answer)
    probabilities = np.mean([_softmax(row) for row in scores], axis=0)
    return Prediction(answer, tuple(probabilities.tolist()), int(probabilities.argmax()))


def _softmax(scores: Sequence[float]) -> np.ndarray:
    """Returns the softmax of scores, uniform where all are impossible."""
    logs = np.asarray(scores, dtype=np.float64)
    possible = np.isfinite(logs)
    weights = np.exp(np.where(possible, logs, 0.0) - logs[possible].max()) * possible if possible.any() else ~possible
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities


def member_models(model: nn.Module) -> list[Any]:
    """Returns the models of an ensemble, or the one model."""
    return list(model) if isinstance(model, nn.ModuleList) else [model]


def mean_attention(each: Sequence[Tensor | None]) -> list[list[float]] | None:
    """Returns the mean of the models' attention weights `(batch, positions)`; `None` if a model has none."""
    weights = [one for one in each if one is not None]
    if len(weights) < len(each):
        return None
    return [list(map(float, row)) for row in torch.stack(weights).mean(0).cpu().numpy()]
