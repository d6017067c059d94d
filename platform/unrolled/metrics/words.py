"""Measures of the outputs' words themselves: how varied they are, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unrolled.metrics.base import CorpusMetric, References, Statistics, SummedMetric, Texts, divided, grouped
from unrolled.metrics.tokens import WORDS, caption_words


class Distinct(CorpusMetric):
    """Distinct-n: the percentage of a corpus's n-grams of words that are different ones (Li et al. 2016).

    Li et al. divide by the words; this is the later custom of dividing by the n-grams, so 100 can be reached
    for every n.  It falls as a corpus grows, so compare equally many outputs; it is no sum over sentences and
    has no bootstrap interval.  References are not read.  `compute` returns "distinct_1" or "distinct_2" (0 to
    100; 0 where no output has n words) and "signature".
    """

    citation = "Li et al., A Diversity-Promoting Objective Function, 2016, https://aclanthology.org/N16-1014"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"distinct_{order}"
        self.description = (
            f"Distinct-{order}: different {order}-grams of all outputs in percent of their {order}-grams."
        )
        super().__init__()

    def _compute(self, predictions: Texts, references: Sequence[Any]) -> dict[str, Any]:
        texts = [caption_words(text) for text in predictions]
        every = [words[start : start + self.order] for words in texts for start in range(len(words) - self.order + 1)]
        score = 100 * len(set(every)) / len(every) if every else 0.0
        return {self.key: score, "signature": f"{WORDS}|n:{self.order}|per:ngrams"}


class LengthRatio(SummedMetric):
    """The words written over the words of the references, the nearest in length where there are several.

    Words stand between spaces.  1 is as long as the references; neither more nor less is better by itself.
    `compute` returns "length_ratio"; it is infinite where all references are empty and some output is not.
    """

    key = "length_ratio"
    description = "The words of the outputs over the words of the references."

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, truths in zip(predictions, grouped(references), strict=True):
            written, lengths = len(text.split()), [len(truth.split()) for truth in truths]
            rows.append((written, min((abs(length - written), length) for length in lengths)[1]))
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        written, expected = totals[..., 0], totals[..., 1]
        return np.where(expected > 0, divided(written, expected), np.where(written > 0, np.inf, 1.0))
