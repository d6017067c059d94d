"""Language-model metrics: perplexity, bits per character, and the variety and length of outputs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import numpy as np

from unrolled.metrics.base import (
    CorpusMetric,
    References,
    Statistics,
    SummedMetric,
    Texts,
    as_reference_lists,
    safe_divide,
)
from unrolled.metrics.captioning import TOKENIZER_SIGNATURE, closest_length, tokenize_caption

MAX_LOSS = 700.0
"""Larger mean losses in nats are clipped to this one, whose exponential is still a finite float."""


class _Likelihood(SummedMetric):
    """A function of the mean loss per unit (word or character).

    Predictions are losses in nats, −log p, summed over each text; references are the numbers of units of each text.
    """

    examples: ClassVar[list[datasets.Features]] = [
        datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")})
    ]

    def sentence_statistics(self, predictions: Sequence[float], references: Sequence[int]) -> Statistics:
        return np.stack([np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)], axis=1)

    def from_statistics(self, totals: Statistics) -> Statistics:
        scores: Statistics = self.from_loss(safe_divide(totals[..., 0], totals[..., 1], math.nan))
        return scores

    @staticmethod
    @abstractmethod
    def from_loss(loss: Any) -> Any:
        """Returns the score of a mean loss in nats per unit, a number or an array."""


class Perplexity(_Likelihood):
    """exp of the mean loss per unit: the number of equally likely units with the same uncertainty.

    `compute(predictions=losses in nats, summed over each text, references=units of each text)` returns
    "perplexity", 1 at best.
    """

    key = "perplexity"
    description = "Perplexity: e to the power of the mean loss per unit in nats."
    citation = "Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977"

    @staticmethod
    def from_loss(loss: Any) -> Any:
        return np.exp(np.minimum(loss, MAX_LOSS))


class BitsPerCharacter(_Likelihood):
    """The mean loss per character in bits.

    `compute(predictions=losses in nats, summed over each text, references=characters of each text)` returns
    "bits_per_character", 0 at best.
    """

    key = "bits_per_character"
    description = "Bits per character: the mean loss per character, log to the base 2."
    citation = "Graves, Generating Sequences With Recurrent Neural Networks, 2013, https://arxiv.org/abs/1308.0850"

    @staticmethod
    def from_loss(loss: Any) -> Any:
        return loss / math.log(2)


class Distinct(CorpusMetric):
    """Distinct-n: the percentage of distinct n-grams among all word n-grams of a corpus (Li et al. 2016).

    Li et al. divide by the number of words; as is now common, this divides by the number of n-grams, so 100 can be
    reached for every n. It falls as a corpus grows, so compare corpora of equal size; it is not a sum over sentences
    and has no bootstrap interval. References are ignored. `compute` returns "distinct_1" or "distinct_2" (0 to 100; 0
    if no output has n words) and "signature".
    """

    citation = "Li et al., A Diversity-Promoting Objective Function, 2016, https://aclanthology.org/N16-1014"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"distinct_{order}"
        self.description = (
            f"Distinct-{order}: different {order}-grams of all outputs in percent of their {order}-grams."
        )
        super().__init__()

    def _compute(self, predictions: Texts, references: Sequence[Any]) -> dict[str, Any]:
        texts = [tokenize_caption(text) for text in predictions]
        grams = [words[start : start + self.order] for words in texts for start in range(len(words) - self.order + 1)]
        score = 100 * len(set(grams)) / len(grams) if grams else 0.0
        return {self.key: score, "signature": f"{TOKENIZER_SIGNATURE}|n:{self.order}|per:ngrams"}


class LengthRatio(SummedMetric):
    """The number of words written over that of the references, the nearest in length if there are several.

    Words are separated by spaces. 1 means equal length; neither more nor less is better by itself. `compute` returns
    "length_ratio"; it is infinite if all references are empty and some output is not.
    """

    key = "length_ratio"
    description = "The words of the outputs over the words of the references."

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, own in zip(predictions, as_reference_lists(references), strict=True):
            written, lengths = len(text.split()), [len(reference.split()) for reference in own]
            rows.append((written, closest_length(written, lengths)))
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        written, expected = totals[..., 0], totals[..., 1]
        return np.where(expected > 0, safe_divide(written, expected), np.where(written > 0, np.inf, 1.0))
