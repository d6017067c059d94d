"""Answers of question answering: as classes, vectors or words.

What a model of question answering is asked, and what it replies; in either way of answering.

Answering by classes: the answers that are frequent in training.

Answering by vectors: answers are known by the words in them, so that candidates may be new.

Answering in words (Zhu et al. 2016, "Visual7W"): candidates by their likelihood, and answers written freely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.batching import AnswerClasses, AnswerTexts, CandidateTexts, QuestionBatch, join_answers
from unrolled.data.question_corpus import QuestionSplit
from unrolled.data.questions import Question
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN, Vocabulary
from unrolled.decoding import (
    Ensemble,
    EnsembleInputs,
    Greedy,
    Strategy,
    decode,
    length_limits,
    make_outputs,
    resolve_auto,
    resolve_precision,
)
from unrolled.errors import UserError
from unrolled.models import EncoderDecoder
from unrolled.models.builders import build_answer_classifier, build_answer_generator
from unrolled.models.encoders import EncoderOutput
from unrolled.models.vqa import AnswerClassifier, FusedFeatures
from unrolled.tasks.base import Reply
from unrolled.tasks.image_inputs import Shape


class Replied(NamedTuple):
    """A question, and what a model replied."""

    question: Question
    reply: Reply

    @property
    def chosen(self) -> str:
        """The candidate that was chosen."""
        return self.question.choices[self.reply.chosen]


class AnswerHead(Protocol):
    """A way of answering: by classes, or in words. To reply and to look it takes an ensemble, too (see `models_of`)."""

    def build(self, shape: Shape, network: nn.Module | None) -> nn.Module:
        """Makes the model, with fresh parameters drawn from torch's generator."""
        ...

    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        """Rows of the questions whose answers the model can give."""
        ...

    def targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        """How many targets these questions have."""
        ...

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses | AnswerTexts:
        """What is to be learned of these questions."""
        ...

    def loss(self, model: Any, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy (nats) of the targets, summed."""
        ...

    def replies(
        self, model: Any, batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None = None
    ) -> list[Reply]:
        """Answers questions, with candidates and without; `strategy` writes words, greedily if `None`."""
        ...

    def attention(self, model: Any, batch: QuestionBatch, answers: Sequence[str]) -> list[list[float]] | None:
        """Where the model looks for the answer to each question: weights of the positions; `None` if it looks at
        none."""
        ...


def in_order(choices: Sequence[str]) -> list[int]:
    """Returns places of candidates in an order that does not depend on the one they are given in: so neither does the
    choice among candidates that are equally likely."""
    return sorted(range(len(choices)), key=choices.__getitem__)


def reordered(reply: Reply, order: Sequence[int]) -> Reply:
    """Returns the reply for candidates in another order: `order[i]` is the new place of candidate i."""
    places = sorted(range(len(order)), key=order.__getitem__)
    chosen = order[reply.chosen] if order else -1
    return Reply(reply.answer, tuple(reply.probabilities[place] for place in places), chosen)


def reply(answer: str, choices: Sequence[str], scores: Sequence[Sequence[float]]) -> Reply:
    """Returns a reply.

    Args:
        choices: in the order of `in_order`, as are their scores.
        scores: of every model that answers, log-probabilities up to a constant each; −∞ is impossible.
    """
    if not choices:
        return Reply(answer)
    shares = np.mean([_shares(own) for own in scores], axis=0)
    return Reply(answer, tuple(shares.tolist()), int(shares.argmax()))


def _shares(scores: Sequence[float]) -> np.ndarray:
    logs = np.asarray(scores, dtype=np.float64)
    possible = np.isfinite(logs)
    weights = np.exp(np.where(possible, logs, 0.0) - logs[possible].max()) * possible if possible.any() else ~possible
    shares: np.ndarray = weights / weights.sum()
    return shares


def models_of(model: nn.Module) -> list[Any]:
    """Returns the models that answer together, the mean of whose probabilities counts, or the one that is alone."""
    return list(model) if isinstance(model, nn.ModuleList) else [model]


def mean_weights(each: Sequence[Tensor | None]) -> list[list[float]] | None:
    """Returns the mean of the models' weights of attention `(batch, positions)`; `None` if one looks at none."""
    seen = [weights for weights in each if weights is not None]
    if len(seen) < len(each):
        return None
    return [list(map(float, row)) for row in torch.stack(seen).mean(0).cpu().numpy()]


class Classes:
    """Args:
    vocabulary: tokens of questions.
    answers: in the order of their numbers, as they are compared.
    normal: makes of an answer as people gave it what is compared.
    """

    def __init__(
        self, config: QuestionAnsweringConfig, vocabulary: int, answers: Sequence[str], normal: Callable[[str], str]
    ) -> None:
        self._config, self._vocabulary, self._normal = config, vocabulary, normal
        self._answers = list(answers[: config.model.most_answers])
        self._numbers = {answer: number for number, answer in enumerate(self._answers)}
        self._known: dict[Path, AnswerClasses] = {}

    def build(self, shape: Shape, network: nn.Module | None) -> AnswerClassifier:
        """Makes the model."""
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_answer_classifier(self._config.model, *sizes, network)

    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        """Rows of the questions whose answer has a number."""
        return np.flatnonzero(self._of(corpus).correct.numpy() >= 0)

    def targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        """One a question."""
        return len(rows)

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses:
        """Numbers of the right answers and of the candidates."""
        every, chosen = self._of(corpus), torch.from_numpy(rows)
        return AnswerClasses(every.correct[chosen], every.candidates[chosen])

    def loss(self, model: AnswerClassifier, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the right answers, summed; while the model is trained, mixed with that among the candidates
        alone."""
        target, share = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerClasses)
        joined = _joined(model, batch)
        loss = model.loss(joined, target.correct, smoothing)
        if not model.training or share == 0:
            return loss
        return (1 - share) * loss + share * model.choice_loss(joined, target.correct, target.candidates, target.texts)

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
        self, model: AnswerClassifier, joined: FusedFeatures, logs: Tensor, choices: Sequence[Sequence[str]]
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

    def _of(self, corpus: QuestionSplit) -> AnswerClasses:
        """Returns the numbers of all questions of a split, made once."""
        if corpus.path not in self._known:
            asked = corpus.questions(np.arange(len(corpus)))
            most = max((len(each.choices) for each in asked), default=0)
            candidates = torch.full((len(asked), most), -1)
            for row, each in enumerate(asked):
                candidates[row, : len(each.choices)] = torch.tensor([*map(self._number, each.choices)])
            right = torch.tensor([self._number(each.answer) for each in asked])
            self._known[corpus.path] = AnswerClasses(right, candidates)
        return self._known[corpus.path]


def _joined(model: AnswerClassifier, batch: QuestionBatch) -> FusedFeatures:
    joined: FusedFeatures = model(batch.photos, batch.photo_index, batch.tokens, batch.mask)
    return joined


class Vectors(Classes):
    """Args: `vocabulary`, of questions and answers; others as of `Classes`."""

    def __init__(
        self,
        config: QuestionAnsweringConfig,
        vocabulary: Vocabulary,
        answers: Sequence[str],
        normal: Callable[[str], str],
    ) -> None:
        super().__init__(config, len(vocabulary), answers, normal)
        self._words = vocabulary

    def build(self, shape: Shape, network: nn.Module | None) -> AnswerClassifier:
        """Makes the model."""
        (texts,) = self._texts([self._answers])
        sizes = shape.channels, shape.positions, self._vocabulary, len(self._answers)
        return build_answer_classifier(self._config.model, *sizes, network, texts)

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerClasses:
        """Numbers of the right answers and of the candidates, and the words of these."""
        texts = self._texts([each.choices for each in corpus.questions(rows)])
        return replace(super().target(corpus, rows), texts=texts)

    def _own_scores(
        self, model: AnswerClassifier, joined: FusedFeatures, logs: Tensor, choices: Sequence[Sequence[str]]
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


NONE = np.empty(0, dtype=np.int32)


class Words:
    """Args:
    vocabulary: of questions and answers.
    normal: makes of an answer as people gave it what is learned.
    """

    def __init__(self, config: QuestionAnsweringConfig, vocabulary: Vocabulary, normal: Callable[[str], str]) -> None:
        self._config, self._vocabulary, self._normal = config, vocabulary, normal
        self._decoding = resolve_auto(config.decoding, config.training.precision)
        self._reads = config.model.sees != "picture"

    def build(self, shape: Shape, network: nn.Module | None) -> EncoderDecoder:
        """Makes the model."""
        return build_answer_generator(
            self._config.model, shape.channels, shape.positions, len(self._vocabulary), network
        )

    def learnable(self, corpus: QuestionSplit) -> np.ndarray:
        """All questions."""
        return np.arange(len(corpus))

    def targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        """The answers' tokens and an end symbol each."""
        return int(corpus.lengths[rows, 1].sum())

    def target(self, corpus: QuestionSplit, rows: np.ndarray) -> AnswerTexts:
        """Questions with their answers behind them, and with every candidate where the loss asks for it."""
        questions = corpus.question_tokens(rows) if self._reads else [NONE] * len(rows)
        text = join_answers(questions, corpus.answer_tokens(rows))
        if self._config.training.candidates == 0:
            return text
        asked = corpus.questions(rows)
        owners = np.repeat(np.arange(len(rows)), [len(each.choices) for each in asked])
        if not len(owners):
            return text
        candidates = self._tokens([choice for each in asked for choice in each.choices])
        right = [place == each.answer_index for each in asked for place in range(len(each.choices))]
        texts = join_answers([questions[owner] for owner in owners], candidates)
        return replace(text, candidates=CandidateTexts(texts, torch.from_numpy(owners), torch.tensor(right)))

    def loss(self, model: EncoderDecoder, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the answers' words, each given those before it (teacher forcing), summed; while the model is
        trained, mixed with that of the right one among the candidates."""
        target, share = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerTexts)
        memory = model.encode(batch.photos).select(batch.photo_index)
        loss = model.loss(memory, target.decoder_inputs, target.targets, target.answer_mask, smoothing)
        if not model.training or target.candidates is None:
            return loss
        texts, owners = target.candidates.texts, target.candidates.questions
        written = texts.decoder_inputs, texts.targets, texts.answer_mask
        chosen = model.choice_loss(memory.select(owners), *written, owners, target.candidates.correct)
        return (1 - share) * loss + share * chosen

    @torch.inference_mode()
    def replies(
        self,
        model: nn.Module,
        batch: QuestionBatch,
        choices: Sequence[Sequence[str]],
        strategy: Strategy | None = None,
    ) -> list[Reply]:
        """What the model writes, and the likelihood of every candidate."""
        models = models_of(model)
        memories = [self._memory(one, batch) for one in models]
        scores = [iter(self._scores(*each, choices)) for each in zip(models, memories, strict=True)]
        written = self._written(models, memories, strategy)
        return [
            reply(text, own, [[next(given) for _ in own] for given in scores])
            for text, own in zip(written, choices, strict=True)
        ]

    @torch.inference_mode()
    def attention(self, model: nn.Module, batch: QuestionBatch, answers: Sequence[str]) -> list[list[float]] | None:
        """Weights at the last word of the question, from which the answer's first follows."""
        return mean_weights([self._looks(one, batch) for one in models_of(model)])

    def _looks(self, model: EncoderDecoder, batch: QuestionBatch) -> Tensor | None:
        if not model.attends:
            return None
        memory = self._memory(model, batch)
        begin = torch.full((len(batch),), BEGIN, device=batch.photo_index.device)
        _, _, weights = model.step_with_attention(begin, model.start(memory), memory)
        return weights

    def _memory(self, model: EncoderDecoder, batch: QuestionBatch) -> EncoderOutput:
        """The pictures of questions that were read."""
        memory = model.encode(batch.photos).select(batch.photo_index)
        return model.read_prefix(memory, batch.tokens, batch.mask) if self._reads else memory

    def _scores(self, model: EncoderDecoder, memory: EncoderOutput, choices: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of all candidates, those of a question together."""
        texts = [choice for own in choices for choice in own]
        if not texts:
            return []
        owners = torch.repeat_interleave(torch.arange(len(choices)), torch.tensor([len(own) for own in choices]))
        device = memory.states.device
        target = join_answers([NONE] * len(texts), self._tokens(texts)).to(device)
        logs = model.sequence_log_probs(
            memory.select(owners.to(device)), target.decoder_inputs, target.targets, target.answer_mask
        )
        found: list[float] = logs.double().tolist()
        return found

    def _written(
        self, models: Sequence[EncoderDecoder], memories: Sequence[EncoderOutput], strategy: Strategy | None
    ) -> list[str]:
        strategy = strategy or Greedy(max_length=self._decoding.max_length, precision=resolve_precision(self._decoding))
        symbols: dict[str, Any] = {"begin": BEGIN, "end": END, "forbidden": (PAD, BEGIN, UNKNOWN)}
        if len(models) == 1:
            decoded = decode(models[0], memories[0], strategy, **symbols)
        else:
            decoded = decode(Ensemble(models), EnsembleInputs(tuple(memories)), strategy, **symbols)
        limits = length_limits(strategy, None, None, len(memories[0]))
        return [answer.text for answer in make_outputs(decoded, strategy, self._vocabulary.decode, limits)]

    def _tokens(self, answers: Sequence[str]) -> list[np.ndarray]:
        encoded = self._vocabulary.encode([self._normal(answer) for answer in answers])
        return [np.asarray(row, dtype=np.int32) for row in encoded]
