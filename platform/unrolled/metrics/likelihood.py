"""Likelihood metrics: perplexity and bits per character."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import numpy as np

from unrolled.metrics.base import Statistics, SummedMetric, safe_divide

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
