"""Search over anything that can `start` and `step`: greedy, sampling and beam search, batched over sentences.

One function, `decode`, and one frozen dataclass a strategy; `answers` makes its result readable.
"""

from __future__ import annotations

from unrolled.decoding.answers import Answer, Candidate, answers
from unrolled.decoding.ensemble import Ensemble, MeanScorer, Memories
from unrolled.decoding.interface import Attentive, Memory, Searchable
from unrolled.decoding.n_best import n_best
from unrolled.decoding.named import STRATEGIES, USUAL, as_trained, choose, precision_of, split
from unrolled.decoding.search import Decoded, Hypothesis, decode, length_limits
from unrolled.decoding.strategies import MBR, Beam, Best, Greedy, Sample, Strategy

__all__ = [
    "MBR",
    "STRATEGIES",
    "USUAL",
    "Answer",
    "Attentive",
    "Beam",
    "Best",
    "Candidate",
    "Decoded",
    "Ensemble",
    "Greedy",
    "Hypothesis",
    "MeanScorer",
    "Memories",
    "Memory",
    "Sample",
    "Searchable",
    "Strategy",
    "answers",
    "as_trained",
    "choose",
    "decode",
    "length_limits",
    "n_best",
    "precision_of",
    "split",
]
