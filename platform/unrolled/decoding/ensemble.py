"""Ensembles: several models with averaged probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from unrolled.decoding.protocols import M, Searchable
from unrolled.models.encoders import Rows
from unrolled.models.heads import Scorer, logsumexp, topk
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class EnsembleInputs(Generic[M]):
    """What each model of an ensemble made of the same n sentences."""

    each: tuple[M, ...]

    def __len__(self) -> int:
        return len(self.each[0])

    @property
    def mask(self) -> Tensor:
        """Returns False on padding, `(n, positions)`: one for all, where all read the same tokens."""
        first: Any = self.each[0]
        mask: Tensor = first.mask
        return mask

    def select(self, rows: Tensor) -> EnsembleInputs[M]:
        """Takes the sentences `rows` `(m,)`."""
        return EnsembleInputs(tuple(memory.select(rows) for memory in self.each))


@dataclass(frozen=True)
class Ensemble(Generic[M]):
    """A searchable model whose p(token) is the mean of its models' (Sutskever et al. 2014, section 3.6). All have the
    same vocabulary; its encoded inputs are `EnsembleInputs`."""

    models: Sequence[Searchable[M]]

    def start(self, memory: EnsembleInputs[M]) -> Nest:
        """The states of all models."""
        return tuple(model.start(own) for model, own in zip(self.models, memory.each, strict=True))

    def step(self, tokens: Tensor, state: Nest, memory: EnsembleInputs[M], rows: Rows) -> tuple[Tensor, Nest]:
        """The logarithm of the mean probabilities, and the states of all models."""
        states: list[Nest] = []

        def scored() -> Iterator[tuple[Tensor, Tensor]]:
            for model, own, part in zip(self.models, memory.each, state, strict=True):
                logits, after = model.step(tokens, part, own, rows)
                states.append(after)
                yield logsumexp(logits), logits

        return log_mean(scored()), tuple(states)


class EnsembleScorer:
    """The scorers of several models as one, as `Ensemble` has it.

    Args:
        scorers: each of the outputs of its own model; these stand side by side, `(rows, features of all)`.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers, self.vocabulary = scorers, scorers[0].vocabulary

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Scorer.best`."""
        sums, logits = self.logits(outputs)
        return sums, *topk(logits.masked_fill(excluded, -float("inf")), count)

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """As `Scorer.logits`."""
        parts = torch.split(outputs, [scorer.features for scorer in self._scorers], dim=1)
        own = zip(self._scorers, parts, strict=True)
        # Where models are of several types, what stands side by side is of the widest.
        mean = log_mean(scorer.logits(part.to(scorer.dtype)) for scorer, part in own)
        return logsumexp(mean), mean


def log_mean(scored: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the logarithm of the mean probabilities `(rows, vocabulary)`.

    Args:
        scored: of each model what `logsumexp` gives of its logits `(rows,)`, and these `(rows, vocabulary)`, which are
            overwritten.
    """
    total, models = None, 0
    for sums, logits in scored:
        logs, models = logits.sub_(sums[:, None]), models + 1
        total = logs if total is None else torch.logaddexp(total, logs)
    assert total is not None
    return total.sub_(math.log(models))
