"""Small searchable models, and reference searches simple enough to be obviously correct."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from unrolled.decoding import Beam, BestOfN, DecodeResult, Greedy, Sample, Strategy, decode
from unrolled.models import Rows

BEGIN, END = 0, 1
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
EVERY_STRATEGY = [
    Greedy(),
    Sample(temperature=0.8, top_k=4, top_p=0.9, seed=3),
    Sample(temperature=1.3, typical=0.9),
    BestOfN(samples=3),
    Beam(4, 1.0, best=2),
    Beam(3, 0.0),
    Beam(4, "average", groups=2, diversity=0.7),
]
IDS = ["greedy", "sample-cut", "sample-typical", "best", "beam-4", "beam-3", "beam-groups"]


@dataclass(frozen=True)
class Vectors:
    """Encoded inputs: one vector per sentence `(n, features)`."""

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

    def step(self, tokens: Tensor, state: Any, memory: Vectors, rows: Rows) -> tuple[Tensor, Any]:
        self.rows.append(len(tokens))
        hidden, (nothing, steps) = state
        assert len(tokens) == len(hidden) == len(steps) == len(rows) and len(memory) == rows.num_sources
        seen = memory.values[rows.source_index]
        hidden = torch.tanh(self.embed[tokens] + hidden @ self.recur + seen + 0.1 * steps)
        return torch.log_softmax(self.spread * hidden @ self.out, dim=1), (hidden, (nothing, steps + 1))


@dataclass(frozen=True)
class Positions:
    """Encoded inputs for attention: vectors `(n, positions, features)`; `mask` `(n, positions)` is False on padding."""

    values: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> Positions:
        return Positions(self.values[rows], self.mask[rows])


class Looking(Network):
    """A network that attends to its memory."""

    attends = True

    def memory(self, n: int) -> Positions:
        draw = torch.Generator().manual_seed(self.seed + 1)
        values = torch.randn(n, 4, 6, generator=draw, dtype=torch.float64)
        lengths = torch.randint(1, 5, (n, 1), generator=draw)
        return Positions(values.to(self.device, self.dtype), (torch.arange(4) < lengths).to(self.device))

    def start(self, memory: Positions) -> Any:
        return super().start(Vectors(memory.values[:, 0]))

    def step(self, tokens: Tensor, state: Any, memory: Positions, rows: Rows) -> tuple[Tensor, Any]:
        return self.step_with_attention(tokens, state, memory, rows)[:2]

    def step_with_attention(
        self, tokens: Tensor, state: Any, memory: Positions, rows: Rows
    ) -> tuple[Tensor, Any, Tensor]:
        scores = (memory.values[rows.source_index] @ state[0][:, :, None])[:, :, 0]
        weights = scores.masked_fill(~memory.mask[rows.source_index], -math.inf).softmax(1)
        seen = (weights[:, None] @ memory.values[rows.source_index])[:, 0]
        own = Rows.uniform(len(rows), 1, tokens.device)
        logits, state = super().step(tokens, state, Vectors(seen), own)
        return logits, state, weights


@dataclass(frozen=True)
class Table:
    """A model without state or recurrence: the next token's log-probabilities given the last one."""

    log_probabilities: Tensor

    def start(self, memory: Vectors) -> None:
        return None

    def step(self, tokens: Tensor, state: None, memory: Vectors, rows: Rows) -> tuple[Tensor, None]:
        return self.log_probabilities[tokens], None


def table(*rows: list[float]) -> Table:
    return Table(torch.tensor(rows, dtype=torch.float64).log())


def run(model: Any, memory: Any, strategy: Strategy, **settings: Any) -> DecodeResult:
    return decode(model, memory, strategy, begin=BEGIN, end=END, **settings)


Written = tuple[int, ...]
Allowed = Callable[[Written, int], bool]


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis for one sentence, extended token by token."""

    total: float
    written: Written
    state: Any
    attended: Tensor | None = None

    def grow(self, model: Any, memory: Any) -> tuple[list[float], Any, Tensor | None]:
        """Log-probabilities of all tokens, the next state and the summed attention weights."""
        last, one = torch.tensor([self.written[-1] if self.written else BEGIN]), Rows.uniform(1, 1, torch.device("cpu"))
        weights = None
        if isinstance(model, Looking):
            logits, state, weights = model.step_with_attention(last, self.state, memory, one)
            weights = weights if self.attended is None else weights + self.attended
        else:
            logits, state = model.step(last, self.state, memory, one)
        return logits[0].log_softmax(0).tolist(), state, weights

    def worth(self, strategy: Beam, memory: Any) -> float:
        length = len(self.written)
        alpha = strategy.length_penalty
        value = self.total / (length if alpha == "average" else ((5 + length) / 6) ** alpha)
        if strategy.coverage_penalty and self.attended is not None:
            attended = self.attended[memory.mask].tolist()
            value += strategy.coverage_penalty * sum(math.log(min(share, 1.0)) for share in attended)
        return value


def score(model: Any, memory: Any, tokens: list[int], max_length: int, strategy: Beam | None = None) -> float:
    """The score of these tokens, and of the end token if there is room for it, for one sentence."""
    hypothesis = Hypothesis(0.0, (), model.start(memory))
    for token in [*tokens, END][:max_length]:
        logs, state, attended = hypothesis.grow(model, memory)
        hypothesis = Hypothesis(hypothesis.total + logs[token], (*hypothesis.written, token), state, attended)
    return hypothesis.worth(strategy or Beam(length_penalty=0.0), memory)


def every_sentence(vocabulary: int, max_length: int, forbidden: set[int]) -> Iterator[list[int]]:
    words = [token for token in range(vocabulary) if token != END and token not in forbidden]
    for length in range(max_length + 1):
        yield from (list(sentence) for sentence in itertools.product(words, repeat=length))


def plain_beam(
    model: Any, memory: Any, strategy: Beam, vocabulary: int, allowed: Allowed = lambda written, token: True
) -> list[tuple[float, Written]]:
    """Beam search over lists without early stopping or pruning: the n-best list with scores."""
    share, done = strategy.size // strategy.groups, {}
    alive = [[Hypothesis(0.0, (), model.start(memory))] for _ in range(strategy.groups)]
    for length in range(1, strategy.max_length + 1):
        taken: Counter[int] = Counter()
        for group, hypotheses in enumerate(alive):
            grown = []
            for one in hypotheses:
                logs, state, attended = one.grow(model, memory)
                grown += [
                    Hypothesis(one.total + logs[token], (*one.written, token), state, attended)
                    for token in range(vocabulary)
                    if allowed(one.written, token)
                ]
            penalty = {token: strategy.diversity * count for token, count in taken.items()}
            grown.sort(key=lambda one: penalty.get(one.written[-1], 0.0) - one.total)
            for one in grown[:share]:
                if one.written[-1] == END or length == strategy.max_length:
                    done[one.written] = one.worth(strategy, memory)
            alive[group] = [one for one in grown if one.written[-1] != END][:share]
            taken.update(one.written[-1] for one in alive[group])
    return sorted(((value, written) for written, value in done.items()), reverse=True)[: strategy.best]
