"""Encoder, decoder and head as one model.

What training may add to the cross-entropy of a decoder that sees pictures.

Encoder, decoder and head as one model that can be trained and searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.models.decoder import Decoder, DecoderOutput, DecoderState
from unrolled.models.encoders import EncoderOutput, ImageEncoder, Rows, TextEncoder
from unrolled.models.heads import Precision, Scorer, VocabularyHead
from unrolled.recurrence import state as nest


@dataclass(frozen=True)
class Penalties:
    """Weights of penalties, in nats an example.

    Attributes:
        doubly_stochastic: of Σ_p (1 − Σ_t α_tp)², which asks attention to look everywhere in the course of a sentence
            (Xu et al. 2015, eq. 14).
        reconstruction: of how far a visual memory is from the picture, summed over the tokens (Chen & Zitnick 2015).
        reinforcement, entropy: λ_r and λ_e of hard attention, see `hard_attention`.
    """

    doubly_stochastic: float = 0.0
    reconstruction: float = 0.0
    reinforcement: float = 0.0
    entropy: float = 0.0

    def of(
        self, decoder: Decoder, memory: EncoderOutput, window: DecoderOutput, mask: Tensor, shares: Tensor
    ) -> Tensor:
        """The penalty of a window, summed over the examples.

        Args:
            mask: False where the window's tokens are padding, `(batch, time)`.
            shares: of each example's tokens, those in the window, `(batch,)`. In a window attention should give every
                position this much; over a sentence that is one window, 1.
        """
        total = window.outputs.new_zeros(())
        if self.doubly_stochastic and window.weights is not None:
            looked = (window.weights * mask[..., None]).sum(1)
            total = total + self.doubly_stochastic * (shares[:, None] - looked).square().sum()
        if self.reconstruction and decoder.visual is not None:
            assert window.remembered is not None
            errors = decoder.visual.errors(window.remembered, memory.summary)
            total = total + self.reconstruction * errors[mask].sum()
        return total


NONE = Penalties()


class EncoderDecoder(nn.Module):
    """A model p(target | input) = Π_t p(y_t | y_<t, memory). Decoding uses `start` and `step`.

    Args:
        encoder: makes a `Memory` of the inputs.
        penalties: what `loss` adds to the cross-entropy while the model is trained.
    """

    def __init__(
        self, encoder: TextEncoder | ImageEncoder, decoder: Decoder, head: VocabularyHead, penalties: Penalties = NONE
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head, self.penalties = encoder, decoder, head, penalties

    def encode(self, *inputs: Any) -> EncoderOutput:
        """The encoder's inputs → a memory ready for the decoder."""
        return self.decoder.prepare(self.encoder(*inputs))

    def read_prefix(self, memory: EncoderOutput, tokens: Tensor, mask: Tensor) -> EncoderOutput:
        """Reads a text before it writes, such as the question that it is to answer.

        Args:
            memory: ready for the decoder.
            tokens: `(batch, time)`, padded at the end.
            mask: `(batch, time)`, False on padding; a row may be all padding.

        Returns:
            The memory, from which decoding begins after the text.
        """
        state = self.start(memory)
        for step in range(tokens.shape[1]):
            _, after, _ = self.decoder.step(memory, tokens[:, step], state)
            state = nest.where(mask[:, step], after, state)
        return replace(memory, prefix_state=state)

    def sequence_log_probs(self, memory: EncoderOutput, before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
        """Of the tokens `after` given those `before`, all as in `loss`: their sums a row, `(batch,)`, in nats."""
        window = self.decoder.window(memory, before, self.start(memory))
        logs = self.head.log_probabilities(window.outputs[mask]).gather(1, after[mask][:, None])[:, 0]
        source_index = mask.nonzero()[:, 0]
        return logs.new_zeros(len(mask)).index_add(0, source_index, logs)

    def choice_loss(
        self, memory: EncoderOutput, before: Tensor, after: Tensor, mask: Tensor, examples: Tensor, right: Tensor
    ) -> Tensor:
        """Summed cross-entropy (nats) of the right one of several texts, by their likelihoods.

        Args:
            memory: a row a text.
            before, after, mask: as in `loss`.
            examples: to which of the examples each text belongs, `(texts,)`, rising.
            right: which are right, `(texts,)`, one an example.
        """
        logs = self.sequence_log_probs(memory, before, after, mask)
        _, source_index, counts = torch.unique_consecutive(examples, return_inverse=True, return_counts=True)
        table = Rows.from_counts(source_index, counts).pad(logs, fill=-math.inf)
        return (table.logsumexp(1) - logs[right]).sum()

    def loss(
        self,
        memory: EncoderOutput,
        before: Tensor,
        after: Tensor,
        mask: Tensor,
        smoothing: float = 0.0,
        source_index: Tensor | None = None,
    ) -> Tensor:
        """Summed cross-entropy (nats) of the tokens `after` `(batch, time)` where `mask` is True, each given the
        tokens `before` `(batch, time)` up to its place; while training, with the penalties. `source_index` as in
        `window_losses`."""
        (loss,) = self.window_losses(
            memory, before, after, mask, smoothing, max(1, before.shape[1]), source_index=source_index
        )
        return loss

    def window_losses(
        self,
        memory: EncoderOutput,
        before: Tensor,
        after: Tensor,
        mask: Tensor,
        smoothing: float,
        truncate: int,
        weights: Tensor | None = None,
        source_index: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """`loss` in windows of `truncate` target steps, for truncated back-propagation through time.

        Whoever takes a window's loss must have run its backward pass before taking the next one: then its graph is
        gone. With the leaf of a memory in its place, gradients of the memory add up there.

        Args:
            weights: of the examples in the sum of cross-entropies `(batch,)`, constants; `None`: 1 each.
            source_index: the memory of each example, `(batch,)`, where the decoder `shares` them; `None`: its own.
        """
        state = self.start(memory)
        state = state if source_index is None else nest.select(state, source_index)
        for start in range(0, before.shape[1], truncate):
            places = slice(start, start + truncate)
            asked = mask[:, places]
            lengths = None if source_index is None else asked.sum(1).tolist()
            window = self.decoder.window(memory, before[:, places], state, source_index, lengths)
            counts = None if weights is None else weights[:, None].expand_as(asked)[asked]
            loss = self.head.loss(_where(asked, window.outputs), after[:, places][asked], smoothing, counts)
            if self.training and self.penalties != NONE:
                shares = asked.sum(1) / mask.sum(1)
                loss = loss + self.penalties.of(self.decoder, memory, window, asked, shares)
            if window.choices is not None:
                likelihoods = self._likelihoods(window.outputs, after[:, places], asked)
                reward, entropy = self.penalties.reinforcement, self.penalties.entropy
                loss = loss + window.choices.loss(likelihoods, asked, reward, entropy)
            yield loss
            state = nest.detach(window.state)

    @torch.no_grad()
    def _likelihoods(self, outputs: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """log p of the tokens `(batch, time)`, 0 where the mask is False."""
        logs = self.head.log_probabilities(outputs).gather(2, tokens[..., None])[..., 0]
        return logs.masked_fill(~mask, 0)

    def start(self, memory: EncoderOutput) -> DecoderState:
        """The state before the first token of every example, behind what was `read`."""
        return self.decoder.start(memory) if memory.prefix_state is None else memory.prefix_state

    def step(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Logits `(rows, vocabulary)` of the tokens that follow `tokens` `(rows,)`; rows as in `Decoder.step`."""
        output, state, _ = self.step_outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    @property
    def attends(self) -> bool:
        """Whether `step_with_attention` is to be had: whether the decoder looks at the memory."""
        return self.decoder.attention is not None

    def step_with_attention(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """As `step`, and attention's weights `(rows, positions)`."""
        output, state, weights = self.step_outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.head.logits(output), state, weights

    def step_outputs(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """What the head, or a `scorer`, turns into logits, `(rows, features)`; the state after it; and if the decoder
        `attends`, the weights of its attention `(rows, positions)`."""
        return self.decoder.step(memory, tokens, state, rows)

    def scorer(self, precision: Precision) -> Scorer:
        """The head, made ready for the steps of a search."""
        return self.head.scorer(precision)


def _where(mask: Tensor, values: Tensor) -> Tensor:
    """`values[mask]`, without a copy where the mask `(batch, time)` is True everywhere, as in many batches of texts of
    like length."""
    return values.flatten(0, 1) if bool(mask.all()) else values[mask]
