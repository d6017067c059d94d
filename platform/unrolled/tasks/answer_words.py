"""Answering in words (Zhu et al. 2016, "Visual7W"): candidates by their likelihood, and answers written freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config.answering import QuestionAnsweringConfig
from unrolled.data.question_batches import AnswerText, CandidateTexts, QuestionBatch, answer_texts
from unrolled.data.question_corpus import Normal, QuestionCorpus
from unrolled.data.vocabulary import BEGIN, END, PAD, UNKNOWN, Vocabulary
from unrolled.decoding import (
    Ensemble,
    Greedy,
    Memories,
    Strategy,
    answers,
    as_trained,
    decode,
    length_limits,
    precision_of,
)
from unrolled.models import EncoderDecoder
from unrolled.models.answerer import build_teller
from unrolled.models.memory import Memory
from unrolled.tasks.answering import mean_weights, models_of, reply
from unrolled.tasks.pictures import Shape
from unrolled.tasks.task import Reply

NONE = np.empty(0, dtype=np.int32)


class Words:
    """Args:
    vocabulary: of questions and answers.
    normal: makes of an answer as people gave it what is learned.
    """

    def __init__(self, config: QuestionAnsweringConfig, vocabulary: Vocabulary, normal: Normal) -> None:
        self._config, self._vocabulary, self._normal = config, vocabulary, normal
        self._decoding = as_trained(config.decoding, config.training.precision)
        self._reads = config.model.sees != "picture"

    def build(self, shape: Shape, network: nn.Module | None) -> EncoderDecoder:
        """Makes the model."""
        return build_teller(self._config.model, shape.channels, shape.positions, len(self._vocabulary), network)

    def learnable(self, corpus: QuestionCorpus) -> np.ndarray:
        """All questions."""
        return np.arange(len(corpus))

    def targets(self, corpus: QuestionCorpus, rows: np.ndarray) -> int:
        """The answers' tokens and an end symbol each."""
        return int(corpus.lengths[rows, 1].sum())

    def target(self, corpus: QuestionCorpus, rows: np.ndarray) -> AnswerText:
        """Questions with their answers behind them, and with every candidate where the loss asks for it."""
        questions = corpus.question_tokens(rows) if self._reads else [NONE] * len(rows)
        text = answer_texts(questions, corpus.answer_tokens(rows))
        if self._config.training.candidates == 0:
            return text
        asked = corpus.questions(rows)
        owners = np.repeat(np.arange(len(rows)), [len(each.choices) for each in asked])
        if not len(owners):
            return text
        candidates = self._tokens([choice for each in asked for choice in each.choices])
        right = [place == each.right for each in asked for place in range(len(each.choices))]
        texts = answer_texts([questions[owner] for owner in owners], candidates)
        return replace(text, candidates=CandidateTexts(texts, torch.from_numpy(owners), torch.tensor(right)))

    def loss(self, model: EncoderDecoder, batch: QuestionBatch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the answers' words, each given those before it (teacher forcing), summed; while the model is
        trained, mixed with that of the right one among the candidates."""
        target, share = batch.target, self._config.training.candidates
        assert isinstance(target, AnswerText)
        memory = model.encode(batch.pictures).select(batch.owners)
        loss = model.loss(memory, target.before, target.after, target.asked, smoothing)
        if not model.training or target.candidates is None:
            return loss
        texts, owners = target.candidates.texts, target.candidates.questions
        written = texts.before, texts.after, texts.asked
        chosen = model.choice_loss(memory.select(owners), *written, owners, target.candidates.right)
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
        begin = torch.full((len(batch),), BEGIN, device=batch.owners.device)
        _, _, weights = model.look(begin, model.start(memory), memory)
        return weights

    def _memory(self, model: EncoderDecoder, batch: QuestionBatch) -> Memory:
        """The pictures of questions that were read."""
        memory = model.encode(batch.pictures).select(batch.owners)
        return model.read(memory, batch.tokens, batch.mask) if self._reads else memory

    def _scores(self, model: EncoderDecoder, memory: Memory, choices: Sequence[Sequence[str]]) -> list[float]:
        """Log-likelihoods of all candidates, those of a question together."""
        texts = [choice for own in choices for choice in own]
        if not texts:
            return []
        owners = torch.repeat_interleave(torch.arange(len(choices)), torch.tensor([len(own) for own in choices]))
        device = memory.states.device
        target = answer_texts([NONE] * len(texts), self._tokens(texts)).to(device)
        logs = model.log_likelihoods(memory.select(owners.to(device)), target.before, target.after, target.asked)
        found: list[float] = logs.double().tolist()
        return found

    def _written(
        self, models: Sequence[EncoderDecoder], memories: Sequence[Memory], strategy: Strategy | None
    ) -> list[str]:
        strategy = strategy or Greedy(max_length=self._decoding.max_length, precision=precision_of(self._decoding))
        symbols: dict[str, Any] = {"begin": BEGIN, "end": END, "forbidden": (PAD, BEGIN, UNKNOWN)}
        if len(models) == 1:
            decoded = decode(models[0], memories[0], strategy, **symbols)
        else:
            decoded = decode(Ensemble(models), Memories(tuple(memories)), strategy, **symbols)
        limits = length_limits(strategy, None, None, len(memories[0]))
        return [answer.text for answer in answers(decoded, strategy, self._vocabulary.decode, limits)]

    def _tokens(self, answers: Sequence[str]) -> list[np.ndarray]:
        encoded = self._vocabulary.encode([self._normal(answer) for answer in answers])
        return [np.asarray(row, dtype=np.int32) for row in encoded]
