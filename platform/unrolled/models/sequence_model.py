"""Sequence models: recurrent language models (Mikolov et al. 2010), and networks from vectors to vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.encoders import Rows
from unrolled.models.heads import Precision, Scorer, VocabularyHead
from unrolled.recurrence import Dropout, Stack, StackState
from unrolled.recurrence import state as nest
from unrolled.recurrence.scan import split_steps

PRIME = -1
"""Token that decoding feeds first: stands for the last token of each prime text."""


@dataclass(frozen=True)
class Primed:
    """Prime texts, read up to their last token: `state` after all tokens but the last, tensors `(n, …)`; `last`, the
    last tokens `(n,)`, not yet fed."""

    state: StackState
    last: Tensor

    def __len__(self) -> int:
        return len(self.last)

    def select(self, rows: Tensor) -> Primed:
        """Selects the texts `rows` `(m,)`."""
        return Primed(nest.select(self.state, rows), self.last[rows])


class LanguageModel(nn.Module):
    """p(text) = Π_t p(x_t | x_<t). Decoding uses `start` and `step`.

    Args:
        vocabulary: number of tokens.
        embedding: `(vocabulary, features)`; `None`: one-hot vectors.
        stack: recurrent network over them.
        head: over the next token.
        dropout: of embeddings and outputs, not of one-hot vectors.
    """

    def __init__(
        self, vocabulary: int, embedding: nn.Embedding | None, stack: Stack, head: VocabularyHead, dropout: Dropout
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding, self.stack, self.head, self.dropout = embedding, stack, head, dropout

    def forward(self, tokens: Tensor, state: StackState | None = None) -> tuple[Tensor, StackState]:
        """Reads a window of `tokens` `(batch, time)` from the state before it (`None`: zeros); returns one vector per
        token, `(batch, time, hidden)`, for the head, and the state after the window."""
        outputs, after = self.stack(self.embed(tokens), state)
        return self.dropout(outputs), after

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens `(…)` → inputs of the stack `(…, features)`."""
        if self.embedding is None:
            return functional.one_hot(tokens, self.vocabulary).to(self.head.weight.dtype)
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def loss(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Returns the summed cross-entropy (nats) of `targets` `(batch, time)`, each given the tokens up to its step,
        and the state after the window."""
        outputs, after = self(tokens, state)
        return self.head.loss(outputs.flatten(0, 1), targets.flatten()), after

    def losses(self, tokens: Tensor, targets: Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Returns the cross-entropy (nats) of each target `(batch, time)`, 0 where a target is negative, and the state
        after the window."""
        outputs, after = self(tokens, state)
        logs = self.head.log_probabilities(outputs.flatten(0, 1)).view(*targets.shape, -1)
        picked = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return torch.where(targets < 0, 0.0, -picked), after

    def prime(self, tokens: Tensor) -> Primed:
        """Reads prime texts of equal length `(n, tokens)`, one token or more."""
        state = self.stack.begin(len(tokens))
        if tokens.shape[1] > 1:
            _, state = self(tokens[:, :-1], state)
        return Primed(state, tokens[:, -1])

    def start(self, memory: Primed) -> StackState:
        """Returns the state before the last token of every prime text."""
        return memory.state

    def step(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState]:
        """Returns the logits `(rows, vocabulary)` of the tokens that follow `tokens` `(rows,)`, where `PRIME` stands
        for the prime text's last token, and the state; rows as of `Decoder.step`."""
        output, state, _ = self.step_outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    def step_outputs(
        self, tokens: Tensor, state: StackState, memory: Primed, rows: Rows | None = None
    ) -> tuple[Tensor, StackState, None]:
        """As `step`, but returns the vectors `(rows, hidden)` from which the head or a `scorer` computes logits."""
        rows = rows or Rows.uniform(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        tokens = torch.where(tokens == PRIME, memory.last[rows.source_index], tokens)
        output, state = self.stack.step(self.embed(tokens), state)
        return output, state, None

    def scorer(self, precision: Precision) -> Scorer:
        """Returns the head, prepared for the steps of a search."""
        return self.head.scorer(precision)


class SequenceModel(nn.Module):
    """A stack over vectors with a linear head on its last steps.

    Args:
        stack: one-directional.
        outputs: features of an output.
        dropout: of the stack's outputs, before the head; none if `None`.
    """

    def __init__(self, stack: Stack, outputs: int, dropout: Dropout | None = None) -> None:
        super().__init__()
        self.stack, self.dropout = stack, dropout or Dropout(0.0)
        self.head = nn.Linear(stack.output_size, outputs)

    def forward(self, inputs: Tensor, last: int, truncate: int | None = None) -> Tensor:
        """Reads sequences to their end.

        Args:
            inputs: `(batch, time, features)`.
            last: number of last steps with an output.
            truncate: steps per window of truncated back-propagation through time (Williams & Peng 1990), counted from
                the first step: the state passes from window to window and is detached between them. `None`: gradients
                flow through the whole sequence.

        Returns:
            The outputs of the last steps, `(batch, last, outputs)`.
        """
        steps, state = inputs.shape[1], None
        read_out: list[Tensor] = []
        for window in split_steps(steps, truncate or steps):
            wanted = max(0, window.stop - max(window.start, steps - last))
            # A window without outputs has no gradient, because its state is detached at its end.
            with torch.set_grad_enabled(torch.is_grad_enabled() and wanted > 0):
                hidden, state = self.stack(inputs[:, window], state)
            if wanted:
                read_out.append(hidden[:, -wanted:])
            state = nest.detach(state)
        outputs: Tensor = self.head(self.dropout(torch.cat(read_out, dim=1)))
        return outputs
