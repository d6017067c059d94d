"""Decoding: greedy, sampling and beam search with any model that has `start` and `step`, batched over sentences.

`decode` searches with a strategy, a frozen dataclass; `make_outputs` turns its result into texts.
"""

from __future__ import annotations

from unrolled.decoding.ensemble import Ensemble, EnsembleInputs, EnsembleScorer
from unrolled.decoding.protocols import EncodedInputs, Searchable, SupportsAttention
from unrolled.decoding.search import (
    Candidate,
    DecodeResult,
    Hypothesis,
    Output,
    decode,
    length_limits,
    make_outputs,
    min_risk,
)
from unrolled.decoding.strategies import (
    DEFAULT_STRATEGIES,
    MBR,
    STRATEGIES,
    Beam,
    BestOfN,
    Greedy,
    Sample,
    Strategy,
    n_best,
    parse_strategies,
    resolve_auto,
    resolve_precision,
    split_spellings,
)

__all__ = [
    "DEFAULT_STRATEGIES",
    "MBR",
    "STRATEGIES",
    "Beam",
    "BestOfN",
    "Candidate",
    "DecodeResult",
    "EncodedInputs",
    "Ensemble",
    "EnsembleInputs",
    "EnsembleScorer",
    "Greedy",
    "Hypothesis",
    "Output",
    "Sample",
    "Searchable",
    "Strategy",
    "SupportsAttention",
    "decode",
    "length_limits",
    "make_outputs",
    "min_risk",
    "n_best",
    "parse_strategies",
    "resolve_auto",
    "resolve_precision",
    "split_spellings",
]
