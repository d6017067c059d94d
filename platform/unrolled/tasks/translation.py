"""Translation: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.config import Config
from unrolled.data.batching import Batch, collate, collate_inputs
from unrolled.data.corpus import Corpus, Vocabularies
from unrolled.data.vocabulary import BEGIN, END, PAD, UNKNOWN
from unrolled.decoding import Strategy, decode
from unrolled.metrics import score
from unrolled.models import EncoderDecoder, build_translator


class Translation:
    """An encoder–decoder between the two columns of the data."""

    def __init__(self, config: Config, vocabularies: Vocabularies) -> None:
        self.config, self.vocabularies = config, vocabularies

    def build_model(self) -> EncoderDecoder:
        """The model of the config's `model` section."""
        return build_translator(self.config.model, len(self.vocabularies.input), len(self.vocabularies.target))

    def batch(self, corpus: Corpus, indices: np.ndarray) -> Batch:
        """Pads the examples `indices`."""
        return collate(*corpus.tokens(indices))

    def loss(self, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of every target token given those before it (teacher forcing), summed."""
        assert isinstance(model, EncoderDecoder)
        memory = model.encode(batch.inputs, batch.input_mask)
        return model.loss(memory, batch.before, batch.after, batch.target_mask, smoothing)

    @torch.inference_mode()
    def predict(
        self, model: nn.Module, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Translates texts. Those of like length are decoded together, `decoding.batch` at a time."""
        assert isinstance(model, EncoderDecoder)
        model.eval()
        device = next(model.parameters()).device
        tokens = self.vocabularies.input.encode(inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(tokens[i]))
        outputs: list[list[int]] = [[] for _ in inputs]
        for start in range(0, len(order), self.config.decoding.batch):
            chosen = order[start : start + self.config.decoding.batch]
            padded, mask = collate_inputs([tokens[i] for i in chosen])
            decoded = decode(
                model,
                model.encode(padded.to(device), mask.to(device)),
                strategy,
                begin=BEGIN,
                end=END,
                forbidden=(PAD, BEGIN, UNKNOWN),
                sentence_ids=[i if numbers is None else numbers[i] for i in chosen],
            )
            for i, row in zip(chosen, decoded.tokens, strict=True):
                outputs[i] = row
        return self.vocabularies.target.decode(outputs)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """The metrics of `evaluation.metrics`, on detokenised text."""
        return score(self.config.evaluation.metrics, list(predictions), list(references))
