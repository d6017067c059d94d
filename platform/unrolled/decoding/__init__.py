"""Search over anything that can `start` and `step`: greedy, sampling and beam search, batched over sentences.

One function, `decode`, and one frozen dataclass a strategy.
"""

from __future__ import annotations

from unrolled.decoding.interface import Memory, Searchable
from unrolled.decoding.named import STRATEGIES, choose
from unrolled.decoding.search import Decoded, decode
from unrolled.decoding.strategies import Beam, Greedy, Sample, Strategy

__all__ = [
    "STRATEGIES",
    "Beam",
    "Decoded",
    "Greedy",
    "Memory",
    "Sample",
    "Searchable",
    "Strategy",
    "choose",
    "decode",
]
