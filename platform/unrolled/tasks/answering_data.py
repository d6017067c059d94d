"""Questions as their task uses them: prepared for training, in batches, and opened to be answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.data.asked import Question
from unrolled.data.batching import pad
from unrolled.data.question_batches import QuestionBatch
from unrolled.data.question_corpus import ANSWERS, VOCABULARY, QuestionCorpus, QuestionFolder
from unrolled.files import write_whole
from unrolled.tasks.answering import Respondent
from unrolled.tasks.pictures import Pictures, Shape, address

Seen = Callable[[str, Sequence[int], int | None], Tensor]
"""Gives what an encoder reads of photographs of a split, in an epoch if they are learned from."""


def normal(answer: str) -> str:
    """An answer as it is learned and compared."""
    return " ".join(answer.lower().split())


@dataclass(frozen=True)
class PreparedQuestions:
    """Questions and what is seen of their photographs, ready for training."""

    questions: QuestionFolder
    pictures: Pictures | None

    @property
    def fingerprint(self) -> str:
        return self.questions.folder.name

    def save(self, folder: Path) -> None:
        """Writes the vocabulary, the answers and the shape of features."""
        folder.mkdir(parents=True, exist_ok=True)
        self.questions.vocabulary.save(folder / VOCABULARY)
        write_whole(folder / ANSWERS, (self.questions.folder / ANSWERS).read_text(encoding="utf-8"))
        (BLIND if self.pictures is None else self.pictures.shape()).save(folder)

    def split(self, name: str) -> QuestionCorpus:
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

    respondent: Respondent
    seen: Seen
    corpus: QuestionCorpus
    split: str
    rows: np.ndarray
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        return self.respondent.targets(self.corpus, self.rows)

    def part(self, rank: int, size: int) -> QuestionBatch | None:
        """The photographs `rank::size` of the batch, with all questions about them."""
        photos, owners = np.unique(self.corpus.photos[self.rows], return_inverse=True)
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
