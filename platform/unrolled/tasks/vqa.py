"""Visual question answering: a photograph and a question in, an answer out.

Questions as their task uses them: prepared for training, in batches, and opened to be answered.

Question answering: a photograph and a question in, an answer out; one of several candidates, or free.

Answers are learned and compared in lower case, their spaces single.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.batching import QuestionBatch, pad, plan_by_photo, plan_questions
from unrolled.data.question_corpus import ANSWERS, VOCABULARY, QuestionCorpus, QuestionSplit, prepare_questions
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Question
from unrolled.data.tokenizer import Vocabulary
from unrolled.decoding import Strategy, resolve_auto
from unrolled.errors import UserError
from unrolled.features import Backbone, build_backbone, load_pretrained, make_backbone
from unrolled.files import write_atomic
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import Findings, Reply, WindowLoss, interleaved
from unrolled.tasks.image_inputs import Pictures, Shape, address
from unrolled.tasks.vqa_heads import AnswerHead, Classes, Replied, Vectors, Words, in_order, reordered
from unrolled.tasks.vqa_results import check_scores, check_wordnet, score_replies, vqa_findings

Seen = Callable[[str, Sequence[int], int | None], Tensor]
"""Gives what an encoder reads of photographs of a split, in an epoch if they are learned from."""


def normal(answer: str) -> str:
    """An answer as it is learned and compared."""
    return " ".join(answer.lower().split())


@dataclass(frozen=True)
class PreparedQuestions:
    """Questions and what is seen of their photographs, ready for training."""

    questions: QuestionCorpus
    pictures: Pictures | None

    @property
    def fingerprint(self) -> str:
        return self.questions.folder.name

    def save(self, folder: Path) -> None:
        """Writes the vocabulary, the answers and the shape of features."""
        folder.mkdir(parents=True, exist_ok=True)
        self.questions.vocabulary.save(folder / VOCABULARY)
        write_atomic(folder / ANSWERS, (self.questions.folder / ANSWERS).read_text(encoding="utf-8"))
        (BLIND if self.pictures is None else self.pictures.shape()).save(folder)

    def split(self, name: str) -> QuestionSplit:
        """Opens `train` or `validation`."""
        return self.questions.split(name)


BLIND = Shape(1, 1)
"""Of what a model sees that sees no picture: a single zero."""


@dataclass(frozen=True)
class Questions:
    """A global batch: the questions `rows` of a split.

    Attributes:
        respondent: makes what is to be learned of them.
        seen: gives what is seen of photographs.
        epoch: in which they are learned; `None`: they are not.
    """

    respondent: AnswerHead
    seen: Seen
    corpus: QuestionSplit
    split: str
    rows: np.ndarray
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        return self.respondent.targets(self.corpus, self.rows)

    def part(self, rank: int, size: int) -> QuestionBatch | None:
        """The photographs `rank::size` of the batch, with all questions about them."""
        photos, owners = np.unique(self.corpus.photo_index[self.rows], return_inverse=True)
        chosen = owners % size == rank
        if not chosen.any():
            return None
        mine = self.rows[chosen]
        seen = self.seen(self.split, photos[rank::size].tolist(), self.epoch)
        owned = torch.from_numpy(owners[chosen] // size)
        target = self.respondent.target(self.corpus, mine)
        return QuestionBatch(seen, owned, *pad(self.corpus.question_tokens(mine)), target)


@dataclass(frozen=True)
class Opened:
    """Questions of a split whose photographs can be read.

    Attributes:
        names: of all photographs.
    """

    split: str
    names: Sequence[str]
    questions: list[Question]

    def address(self, question: Question) -> str:
        """Names the photograph of a question."""
        return address(self.split, question.photo, self.names[question.photo])


SHARE = 256
"""Questions that an evaluation worker takes at a time."""
Share = tuple[float, int, list[Replied]]
"""What a worker validated: summed loss and its targets, and the replies."""


class QuestionAnswering:
    """A model that sees a photograph and reads a question, answering by `model.answers`."""

    default_strategy = "greedy"
    alike: tuple[str, ...] = ("model.answers", "model.most_answers", "model.sees")

    def __init__(self, config: QuestionAnsweringConfig, folder: Path) -> None:
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY)
        self.shape, self.shown = Shape.load(folder), config.evaluation.metrics
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.pictures = _pictures(config)
        self.respondent: AnswerHead
        if config.model.answers == "words":
            self.respondent = Words(config, self.vocabulary, normal)
        elif config.model.answers == "vectors":
            self.respondent = Vectors(config, self.vocabulary, QuestionCorpus(folder).answers, normal)
        else:
            self.respondent = Classes(config, len(self.vocabulary), QuestionCorpus(folder).answers, normal)

    @property
    def reads(self) -> str:
        """What the encoder reads of a photograph."""
        return "nothing" if self.pictures is None else self.pictures.described()

    @classmethod
    def prepare(cls, config: QuestionAnsweringConfig, fingerprint: str | None = None) -> PreparedQuestions:
        """Learns the vocabulary and tokenises the training and validation split. Features are made when they are first
        read, if nobody has made them before."""
        check_wordnet(config)  # before minutes are spent on the data
        questions, pictures = prepare_questions(config.data, normal, fingerprint), _pictures(config)
        if pictures is not None and fingerprint is None:
            make_backbone(config.model.features)  # or why not, before anything else begins
        validation = questions.split("validation")
        check_scores(config, validation.questions(range(len(validation))))
        return PreparedQuestions(questions, pictures)

    def build_model(self) -> torch.nn.Module:
        """The model of the config's `model` section."""
        features = self.config.model.features
        trained = features.fine_tune and self.pictures is not None
        return self.respondent.build(self.shape, build_backbone(features) if trained else None)

    def load_pretrained(self, model: torch.nn.Module) -> None:
        """Gives a network that is trained too the weights that it begins with."""
        for module in model.modules():
            if isinstance(module, Backbone):
                load_pretrained(module, self.config.model.features)

    def introduce(self, data: PreparedQuestions) -> tuple[str, str]:
        """How it answers, network and cell; questions, photographs and vocabulary."""
        model, corpus = self.config.model, data.split("train")
        learned = len(self._learnable(data, "train"))
        seen = "sees no photograph" if self.pictures is None else f"{model.features.backbone} {self.shape.channels}"
        looks = ", attention" if model.attends else ""
        read = "" if model.sees == "picture" else f", {model.question.cell} {model.question.hidden}"
        left = f" of {len(corpus):,}" if learned < len(corpus) else ""
        return (
            f"answers by {model.answers}, {seen}{read}{looks}",
            f"{learned:,}{left} questions about {len(corpus.names):,} photographs, vocabulary {len(self.vocabulary):,}",
        )

    def plan(self, data: PreparedQuestions, epoch: int) -> list[Questions]:
        """Batches within the token budget; every question whose answer can be learned once."""
        return self._batches(data, "train", self.config.seed, epoch)

    def _batches(self, data: PreparedQuestions, split: str, seed: int, epoch: int) -> list[Questions]:
        corpus, chosen = data.split(split), self._learnable(data, split)
        limits: dict[str, Any] = {"batch_tokens": self.config.training.batch_tokens, "seed": seed, "epoch": epoch}
        lengths = corpus.lengths[chosen].sum(1)
        if self.config.training.together or self.config.model.features.fine_tune:
            planned = plan_by_photo(lengths, corpus.photo_index[chosen], **limits)
        else:
            planned = plan_questions(lengths, **limits)
        learned = epoch if split == "train" else None
        return [
            Questions(self.respondent, self.seen, corpus, split, np.sort(chosen[places]), learned) for places in planned
        ]

    def _learnable(self, data: PreparedQuestions, split: str) -> np.ndarray:
        """Rows of the questions whose answers the model can give and whose photographs can be read."""
        corpus = data.split(split)
        there = self._readable(data, split)
        return np.intersect1d(self.respondent.learnable(corpus), there)

    def _readable(self, data: PreparedQuestions, split: str) -> np.ndarray:
        missing = set() if data.pictures is None else data.pictures.features(split).missing
        return data.split(split).without(missing)

    def seen(self, split: str, photos: Sequence[int], epoch: int | None = None) -> Tensor:
        """Returns what the encoder reads of these photographs of a split."""
        if self.pictures is None:
            return torch.zeros(len(photos), BLIND.positions, BLIND.channels)
        return self.pictures.of(split, photos, epoch)

    def losses(self, model: Any, part: QuestionBatch, state: Nest) -> Iterator[WindowLoss]:
        """Cross-entropy of the right answers, summed; no question goes on in the next batch."""
        yield WindowLoss(self.respondent.loss(model, part, self.config.training.label_smoothing), None, last=True)

    @torch.inference_mode()
    def validate(self, model: Any, data: PreparedQuestions, rank: int, size: int) -> Share:
        """Loss and its targets, and what the model replies to its share of the questions."""
        model.eval()
        device, total = next(model.parameters()).device, 0.0
        for batch in self._batches(data, "validation", 0, 0):
            if part := batch.part(rank, size):
                total += float(self.respondent.loss(model, part.to(device)).double())
        corpus = data.split("validation")
        targets = self.respondent.targets(corpus, self._learnable(data, "validation")) if rank == 0 else 0
        mine = self._readable(data, "validation")[rank::size]
        return total, targets, self._replied(model, "validation", corpus.questions(mine))

    def scores(self, shares: Sequence[Share]) -> dict[str, float]:
        """Loss, and every score of the evaluation."""
        losses, targets, replied = zip(*shares, strict=True)
        return {"loss": sum(losses) / max(1, sum(targets))} | score_replies(self.shown, interleaved(replied))

    def open(self, split: str) -> Opened:
        """Opens the questions of a split about photographs that can be read."""
        asked = open_questions(self.config.data, split)
        missing = set() if self.pictures is None else self.pictures.features(split).missing
        questions = [question for question in asked.questions if question.photo not in missing]
        check_scores(self.config, questions)
        return Opened(split, asked.names, questions)

    def shares(self, data: Opened) -> int:
        """One a few hundred questions."""
        return -(-len(data.questions) // SHARE)

    @torch.inference_mode()
    def examine(self, model: Any, data: Opened, rank: int, size: int) -> list[Replied]:
        """Answers the questions `rank::size`."""
        model.eval()
        return self._replied(model, data.split, data.questions[rank::size])

    def findings(self, model: Any, data: Opened, shares: Sequence[list[Replied]]) -> Findings:
        """Scores with their intervals, overall and by the kind of question, beside what is reached without learning."""

        def look(one: Replied) -> list[float] | None:
            return self.looked(model, data.address(one.question), one.question.question, one.reply.answer)

        replied = interleaved(shares)
        learned = open_questions(self.config.data, "train").questions if data.questions[0].choices else []
        return vqa_findings(self.shown, data, replied, learned, look)

    def _replied(self, model: Any, split: str, questions: Sequence[Question]) -> list[Replied]:
        """Replies to questions about photographs of a split, `decoding.batch` at a time."""
        found: list[Replied] = []
        for start in range(0, len(questions), self.config.decoding.batch):
            some = questions[start : start + self.config.decoding.batch]
            photos, owners = np.unique([each.photo for each in some], return_inverse=True)
            batch = self._reading(self.seen(split, photos.tolist()), owners, [each.question for each in some])
            replies = self._replies(model, batch, [each.choices for each in some], None)
            found += [Replied(question, reply) for question, reply in zip(some, replies, strict=True)]
        return found

    def _reading(self, seen: Tensor, owners: np.ndarray, questions: Sequence[str]) -> QuestionBatch:
        tokens = [np.asarray(row, dtype=np.int32) for row in self.vocabulary.encode(questions)]
        return QuestionBatch(seen, torch.from_numpy(owners), *pad(tokens))

    def _replies(
        self, model: Any, batch: QuestionBatch, choices: Sequence[Sequence[str]], strategy: Strategy | None
    ) -> list[Reply]:
        """Replies that do not depend on the order of candidates."""
        orders = [in_order(own) for own in choices]
        ordered = [[own[place] for place in order] for own, order in zip(choices, orders, strict=True)]
        device = next(model.parameters()).device
        replies = self.respondent.replies(model, batch.to(device), ordered, strategy)
        return [reordered(reply, order) for reply, order in zip(replies, orders, strict=True)]

    @torch.inference_mode()
    def ask(
        self, model: Any, photo: str, question: str, choices: Sequence[str] = (), strategy: Strategy | None = None
    ) -> Reply:
        """Answers one question about a photograph, named by its address in the data or by its file.

        Raises:
            UserError: the photograph cannot be read, a candidate stands there twice, or is the only one.
        """
        model.eval()
        if len(set(map(normal, choices))) < len(choices) or len(choices) == 1:
            raise UserError("--choices: wants two candidates or more, each once.")
        batch = self._one(photo, question)
        (reply,) = self._replies(model, batch, [choices], strategy)
        return reply

    def looked(self, model: Any, photo: str, question: str, answer: str) -> list[float] | None:
        """Where the model looks for the answer: weights of the grid's positions, row by row; `None` without
        attention."""
        model.eval()
        batch = self._one(photo, question).to(next(model.parameters()).device)
        weights = self.respondent.attention(model, batch, [answer])
        return None if weights is None else weights[0]

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """The photograph that an address or a file names."""
        return (
            Pictures(self.config, grid=False).photo(name, least)
            if self.pictures is None
            else self.pictures.photo(name, least)
        )

    def _one(self, photo: str, question: str) -> QuestionBatch:
        seen = self.seen("", [0]) if self.pictures is None else self.pictures.named([photo])
        return self._reading(seen, np.zeros(1, dtype=np.int64), [question])


def _pictures(config: QuestionAnsweringConfig) -> Pictures | None:
    return None if config.model.sees == "question" else Pictures(config, grid=config.model.attends)
