"""Answers as vectors: an answer is known by the words in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.heads import cross_entropy
from unrolled.recurrence import compiled


class AnswerVectors(nn.Module):
    """Scores h · a, where a is the sum of the vectors of an answer's words over the square root of their number: so an
    answer may be scored that no question of training has, if its words are known from others.

    Args:
        size: features of the vectors h.
        vocabulary: how many tokens.
        answers: tokens of the answers to choose from, `(answers, most)`, padded with -1. Words that none of them has
            are not known and count as not being there.
    """

    answers: Tensor
    known: Tensor

    def __init__(self, size: int, vocabulary: int, answers: Tensor) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(vocabulary, size))
        nn.init.normal_(self.words, std=1 / math.sqrt(size))
        self.register_buffer("answers", answers, persistent=False)
        known = torch.zeros(vocabulary, dtype=torch.bool)
        known[answers[answers >= 0]] = True
        self.register_buffer("known", known, persistent=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → scores of all answers, `(rows, answers)`."""
        return functional.linear(hidden, self._vectors(self.answers))

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → `(rows, answers)`."""
        return self.logits(hidden).log_softmax(-1)

    def loss(self, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy in nats of the answers by number, `(rows,)`, summed; smoothing as in `VocabularyHead`."""
        vectors = self._vectors(self.answers)
        return cross_entropy(hidden, vectors, vectors.new_zeros(len(vectors)), targets, smoothing, once=self.training)

    def few(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """`(rows, size)` → scores of a few answers a row, by number, `(rows, few)`."""
        return self.scores(hidden, self.answers[answers])

    def few_and(self, hidden: Tensor, answers: Tensor, texts: Tensor) -> Tensor:
        """`few` of `answers` `(rows, few)` and behind them `scores` of `texts` `(rows, others, words)`."""
        own, longest = self.answers[answers], max(self.answers.shape[1], texts.shape[2])
        padded = (functional.pad(each, (0, longest - each.shape[2]), value=-1) for each in (own, texts))
        return self.scores(hidden, torch.cat([*padded], dim=1))

    def scores(self, hidden: Tensor, texts: Tensor) -> Tensor:
        """Scores of a few answers a row.

        Args:
            hidden: `(rows, size)`.
            texts: their tokens, `(rows, few, words)`, padded with -1.

        Returns:
            `(rows, few)`; −∞ where no word is known.
        """
        scores = compiled.text_scores(hidden, self.words, texts, self.known)
        if scores is not None:
            return scores
        scores = torch.einsum("rs,rfs->rf", hidden, self._vectors(texts))
        return scores.masked_fill(~self._told(texts).any(-1), -math.inf)

    def _vectors(self, texts: Tensor) -> Tensor:
        """Tokens `(…, words)` → vectors `(…, size)`."""
        vectors = compiled.bags(self.words, texts, self.known)
        if vectors is not None:
            return vectors
        told = self._told(texts)
        counts = told.sum(-1)
        begins = counts.flatten().cumsum(0) - counts.flatten()
        sums = functional.embedding_bag(texts[told], self.words, begins, mode="sum")
        return sums.view(*counts.shape, -1) / counts.clamp(min=1)[..., None].sqrt()

    def _told(self, texts: Tensor) -> Tensor:
        return (texts >= 0) & self.known[texts.clamp(min=0)]
