"""Small models to search over, and searches so plain that they are surely right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from unrolled.decoding import Beam, Decoded, Greedy, Sample, Strategy, decode

BEGIN, END = 0, 1
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
EVERY_STRATEGY = [
    Greedy(),
    Sample(temperature=0.8, top_k=4, top_p=0.9, seed=3),
    Sample(temperature=1.3),
    Beam(4, 1.0),
    Beam(3, 0.0),
]


@dataclass(frozen=True)
class Vectors:
    """A memory: one vector a sentence `(n, features)`."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> Vectors:
        return Vectors(self.values[rows])


@dataclass
class Network:
    """A random recurrent network whose state and distribution depend on the memory and all earlier tokens."""

    vocabulary: int
    seed: int
    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    spread: float = 2.0
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        shapes = ((self.vocabulary, 6), (6, 6), (6, self.vocabulary))
        tables = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
        self.embed, self.recur, self.out = (table.to(self.device, self.dtype) for table in tables)

    def memory(self, n: int) -> Vectors:
        draw = torch.Generator().manual_seed(self.seed + 1)
        values = torch.randn(n, 6, generator=draw, dtype=torch.float64)
        return Vectors(values.to(self.device, self.dtype))

    def start(self, memory: Vectors) -> Any:
        return memory.values.tanh(), (None, torch.zeros(len(memory), 1, dtype=self.dtype, device=self.device))

    def step(self, tokens: Tensor, state: Any, memory: Vectors) -> tuple[Tensor, Any]:
        self.rows.append(len(tokens))
        hidden, (nothing, steps) = state
        assert len(tokens) == len(hidden) == len(steps)
        seen = memory.values.repeat_interleave(len(tokens) // len(memory), dim=0)
        hidden = torch.tanh(self.embed[tokens] + hidden @ self.recur + seen + 0.1 * steps)
        return torch.log_softmax(self.spread * hidden @ self.out, dim=1), (hidden, (nothing, steps + 1))


@dataclass(frozen=True)
class Table:
    """A model without state or recurrence: the next token's log-probabilities given the last one."""

    log_probabilities: Tensor

    def start(self, memory: Vectors) -> None:
        return None

    def step(self, tokens: Tensor, state: None, memory: Vectors) -> tuple[Tensor, None]:
        return self.log_probabilities[tokens], None


def table(*rows: list[float]) -> Table:
    return Table(torch.tensor(rows, dtype=torch.float64).log())


def run(model: Any, memory: Vectors, strategy: Strategy, **settings: Any) -> Decoded:
    return decode(model, memory, strategy, begin=BEGIN, end=END, **settings)


def score(model: Any, memory: Vectors, tokens: list[int], max_length: int, alpha: float = 0.0) -> float:
    """What these tokens, and the end token if they fit one, are worth for a memory of one sentence."""
    emitted = [*tokens, END][:max_length]
    state, total = model.start(memory), 0.0
    for last, token in zip([BEGIN, *emitted], emitted, strict=False):
        log_probabilities, state = model.step(torch.tensor([last]), state, memory)
        total += float(log_probabilities[0, token])
    return float(total / ((5 + len(emitted)) / 6) ** alpha)


def every_sentence(vocabulary: int, max_length: int, forbidden: set[int]) -> Iterator[list[int]]:
    words = [token for token in range(vocabulary) if token != END and token not in forbidden]
    for length in range(max_length + 1):
        yield from (list(sentence) for sentence in itertools.product(words, repeat=length))


def plain_beam(model: Any, memory: Vectors, strategy: Beam, vocabulary: int) -> float:
    """Beam search over lists, which never stops early: the best score."""
    alive: list[tuple[float, int, Any]] = [(0.0, BEGIN, model.start(memory))]
    best = -math.inf
    for length in range(1, strategy.max_length + 1):
        grown = []
        for total, last, state in alive:
            log_probabilities, after = model.step(torch.tensor([last]), state, memory)
            more = log_probabilities[0].tolist()
            grown += [(total + more[token], token, after) for token in range(vocabulary)]
        grown.sort(key=lambda hypothesis: -hypothesis[0])
        for total, last, _ in grown[: strategy.size]:
            if last == END or length == strategy.max_length:
                best = max(best, total / ((5 + length) / 6) ** strategy.length_penalty)
        alive = [hypothesis for hypothesis in grown if hypothesis[1] != END][: strategy.size]
    return best
