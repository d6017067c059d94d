"""Search over anything that can `start` and `step`: greedy, sampling and beam search, batched over sentences.

One function, `decode`, and one frozen dataclass a strategy; `answers` makes its result readable.
"""

from __future__ import annotations

from unrolled.decoding.ensemble import Ensemble, MeanScorer, Memories
from unrolled.decoding.protocols import Attentive, Memory, Searchable
from unrolled.decoding.search import Candidate, Decoded, Hypothesis, Output, decode, length_limits, outputs_of
from unrolled.decoding.strategies import (
    MBR,
    STRATEGIES,
    USUAL,
    Beam,
    Best,
    Greedy,
    Sample,
    Strategy,
    as_trained,
    choose,
    n_best,
    precision_of,
    split,
)

__all__ = [
    "MBR",
    "STRATEGIES",
    "USUAL",
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
    "Output",
    "Sample",
    "Searchable",
    "Strategy",
    "as_trained",
    "choose",
    "decode",
    "length_limits",
    "n_best",
    "outputs_of",
    "precision_of",
    "split",
]
