"""What a model of question answering is asked, and what it replies; in either way of answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.data.asked import Question
from unrolled.data.question_batches import AnswerClass, AnswerText, QuestionBatch
from unrolled.data.question_corpus import QuestionCorpus
from unrolled.decoding import Strategy
from unrolled.tasks.pictures import Shape
from unrolled.tasks.task import Reply


class Replied(NamedTuple):
    """A question, and what a model replied."""

    question: Question
    reply: Reply

    @property
    def chosen(self) -> str:
        """The candidate that was chosen."""
        return self.question.choices[self.reply.chosen]


class Respondent(Protocol):
    """A way of answering: by classes, or in words. To reply and to look it takes an ensemble, too (see `models_of`)."""

    def build(self, shape: Shape, network: nn.Module | None) -> nn.Module:
        """Makes the model, with fresh parameters drawn from torch's generator."""
        ...

    def learnable(self, corpus: QuestionCorpus) -> np.ndarray:
        """Rows of the questions whose answers the model can give."""
        ...

    def targets(self, corpus: QuestionCorpus, rows: np.ndarray) -> int:
        """How many targets these questions have."""
        ...

    def target(self, corpus: QuestionCorpus, rows: np.ndarray) -> AnswerClass | AnswerText:
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
