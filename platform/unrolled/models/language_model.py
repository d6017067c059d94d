"""A recurrent language model: what comes next, from everything before (Mikolov et al. 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.config.language_modeling import Model
from unrolled.models.heads import VocabularyHead
from unrolled.models.recurrent import build_dropout, build_stack
from unrolled.models.rows import Rows
from unrolled.models.scorer import Precision, Scorer
from unrolled.recurrence import Dropout, Stack, StackState
from unrolled.recurrence import state as nest

PRIME = -1
"""Stands for the last unit of each prime text: the token that decoding feeds first."""


@dataclass(frozen=True)
class Primed:
    """Prime texts, read up to their last unit.

    Attributes:
        state: after all units but the last, tensors `(n, …)`.
        last: the last units `(n,)`, not yet fed.
    """

    state: StackState
    last: Tensor

    def __len__(self) -> int:
        return len(self.last)

    def select(self, rows: Tensor) -> Primed:
        """Takes the texts `rows` `(m,)`."""
        return Primed(nest.select(self.state, rows), self.last[rows])


class LanguageModel(nn.Module):
    """p(text) = Π_t p(x_t | x_<t). Decoding uses `start` and `step`.

    Args:
        vocabulary: how many units there are.
        embedding: `(vocabulary, features)`; `None`: units are one-hot vectors.
        stack: the recurrent network over them.
        head: scores of the next unit.
        dropout: of embeddings and outputs; one-hot vectors stay whole.
    """

    def __init__(
        self, vocabulary: int, embedding: nn.Embedding | None, stack: Stack, head: VocabularyHead, dropout: Dropout
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding, self.stack, self.head, self.dropout = embedding, stack, head, dropout

    def forward(self, tokens: Tensor, state: StackState | None = None) -> tuple[Tensor, StackState]:
        """Reads a window.

        Args:
            tokens: `(batch, time)`.
            state: before the window; zeros if `None`.

        Returns:
            One vector a token, `(batch, time, hidden)`, for the head, and the state after the window.
        """
        outputs, after = self.stack(self.embed(tokens), state)
        return self.dropout(outputs), after

    def embed(self, tokens: Tensor) -> Tensor:
        """`(…)` → what the stack reads, `(…, features)`."""
        if self.embedding is None:
            return functional.one_hot(tokens, self.vocabulary).to(self.head.weight.dtype)
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def loss(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Summed cross-entropy (nats) of `targets` `(batch, time)`, each given all tokens up to its place, and the
        state after the window."""
        outputs, after = self(tokens, state)
        return self.head.loss(outputs.flatten(0, 1), targets.flatten()), after

    def losses(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Cross-entropy (nats) of each target `(batch, time)` and the state after the window; 0 where a target
        is negative."""
        outputs, after = self(tokens, state)
        logs = self.head.log_probabilities(outputs.flatten(0, 1)).view(*targets.shape, -1)
        picked = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return torch.where(targets < 0, 0.0, -picked), after

    def prime(self, tokens: Tensor) -> Primed:
        """Reads prime texts of equal length `(n, units)`, one unit or more."""
        state = self.stack.begin(len(tokens))
        if tokens.shape[1] > 1:
            _, state = self(tokens[:, :-1], state)
        return Primed(state, tokens[:, -1])

    def start(self, memory: Primed) -> StackState:
        """The state before the last unit of every prime text."""
        return memory.state

    def step(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState]:
        """Logits `(rows, vocabulary)` of the units that follow `tokens` `(rows,)`, where `PRIME` stands for the prime
        text's last unit; rows as in `Decoder.step`."""
        output, state, _ = self.outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    def outputs(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState, None]:
        """What the head, or a `scorer`, turns into logits, `(rows, hidden)`, and the state after it."""
        rows = rows or Rows.even(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        tokens = torch.where(tokens == PRIME, memory.last[rows.owners], tokens)
        output, state = self.stack.step(self.embed(tokens), state)
        return output, state, None

    def scorer(self, precision: Precision) -> Scorer:
        """The head, made ready for the steps of a search."""
        return self.head.scorer(precision)


def build_language_model(config: Model, vocabulary: int) -> LanguageModel:
    """Makes the model that `config` describes for a vocabulary of this size."""
    embedding = None if config.embedding is None else nn.Embedding(vocabulary, config.embedding)
    if embedding is not None:
        nn.init.normal_(embedding.weight, std=cast(int, config.embedding) ** -0.5)
    stack = build_stack(config, vocabulary if embedding is None else embedding.embedding_dim, config.engine)
    tied = embedding.weight if config.tie and embedding is not None else None
    head = VocabularyHead(config.hidden, vocabulary, tied)
    return LanguageModel(vocabulary, embedding, stack, head, build_dropout(config))
