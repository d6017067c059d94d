"""Encoder–decoders that write together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.decoding import Ensemble, MeanScorer, Memories
from unrolled.models import EncoderDecoder, Memory, Rows
from unrolled.models.scorer import Precision
from unrolled.recurrence.state import Nest


class Together(nn.Module):
    """Models with the same vocabularies as one model, searched as each of them is: an `Ensemble` with encoders."""

    def __init__(self, models: Sequence[EncoderDecoder]) -> None:
        super().__init__()
        self.registered = nn.ModuleList(models)
        self._models, self._ensemble = models, Ensemble(models)

    def encode(self, *inputs: Tensor) -> Memories[Memory]:
        """The inputs of one encoder → the memories of all models."""
        return Memories(tuple(model.encode(*inputs) for model in self._models))

    def start(self, memory: Memories[Memory]) -> Nest:
        """The states of all models."""
        return self._ensemble.start(memory)

    def step(self, tokens: Tensor, state: Nest, memory: Memories[Memory], rows: Rows) -> tuple[Tensor, Nest]:
        """The logarithm of the mean probabilities `(rows, vocabulary)`, and the states."""
        return self._ensemble.step(tokens, state, memory, rows)

    @property
    def attends(self) -> bool:
        """Whether all models look at the input, and so have a mean of where they look."""
        return all(model.attends for model in self._models)

    def look(
        self, tokens: Tensor, state: Nest, memory: Memories[Memory], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor]:
        """As `step`, and the mean weights of attention `(rows, positions)`."""
        outputs, states, weights = self.outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.scorer("float32").logits(outputs)[1], states, weights

    def outputs(
        self, tokens: Tensor, state: Nest, memory: Memories[Memory], rows: Rows | None = None
    ) -> tuple[Tensor, Nest, Tensor | None]:
        """As `EncoderDecoder.outputs`: the outputs of all models side by side, and the mean of their weights."""
        each = zip(self._models, memory.each, state, strict=True)
        found = [model.outputs(tokens, own, part, rows) for model, part, own in each]
        outputs, states, weights = zip(*found, strict=True)
        seen = torch.stack(weights).mean(0) if self.attends else None
        return torch.cat(outputs, dim=1), states, seen

    def scorer(self, precision: Precision) -> MeanScorer:
        """The heads of all models, made ready for the steps of a search."""
        return MeanScorer([model.scorer(precision) for model in self._models])
