"""Question answering from features against its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioning import CHANNELS, CONFIGS, Products, shares, timed, updates
from measure import Figure, ratio
from training import Gemm
from unrolled.config.answering import QuestionAnsweringConfig
from unrolled.config_file import load_config
from unrolled.data.batching import pad
from unrolled.data.question_batches import AnswerClass, QuestionBatch, plan_photographs
from unrolled.models.answerer import build_classifier
from unrolled.tasks.answer_classes import Classes
from unrolled.tasks.question_answering import QuestionAnswering

VOCABULARY, ANSWERS, CHOICES = 963, 865, 4
"""DAQUAR's words, answers, and candidates a question."""


def questions(quick: bool) -> Iterator[Figure]:
    """Seconds of an update on random features and questions like those of DAQUAR."""
    for name in ("daquar", "daquar_open"):
        config = configured(name)
        batches = question_batches(config, config.training.batch_tokens // (4 if quick else 2), count=6)

        def ours(precision: str, name: str = name, batches: Sequence[QuestionBatch] = batches) -> Callable[[], None]:
            return our_step(configured(name, f"training.precision={precision}"), batches)

        seconds = timed(ours, [gemms(config, batch) for batch in batches], quick)
        yield from shares(f"questions/{name}", seconds)
        mean = sum(map(len, batches)) / len(batches)
        for kind in ("ours", "half"):
            if kind in seconds:
                rate, asked = f"questions/{name}/rate{'-bf16' * (kind == 'half')}", [mean] * len(seconds[kind])
                yield ratio(rate, asked, seconds[kind], goal=None, better="higher", baseline="seconds")


def configured(name: str, *overrides: str) -> QuestionAnsweringConfig:
    """A shipped config with overrides."""
    config = load_config(CONFIGS / "question_answering" / f"{name}.yaml", overrides)
    assert isinstance(config, QuestionAnsweringConfig)
    return config


def question_batches(config: QuestionAnsweringConfig, tokens: int, count: int) -> list[QuestionBatch]:
    """About eight questions on each photograph, all of them in one batch, as many as fit in the padded `tokens`."""
    generator = np.random.default_rng(1)
    photos = np.repeat(np.arange(40 * count), generator.integers(6, 12, size=40 * count))
    lengths = np.clip(generator.normal(8.7, 2.5, size=len(photos)), 4, 28).astype(int)
    planned = plan_photographs(lengths + 3, photos, batch_tokens=tokens, seed=1, epoch=0)[:count]
    batches = []
    for places in planned:
        _, owners = np.unique(photos[places], return_inverse=True)
        pictures = torch.rand(int(owners.max()) + 1, config.model.features.grid**2, CHANNELS)
        tokens_, mask = pad([generator.integers(4, VOCABULARY, size=length) for length in lengths[places]])
        candidates = torch.from_numpy(generator.integers(ANSWERS, size=(len(places), CHOICES)))
        texts = answer_texts((len(places), CHOICES)) if config.model.answers == "vectors" else None
        target = AnswerClass(candidates[:, 0], candidates, texts)
        batches.append(QuestionBatch(pictures, torch.from_numpy(owners), tokens_, mask, target))
    return batches


def answer_texts(shape: tuple[int, ...]) -> Tensor:
    """Tokens of answers, most of them one word or two, a few as many as the longest, padded with -1."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.geometric(0.65, size=shape), 1, 8)
    words = generator.integers(4, VOCABULARY, size=(*shape, 8))
    return torch.from_numpy(np.where(np.arange(8) < lengths[..., None], words, -1))


def our_step(config: QuestionAnsweringConfig, batches: Sequence[QuestionBatch]) -> Callable[[], None]:
    """An update as the training loop makes it; each call takes the next batch."""
    positions, texts = config.model.features.grid**2, None
    if config.model.answers == "vectors":
        texts = answer_texts((1, ANSWERS))[0]
    model = build_classifier(config.model, CHANNELS, positions, VOCABULARY, ANSWERS, None, texts)
    answering: Any = SimpleNamespace(_config=config)
    respondent = SimpleNamespace(loss=lambda *given: Classes.loss(answering, *given))
    task: Any = SimpleNamespace(
        config=config, respondent=respondent, losses=lambda *given: QuestionAnswering.losses(task, *given)
    )
    return updates(task, model, config, batches, [len(batch) for batch in batches])


def gemms(config: QuestionAnsweringConfig, batch: QuestionBatch) -> Products:
    """The products of an update on real tokens; recurrent ones a step at a time."""
    model, question = config.model, config.model.question
    rows, reads, joint = len(batch), int(batch.mask.sum()), config.model.joint
    pictures, positions = batch.pictures.shape[:2]
    seen, places = pictures * positions, positions + 1  # and one that is no part of the picture
    size, gates = model.encoder.size or CHANNELS, {"lstm": 4, "gru": 3, "rnn": 1}[question.cell] * question.hidden
    given = [Gemm(seen, CHANNELS, size)] if model.encoder.size else []
    made = [
        Gemm(reads, question.embedding, gates),
        Gemm(rows, question.hidden, gates, round(reads / rows)),
        Gemm(rows, question.hidden, joint),
        Gemm(rows, joint, joint),  # question and finding, to be multiplied
        Gemm(rows, joint, joint),
        Gemm(rows, joint, ANSWERS),
    ]
    (made if model.encoder.size else given).append(Gemm(seen, size, joint))
    for _ in range(model.hops):
        made += [
            Gemm(pictures * places, joint, joint),  # keys
            Gemm(rows, joint, joint),  # queries
            Gemm(rows, joint, places),  # scores
            Gemm(rows, places, joint),  # contexts
        ]
    return made, given
