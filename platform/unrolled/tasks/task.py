"""What the loop, the evaluation job and the command line know of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from unrolled.data.batching import Batch
from unrolled.data.corpus import Corpus
from unrolled.decoding import Strategy


class Task(Protocol):
    """Binds data to a model. Built from a config and the run's vocabularies."""

    def build_model(self) -> nn.Module:
        """Makes the model, with fresh parameters drawn from torch's generator."""
        ...

    def batch(self, corpus: Corpus, indices: np.ndarray) -> Batch:
        """Collates examples of a tokenised split."""
        ...

    def loss(self, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """The loss in nats, summed over the batch's target tokens."""
        ...

    def predict(
        self, model: nn.Module, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Writes one output an input, in order. `numbers` name the examples for sampling; default: their places."""
        ...

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """Scores by name, and under `signatures` how each was computed."""
        ...
