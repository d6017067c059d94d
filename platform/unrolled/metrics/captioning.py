"""Scores of captions by the conventions of the COCO caption evaluation (Chen et al. 2015); CIDEr-D is in `cider`.

All compare lower-case words without punctuation (`unrolled.metrics.tokens`) and take several references.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from unrolled.metrics.base import (
    MeanMetric,
    References,
    Statistics,
    SummedMetric,
    Texts,
    divided,
    grouped,
    own_signature,
)
from unrolled.metrics.tokens import WORDS, Ngrams, caption_words, ngrams
from unrolled.metrics.translation import brevity_penalty


class CaptionBleu(SummedMetric):
    """BLEU-n of a corpus of captions, n from 1 to 4: unsmoothed, against the reference of the nearest length.

    Papineni et al. 2002; where two references are equally near, the shorter counts.  `compute` returns the
    score, 0 to 100, under "bleu_1" to "bleu_4", and "signature".
    """

    citation = "Papineni et al., BLEU, 2002, https://aclanthology.org/P02-1040"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"bleu_{order}"
        self.description = f"BLEU-{order} of captions: the geometric mean of the precisions of 1- to {order}-grams."
        super().__init__()

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = [self._compared(text, truths) for text, truths in zip(predictions, grouped(references), strict=True)]
        return np.array(rows, dtype=np.float64)

    def _compared(self, prediction: str, references: list[str]) -> list[int]:
        """Returns the words predicted and expected, the n-grams of each length that are right, and all of them."""
        words, truths = caption_words(prediction), [caption_words(text) for text in references]
        expected = min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
        most: Ngrams = Counter()
        for truth in truths:
            most |= ngrams(truth, self.order)
        right = [0] * self.order
        for ngram, count in (ngrams(words, self.order) & most).items():
            right[len(ngram) - 1] += count
        return [len(words), expected, *right, *(max(0, len(words) - length) for length in range(self.order))]

    def from_statistics(self, totals: Statistics) -> Statistics:
        right, written = totals[..., 2 : 2 + self.order], totals[..., 2 + self.order :]
        precision: Statistics = np.prod(divided(right, written), axis=-1) ** (1 / self.order)
        return 100 * brevity_penalty(totals[..., 0], totals[..., 1]) * precision

    def signature(self, references: References) -> str:
        return own_signature(f"{WORDS}|length:closest|smooth:none", references)


class RougeL(MeanMetric):
    """ROUGE-L of captions: the F-score, β = 1.2, of the longest common subsequence, mean over the captions.

    Lin 2004; as in the COCO caption evaluation, precision and recall are each the best over the references.
    An empty caption scores 100 where a reference is empty too, else 0.  `compute` returns "rouge_l", 0 to 100,
    and "signature".
    """

    key = "rouge_l"
    description = "ROUGE-L of captions: the F-score of the longest common subsequence of words."
    citation = "Lin, ROUGE, 2004, https://aclanthology.org/W04-1013"
    BETA = 1.2

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [self._score(text, truths) for text, truths in zip(predictions, grouped(references), strict=True)]

    def _score(self, prediction: str, references: list[str]) -> float:
        words, truths = caption_words(prediction), [caption_words(text) for text in references]
        if words in truths:
            return 100.0
        common = [common_subsequence(words, truth) for truth in truths]
        if not any(common):
            return 0.0
        precision = max(common) / len(words)
        recall = max(length / len(truth) for length, truth in zip(common, truths, strict=True) if truth)
        weight = self.BETA**2
        return 100 * (1 + weight) * precision * recall / (recall + weight * precision)

    def signature(self, references: References) -> str:
        return own_signature(f"{WORDS}|beta:{self.BETA}|refs:best-precision-best-recall", references)


def common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, a row of the table in one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(ours):
        places[word] |= 1 << place
    every = (1 << len(ours)) - 1
    row = every
    for word in theirs:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(ours) - row.bit_count()
