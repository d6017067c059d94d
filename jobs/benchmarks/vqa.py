"""Question answering from features against its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioning import CONFIGS, Products, shares, timed, updates
from measure import Figure, ratio
from training import Gemm
from unrolled.config.load import load_config
from unrolled.config.vqa import QuestionAnsweringConfig, VQAModel
from unrolled.data.batching import AnswerClasses, QuestionBatch, pad, plan_by_photo, plan_texts
from unrolled.models import AnswerClassifier, build_answer_classifier
from unrolled.recurrence import CELLS
from unrolled.tasks import QuestionAnswering
from unrolled.tasks.vqa_heads import ClassHead

CHOICES = 4
"""Candidates a question."""


class Sizes(NamedTuple):
    """What data have and a config does not say. `workers`: among whom a batch is shared out."""

    vocabulary: int
    answers: int
    channels: int
    workers: int


SIZES = {
    "daquar": Sizes(963, 865, 1280, 2),
    "daquar_open": Sizes(963, 865, 1280, 2),
    "vqa": Sizes(8000, 3000, 2048, 8),
}
"""By config: of DAQUAR and of VQA v2, with the features of efficientnet-lite0 and resnet50."""


def vqa(quick: bool) -> Iterator[Figure]:
    """Seconds of an update on random features and questions as long as those of DAQUAR, and questions a second."""
    for name, sizes in SIZES.items():
        config = configured(name)
        batches = question_batches(name, config.training.batch_tokens // sizes.workers // (1 + quick), count=6)

        def ours(precision: str, name: str = name, batches: Sequence[QuestionBatch] = batches) -> Callable[[], None]:
            return our_step(name, batches, f"training.precision={precision}")

        seconds = timed(ours, [gemms(name, batch) for batch in batches], quick)
        yield from shares(f"questions/{name}", seconds)
        mean = sum(map(len, batches)) / len(batches)
        for kind, ending in (("ours", ""), ("half", "-bf16")):
            if kind in seconds:
                rate, asked = f"questions/{name}/rate{ending}", [mean] * len(seconds[kind])
                yield ratio(rate, asked, seconds[kind], goal=None, better="higher", baseline="seconds")


def configured(name: str, *overrides: str) -> QuestionAnsweringConfig:
    """A shipped config with overrides."""
    config = load_config(CONFIGS / "question_answering" / f"{name}.yaml", overrides)
    assert isinstance(config, QuestionAnsweringConfig)
    return config


def question_batches(name: str, tokens: int, count: int) -> list[QuestionBatch]:
    """About eight questions on each photograph, in batches of at most so many padded `tokens` as the config's training
    has them: all on a photograph in one, or those of like length."""
    config, sizes = configured(name), SIZES[name]
    generator = np.random.default_rng(1)
    photos = np.repeat(np.arange(40 * count), generator.integers(6, 12, size=40 * count))
    lengths = np.clip(generator.normal(8.7, 2.5, size=len(photos)), 4, 28).astype(int)
    limits: dict[str, Any] = {"batch_tokens": tokens, "seed": 1, "epoch": 0}
    together, padded = config.training.together, lengths + 3  # an answer's words, which count too
    planned = plan_by_photo(padded, photos, **limits) if together else plan_texts(padded, **limits)
    batches = []
    for places in planned[:count]:
        _, owners = np.unique(photos[places], return_inverse=True)
        pictures = torch.rand(int(owners.max()) + 1, positions(config), sizes.channels)
        words, mask = pad([generator.integers(4, sizes.vocabulary, size=length) for length in lengths[places]])
        candidates = torch.from_numpy(generator.integers(sizes.answers, size=(len(places), CHOICES)))
        texts = answer_texts(len(places), CHOICES, sizes.vocabulary) if config.model.answers == "vectors" else None
        target = AnswerClasses(candidates[:, 0], candidates, texts)
        batches.append(QuestionBatch(pictures, torch.from_numpy(owners), words, mask, target))
    return batches


def positions(config: QuestionAnsweringConfig) -> int:
    """How many positions of a picture the encoder is given: only attention reads more than their mean."""
    return config.model.features.grid**2 if config.model.attends else 1


def answer_texts(rows: int, columns: int, vocabulary: int) -> Tensor:
    """Tokens of answers, most of them one word or two, a few as many as the longest, padded with -1."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.geometric(0.65, size=(rows, columns)), 1, 8)
    words = generator.integers(4, vocabulary, size=(rows, columns, 8))
    return torch.from_numpy(np.where(np.arange(8) < lengths[..., None], words, -1))


def classifier(config: QuestionAnsweringConfig, sizes: Sizes) -> AnswerClassifier:
    """The config's model, untrained."""
    texts = answer_texts(1, sizes.answers, sizes.vocabulary)[0] if config.model.answers == "vectors" else None
    given = sizes.channels, positions(config), sizes.vocabulary, sizes.answers
    return build_answer_classifier(config.model, *given, None, texts)


def our_step(name: str, batches: Sequence[QuestionBatch], *overrides: str) -> Callable[[], None]:
    """An update as the training loop makes it; each call takes the next batch."""
    config = configured(name, *overrides)
    answering: Any = SimpleNamespace(_config=config)
    head = SimpleNamespace(loss=lambda *given: ClassHead.loss(answering, *given))
    task: Any = SimpleNamespace(config=config, head=head, losses=lambda *given: QuestionAnswering.losses(task, *given))
    return updates(task, classifier(config, SIZES[name]), config, batches, [len(batch) for batch in batches])


def gemms(name: str, batch: QuestionBatch) -> Products:
    """The products of an update on real tokens; recurrent ones a step at a time."""
    model, sizes = configured(name).model, SIZES[name]
    question, joint, rows, reads = model.question, model.joint, len(batch), int(batch.mask.sum())
    gates = CELLS[question.cell].num_gates * question.hidden
    inputs = [question.embedding, *[question.hidden] * (question.layers - 1)]
    made = [Gemm(reads, size, gates) for size in inputs]
    made += [Gemm(rows, question.hidden, gates, round(reads / rows)) for _ in inputs]
    made += [Gemm(rows, question.hidden, joint), Gemm(rows, joint, sizes.answers)]
    seen, learned = batch.photos.shape[0] * batch.photos.shape[1], model.encoder.size
    given = [Gemm(seen, sizes.channels, learned)] if learned else []
    (made if learned else given).append(Gemm(seen, learned or sizes.channels, joint))
    if model.attends:
        made += _looks(model, rows, *batch.photos.shape[:2])
    return made, given


def _looks(model: VQAModel, rows: int, pictures: int, positions: int) -> list[Gemm]:
    """Of stacked attention, with one more position that is no part of the picture. Additive scores are none."""
    joint, places = model.joint, positions + 1
    look = [
        Gemm(pictures * places, joint, joint),  # keys
        Gemm(rows, joint, joint),  # queries
        Gemm(rows, places, joint),  # contexts
    ]
    return [*look * model.hops, *[Gemm(rows, joint, joint)] * 2]  # question and finding, to be multiplied
