"""Answers as classes: one of those that are frequent in training (Agrawal et al. 2015; Yang et al. 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.answer_vectors import AnswerVectors
from unrolled.models.encoder import TextEncoder
from unrolled.models.heads import VocabularyHead
from unrolled.models.image_encoder import ImageEncoder
from unrolled.models.joint import Joined, Product, StackedAttention


class AnswerClassifier(nn.Module):
    """p(answer | question, picture), a softmax over all answers.

    Args:
        question: `None`: the model does not see questions.
        picture: `None`: it does not see pictures.
        joint: joins what the two give.
        head: over the answers.
    """

    def __init__(
        self,
        question: TextEncoder | None,
        picture: ImageEncoder | None,
        joint: Product | StackedAttention,
        head: VocabularyHead | AnswerVectors,
    ) -> None:
        super().__init__()
        self.question, self.picture, self.joint, self.head = question, picture, joint, head

    @property
    def attends(self) -> bool:
        """Whether it looks at the positions of a picture."""
        return isinstance(self.joint, StackedAttention)

    def forward(self, pictures: Tensor, owners: Tensor, tokens: Tensor, mask: Tensor) -> Joined:
        """Reads questions and their pictures, each of these once.

        Args:
            pictures: what the picture's encoder reads, `(pictures, …)`.
            owners: the picture of each question, `(batch,)`.
            tokens: of the questions, `(batch, time)`, padded at the end.
            mask: `(batch, time)`, False on padding.

        Returns:
            The vectors that the head reads.
        """
        asked = None if self.question is None else self.question(tokens, mask).summary
        joined: Joined = self.joint(asked, None if self.picture is None else self.picture(pictures), owners)
        return joined

    def loss(self, joined: Joined, answers: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy (nats) of the right answers `(batch,)`, summed."""
        return self.head.loss(joined.vector, answers, smoothing)

    def choice_loss(self, joined: Joined, answers: Tensor, candidates: Tensor, texts: Tensor | None = None) -> Tensor:
        """Cross-entropy (nats) of the right answers `(batch,)` among the candidates alone, summed.

        Args:
            candidates: `(batch, most)`, the right answers among them; -1 where there is none, or one that is no class.
                A question without another candidate adds nothing.
            texts: their tokens, `(batch, most, words)`, padded with -1, where answers are vectors: then those that are
                no class count, too.
        """
        if candidates.shape[1] == 0:
            return joined.vector.new_zeros(())
        own, without = answers[:, None], candidates == answers[:, None]
        if texts is None:
            scores = self.head.few(joined.vector, torch.cat([own, candidates.clamp(min=0)], dim=1))
            without |= candidates < 0
        else:
            assert isinstance(self.head, AnswerVectors)
            scores = self.head.few_and(joined.vector, own, texts)
        scores = scores.masked_fill(functional.pad(without, (1, 0)), -math.inf)
        return -scores.log_softmax(1)[:, 0].sum()

    def text_scores(self, joined: Joined, texts: Tensor) -> Tensor:
        """Scores of answers by their words, `(batch, most)`; see `AnswerVectors.scores`."""
        assert isinstance(self.head, AnswerVectors)
        return self.head.scores(joined.vector, texts)

    def log_probabilities(self, joined: Joined) -> Tensor:
        """`(batch, answers)`."""
        return self.head.log_probabilities(joined.vector)
