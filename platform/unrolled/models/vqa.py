"""Question answering over a fixed set of answers: fusion of question and picture, and heads over the answers.

Answers are classes, those that are frequent in training (Agrawal et al. 2015; Yang et al. 2016), or vectors, the sums
of their words' vectors.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.attention import Attention, attend_shared
from unrolled.models.encoders import EncoderOutput, ImageEncoder, TextEncoder
from unrolled.models.heads import VocabularyHead, cross_entropy
from unrolled.recurrence import Dropout


class FusedFeatures(NamedTuple):
    """Question and picture in one vector.

    Attributes:
        vector: `(batch, size)`.
        weights: of the last hop of attention, `(batch, positions)`, if there is attention; their sum is at most 1.
    """

    vector: Tensor
    weights: Tensor | None = None


class HadamardFusion(nn.Module):
    """tanh(W q) ∘ tanh(V p), of the question's summary q and the picture's p (Agrawal et al. 2015, "VQA").

    In question-only and picture-only baselines the other factor is left out.

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
        """Fuses `question` `(batch, question_size)` with the summary of row `source_index` `(batch,)` of `picture`."""
        factors = []
        if self.question is not None and question is not None:
            factors.append(torch.tanh(self.question(question)))
        if self.picture is not None and picture is not None:
            factors.append(torch.tanh(self.picture(picture.summary))[source_index])
        product = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return FusedFeatures(self.dropout(product))


class StackedAttention(nn.Module):
    """Repeated attention to the positions (Yang et al. 2016, "Stacked attention networks", eq. 15–18): from
    u_0 = tanh(W q), with positions s_p = tanh(V f_p) of the picture,

        α_k = softmax_p(w_kᵀ tanh(U_k u_{k−1} + K_k s_p)),  u_k = u_{k−1} + Σ_p α_kp s_p

    A further position, the sentinel, is a learned vector that belongs to no picture: attention can go there if it finds
    nothing (as in Lu et al. 2017, "Knowing when to look"). A mean over similar positions does not depend on their
    number; the weight that remains for the sentinel does.

    After the last hop question and result are also multiplied, u_K + tanh(A u_0) ∘ tanh(B u_K) (Kim et al. 2017,
    "Hadamard product for low-rank bilinear pooling"): the same finding means yes to one question and no to another.

    Args:
        question_size, picture_size: features of q and f.
        size: of u and s.
        hops: number of attention steps.
    """

    def __init__(self, question_size: int, picture_size: int, size: int, hops: int, dropout: Dropout) -> None:
        super().__init__()
        self.question, self.picture = nn.Linear(question_size, size), nn.Linear(picture_size, size)
        self.first, self.last = nn.Linear(size, size), nn.Linear(size, size)
        self.sentinel = nn.Parameter(0.1 * torch.randn(size))
        self.hops = nn.ModuleList(Attention("additive", size, size) for _ in range(hops))
        self.dropout = dropout
        # Scores that depend on question and position jointly need the nonlinear range of tanh: torch's smaller initial
        # weights hardly reach it, and attention learns nothing for a long time.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("tanh"))

    def forward(self, question: Tensor, picture: EncoderOutput, source_index: Tensor) -> FusedFeatures:
        """Fuses `question` `(batch, question_size)` with row `source_index` `(batch,)` of `picture`. What depends on a
        picture alone is computed once for all its questions."""
        states = torch.tanh(self.picture(picture.states))
        states = torch.cat([states, self.sentinel.to(states.dtype).expand(len(states), 1, -1)], dim=1)
        mask = torch.cat([picture.mask, picture.mask.new_ones(len(states), 1)], dim=1)
        first = fused = torch.tanh(self.question(question))
        memory, weights = EncoderOutput(states, mask, picture.summary), None
        for hop in self.hops:
            context, weights = attend_shared(cast(Attention, hop), fused, memory, source_index)
            fused = fused + context
        assert weights is not None
        fused = fused + torch.tanh(self.first(first)) * torch.tanh(self.last(fused))
        return FusedFeatures(self.dropout(fused), weights[:, :-1])


class AnswerVectors(nn.Module):
    """A head with scores h · a, where a is the sum of the vectors of an answer's words divided by the square root of
    their number: so answers that do not occur in training can be scored, if their words occur in others.

    Args:
        size: features of the vectors h.
        vocabulary: number of tokens.
        answers: tokens of the answers to choose from, `(answers, most)`, padded with -1. Words that occur in none of
            them are unknown and left out.
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
        """Returns the summed cross-entropy (nats) of the answers `(rows,)`; smoothing as of `VocabularyHead`."""
        vectors = self._vectors(self.answers)
        return cross_entropy(hidden, vectors, vectors.new_zeros(len(vectors)), targets, smoothing, once=self.training)

    def candidate_logits(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """`(rows, size)` → scores of a few answers per row, by index, `(rows, few)`."""
        return self.text_logits(hidden, self.answers[answers])

    def candidate_and_text_logits(self, hidden: Tensor, answers: Tensor, texts: Tensor) -> Tensor:
        """`candidate_logits` of `answers` `(rows, few)`, then `text_logits` of `texts` `(rows, others, words)`."""
        own, longest = self.answers[answers], max(self.answers.shape[1], texts.shape[2])
        padded = (functional.pad(each, (0, longest - each.shape[2]), value=-1) for each in (own, texts))
        return self.text_logits(hidden, torch.cat([*padded], dim=1))

    def text_logits(self, hidden: Tensor, texts: Tensor) -> Tensor:
        """Returns the scores of a few answers per row, `(rows, few)`; −∞ for texts without a known word.

        Args:
            hidden: `(rows, size)`.
            texts: tokens of the answers, `(rows, few, words)`, padded with -1.
        """
        scores = torch.einsum("rs,rfs->rf", hidden, self._vectors(texts))
        return scores.masked_fill(~self._known_mask(texts).any(-1), -math.inf)

    def _vectors(self, texts: Tensor) -> Tensor:
        """Tokens `(…, words)` → vectors `(…, size)`."""
        known = self._known_mask(texts)
        counts = known.sum(-1)
        offsets = counts.flatten().cumsum(0) - counts.flatten()
        sums = functional.embedding_bag(texts[known], self.words, offsets, mode="sum")
        return sums.view(*counts.shape, self.words.shape[1]) / counts.clamp(min=1)[..., None].sqrt()

    def _known_mask(self, texts: Tensor) -> Tensor:
        return (texts >= 0) & self.known[texts.clamp(min=0)]


class AnswerClassifier(nn.Module):
    """p(answer | question, picture), a softmax over all answers.

    Args:
        question: encoder of questions; `None`: the model does not see them.
        picture: encoder of pictures; `None`: the model does not see them.
        fusion: of the two encoders' outputs.
        head: over the answers.
    """

    def __init__(
        self,
        question: TextEncoder | None,
        picture: ImageEncoder | None,
        fusion: HadamardFusion | StackedAttention,
        head: VocabularyHead | AnswerVectors,
    ) -> None:
        super().__init__()
        self.question, self.picture, self.fusion, self.head = question, picture, fusion, head

    @property
    def attends(self) -> bool:
        """Whether it attends to the positions of a picture."""
        return isinstance(self.fusion, StackedAttention)

    def forward(self, photos: Tensor, photo_index: Tensor, tokens: Tensor, mask: Tensor) -> FusedFeatures:
        """Encodes and fuses questions and their photographs; a photograph is encoded once for all its questions.

        Args:
            photos: inputs of the picture encoder, `(photographs, …)`.
            photo_index: photograph of each question, `(batch,)`.
            tokens: of the questions, `(batch, time)`, padded at the end.
            mask: `(batch, time)`, False on padding.
        """
        summary = None if self.question is None else self.question(tokens, mask).summary
        memory = None if self.picture is None else self.picture(photos)
        features: FusedFeatures = self.fusion(summary, memory, photo_index)
        return features

    def loss(self, features: FusedFeatures, answers: Tensor, smoothing: float = 0.0) -> Tensor:
        """Returns the summed cross-entropy (nats) of the correct answers `(batch,)`."""
        return self.head.loss(features.vector, answers, smoothing)

    def choice_loss(
        self, features: FusedFeatures, answers: Tensor, candidates: Tensor, texts: Tensor | None = None
    ) -> Tensor:
        """Returns the summed cross-entropy (nats) of the correct answers `(batch,)` among the candidates alone.

        Args:
            candidates: `(batch, most)`, the correct answers among them; -1 for padding and for candidates that are no
                class. A question without another candidate adds nothing.
            texts: tokens of the candidates, `(batch, most, words)`, padded with -1, if answers are vectors: then
                candidates that are no class count, too.
        """
        if candidates.shape[1] == 0:
            return features.vector.new_zeros(())
        own, excluded = answers[:, None], candidates == answers[:, None]
        if texts is None:
            scores = self.head.candidate_logits(features.vector, torch.cat([own, candidates.clamp(min=0)], dim=1))
            excluded |= candidates < 0
        else:
            assert isinstance(self.head, AnswerVectors)
            scores = self.head.candidate_and_text_logits(features.vector, own, texts)
        scores = scores.masked_fill(functional.pad(excluded, (1, 0)), -math.inf)
        return -scores.log_softmax(1)[:, 0].sum()

    def text_logits(self, features: FusedFeatures, texts: Tensor) -> Tensor:
        """Returns the scores of answers by their words, `(batch, most)`; see `AnswerVectors.text_logits`."""
        assert isinstance(self.head, AnswerVectors)
        return self.head.text_logits(features.vector, texts)

    def log_probabilities(self, features: FusedFeatures) -> Tensor:
        """`(batch, answers)`."""
        return self.head.log_probabilities(features.vector)
