"""Several models as one: their probabilities averaged at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from unrolled.decoding.interface import M, Searchable
from unrolled.models.rows import Rows
from unrolled.models.scorer import log_sums
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class Memories(Generic[M]):
    """What each model of an ensemble made of the same n sentences."""

    each: tuple[M, ...]

    def __len__(self) -> int:
        return len(self.each[0])

    def select(self, rows: Tensor) -> Memories[M]:
        """Takes the sentences `rows` `(m,)`."""
        return Memories(tuple(memory.select(rows) for memory in self.each))


@dataclass(frozen=True)
class Ensemble(Generic[M]):
    """A searchable model whose p(token) is the mean of its models' (Sutskever et al. 2014, section 3.6). All have the
    same vocabulary; its memories are `Memories`."""

    models: Sequence[Searchable[M]]

    def start(self, memory: Memories[M]) -> Nest:
        """The states of all models."""
        return tuple(model.start(own) for model, own in zip(self.models, memory.each, strict=True))

    def step(self, tokens: Tensor, state: Nest, memory: Memories[M], rows: Rows) -> tuple[Tensor, Nest]:
        """The logarithm of the mean probabilities, and the states of all models."""
        mean, states = None, []
        for model, own, part in zip(self.models, memory.each, state, strict=True):
            logits, after = model.step(tokens, part, own, rows)
            logs = logits.sub_(log_sums(logits)[:, None] + math.log(len(self.models)))
            mean = logs if mean is None else torch.logaddexp(mean, logs, out=mean)
            states.append(after)
        assert mean is not None
        return mean, tuple(states)
