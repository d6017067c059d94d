"""Ensembles: several models with averaged probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from unrolled.decoding.protocols import M, Searchable
from unrolled.models import Rows, Scorer, topk
from unrolled.recurrence import Nest


@dataclass(frozen=True)
class EnsembleInputs(Generic[M]):
    """The same n sentences, encoded by each model of an ensemble."""

    each: tuple[M, ...]

    def __len__(self) -> int:
        return len(self.each[0])

    @property
    def mask(self) -> Tensor:
        """False on padding, `(n, positions)`: the first model's, as all models encode the same tokens."""
        first: Any = self.each[0]
        mask: Tensor = first.mask
        return mask

    def select(self, rows: Tensor) -> EnsembleInputs[M]:
        return EnsembleInputs(tuple(memory.select(rows) for memory in self.each))


@dataclass(frozen=True)
class Ensemble(Generic[M]):
    """A searchable model whose p(token) is the mean over its models (Sutskever et al. 2014, section 3.6). All models
    have the same vocabulary."""

    models: Sequence[Searchable[M]]

    def start(self, memory: EnsembleInputs[M]) -> Nest:
        return tuple(model.start(own) for model, own in zip(self.models, memory.each, strict=True))

    def step(self, tokens: Tensor, state: Nest, memory: EnsembleInputs[M], rows: Rows) -> tuple[Tensor, Nest]:
        """Returns the logarithm of the mean probabilities, and the states of all models."""
        states: list[Nest] = []

        def normalizers_and_logits() -> Iterator[tuple[Tensor, Tensor]]:
            for model, own_memory, own_state in zip(self.models, memory.each, state, strict=True):
                logits, new_state = model.step(tokens, own_state, own_memory, rows)
                states.append(new_state)
                yield logits.logsumexp(1), logits

        return log_mean_probabilities(normalizers_and_logits()), tuple(states)


class EnsembleScorer:
    """The scorers of several models as one `OutputScorer`, with the mean of their probabilities.

    Args:
        scorers: one per model; outputs are the concatenated outputs of the models, `(rows, features of all)`.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers, self.vocabulary = scorers, scorers[0].vocabulary

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normalizers, logits = self.logits(outputs)
        return normalizers, *topk(logits.masked_fill(excluded, -float("inf")), count)

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.split(outputs, [scorer.features for scorer in self._scorers], dim=1)
        pairs = zip(self._scorers, parts, strict=True)
        # Concatenated outputs of several types have the widest of them.
        mean = log_mean_probabilities(scorer.logits(part.to(scorer.dtype)) for scorer, part in pairs)
        return mean.logsumexp(1), mean


def log_mean_probabilities(each: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the logarithm of the mean probabilities `(rows, vocabulary)`.

    Args:
        each: for each model log Σ exp of its logits `(rows,)`, and the logits `(rows, vocabulary)`, which are
            overwritten.
    """
    total, models = None, 0
    for normalizers, logits in each:
        log_probs, models = logits.sub_(normalizers[:, None]), models + 1
        total = log_probs if total is None else torch.logaddexp(total, log_probs)
    assert total is not None
    return total.sub_(math.log(models))
