"""Heads that answer questions about photographs: joint vectors, classes, word vectors.

A question and a picture in one vector, of which a head chooses the answer.

Answers as vectors: an answer is known by the words in it.

Answers as classes: one of those that are frequent in training (Agrawal et al. 2015; Yang et al. 2016).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled import native
from unrolled.models.attention import Attention, attend_shared
from unrolled.models.encoders import EncoderOutput, ImageEncoder, TextEncoder
from unrolled.models.heads import VocabularyHead, cross_entropy
from unrolled.recurrence import Dropout


class FusedFeatures(NamedTuple):
    """What became of question and picture.

    Attributes:
        vector: `(batch, size)`.
        weights: of attention's last look, `(batch, positions)`, where there is one; at most 1 together.
    """

    vector: Tensor
    weights: Tensor | None = None


class HadamardFusion(nn.Module):
    """tanh(W q) ∘ tanh(V p), of the question's summary q and the picture's p (Agrawal et al. 2015, "VQA").

    One that is not given, because the model is to do without it, counts as ones.

    Args:
        question_size, picture_size: features of q and p; `None`: not given.
        size: features of the product.
    """

    def __init__(self, question_size: int | None, picture_size: int | None, size: int, dropout: Dropout) -> None:
        super().__init__()
        self.question = None if question_size is None else nn.Linear(question_size, size)
        self.picture = None if picture_size is None else nn.Linear(picture_size, size)
        self.dropout = dropout

    def forward(self, question: Tensor | None, picture: EncoderOutput | None, source_index: Tensor) -> FusedFeatures:
        """Joins `question` `(batch, question_size)` and the summary of `picture`, of which each question has the row
        `source_index` `(batch,)`."""
        factors = []
        if self.question is not None and question is not None:
            factors.append(torch.tanh(self.question(question)))
        if self.picture is not None and picture is not None:
            factors.append(torch.tanh(self.picture(picture.summary))[source_index])
        product = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return FusedFeatures(self.dropout(product))


class StackedAttention(nn.Module):
    """Looks at the positions again and again (Yang et al. 2016, "Stacked attention networks", eq. 15–18): from
    u_0 = tanh(W q), with positions s_p = tanh(V f_p) of the picture,

        α_k = softmax_p(w_kᵀ tanh(U_k u_{k−1} + K_k s_p)),  u_k = u_{k−1} + Σ_p α_kp s_p

    One more position, a learned vector, is no part of any picture: where nothing is to be found, a look goes there (as
    to the sentinel of Lu et al. 2017, "Knowing when to look"). A mean over positions that are alike cannot say how many
    they are; what is left for this one can.

    After the last look question and finding are multiplied too, u_K + tanh(A u_0) ∘ tanh(B u_K) (Kim et al. 2017,
    "Hadamard product for low-rank bilinear pooling"): that something is there is yes to one question, no to another.

    Args:
        question_size, picture_size: features of q and f.
        size: of u and s.
        hops: how often it looks.
    """

    def __init__(self, question_size: int, picture_size: int, size: int, hops: int, dropout: Dropout) -> None:
        super().__init__()
        self.question, self.picture = nn.Linear(question_size, size), nn.Linear(picture_size, size)
        self.asked, self.found = nn.Linear(size, size), nn.Linear(size, size)
        self.nothing = nn.Parameter(0.1 * torch.randn(size))
        self.looks = nn.ModuleList(Attention("additive", size, size) for _ in range(hops))
        self.dropout = dropout
        # Scores that hang on question and position together need a tanh that bends: with torch's smaller first weights
        # it hardly does, and looks learn nothing for a long time.
        for map in self.modules():
            if isinstance(map, nn.Linear):
                nn.init.xavier_uniform_(map.weight, nn.init.calculate_gain("tanh"))

    def forward(self, question: Tensor, picture: EncoderOutput, source_index: Tensor) -> FusedFeatures:
        """Joins `question` `(batch, question_size)` and `picture`, of which each question has the row `source_index`
        `(batch,)`. What depends on a picture alone is computed once, however many questions it has."""
        states = self._positions(picture.states)
        mask = torch.cat([picture.mask, picture.mask.new_ones(len(states), 1)], dim=1)
        first = joined = torch.tanh(self.question(question))
        weights = None
        for look in self._looks():
            seen, weights = attend_shared(look, joined, EncoderOutput(states, mask, picture.summary), source_index)
            joined = joined + seen
        assert weights is not None
        joined = joined + torch.tanh(self.asked(first)) * torch.tanh(self.found(joined))
        return FusedFeatures(self.dropout(joined), weights[:, :-1])

    def _positions(self, seen: Tensor) -> Tensor:
        """s, and behind them the vector that is no part of the picture, `(pictures, positions + 1, size)`."""
        mapped = self.picture(seen)
        states = native.tanh_append(mapped, self.nothing)
        if states is not None:
            return states
        return torch.cat([torch.tanh(mapped), self.nothing.to(mapped.dtype).expand(len(mapped), 1, -1)], dim=1)

    def _looks(self) -> list[Attention]:
        return [look for look in self.looks if isinstance(look, Attention)]


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

    def candidate_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """`(rows, size)` → scores of a few answers a row, by number, `(rows, few)`."""
        return self.scores(hidden, self.answers[answers])

    def candidate_and_text_logits(self, hidden: Tensor, answers: Tensor, texts: Tensor) -> Tensor:
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
        scores = native.text_scores(hidden, self.words, texts, self.known)
        if scores is not None:
            return scores
        scores = torch.einsum("rs,rfs->rf", hidden, self._vectors(texts))
        return scores.masked_fill(~self._told(texts).any(-1), -math.inf)

    def _vectors(self, texts: Tensor) -> Tensor:
        """Tokens `(…, words)` → vectors `(…, size)`."""
        vectors = native.bags(self.words, texts, self.known)
        if vectors is not None:
            return vectors
        told = self._told(texts)
        counts = told.sum(-1)
        begins = counts.flatten().cumsum(0) - counts.flatten()
        sums = functional.embedding_bag(texts[told], self.words, begins, mode="sum")
        return sums.view(*counts.shape, -1) / counts.clamp(min=1)[..., None].sqrt()

    def _told(self, texts: Tensor) -> Tensor:
        return (texts >= 0) & self.known[texts.clamp(min=0)]


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
        joint: HadamardFusion | StackedAttention,
        head: VocabularyHead | AnswerVectors,
    ) -> None:
        super().__init__()
        self.question, self.picture, self.joint, self.head = question, picture, joint, head

    @property
    def attends(self) -> bool:
        """Whether it looks at the positions of a picture."""
        return isinstance(self.joint, StackedAttention)

    def forward(self, pictures: Tensor, source_index: Tensor, tokens: Tensor, mask: Tensor) -> FusedFeatures:
        """Reads questions and their pictures, each of these once.

        Args:
            pictures: what the picture's encoder reads, `(pictures, …)`.
            source_index: the picture of each question, `(batch,)`.
            tokens: of the questions, `(batch, time)`, padded at the end.
            mask: `(batch, time)`, False on padding.

        Returns:
            The vectors that the head reads.
        """
        asked = None if self.question is None else self.question(tokens, mask).summary
        joined: FusedFeatures = self.joint(
            asked, None if self.picture is None else self.picture(pictures), source_index
        )
        return joined

    def loss(self, joined: FusedFeatures, answers: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy (nats) of the right answers `(batch,)`, summed."""
        return self.head.loss(joined.vector, answers, smoothing)

    def choice_loss(
        self, joined: FusedFeatures, answers: Tensor, candidates: Tensor, texts: Tensor | None = None
    ) -> Tensor:
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
            scores = self.head.candidate_logits(joined.vector, torch.cat([own, candidates.clamp(min=0)], dim=1))
            without |= candidates < 0
        else:
            assert isinstance(self.head, AnswerVectors)
            scores = self.head.candidate_and_text_logits(joined.vector, own, texts)
        scores = scores.masked_fill(functional.pad(without, (1, 0)), -math.inf)
        return -scores.log_softmax(1)[:, 0].sum()

    def text_scores(self, joined: FusedFeatures, texts: Tensor) -> Tensor:
        """Scores of answers by their words, `(batch, most)`; see `AnswerVectors.scores`."""
        assert isinstance(self.head, AnswerVectors)
        return self.head.scores(joined.vector, texts)

    def log_probabilities(self, joined: FusedFeatures) -> Tensor:
        """`(batch, answers)`."""
        return self.head.log_probabilities(joined.vector)
