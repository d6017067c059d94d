"""Encoder, decoder and head as one model that can be trained and searched, and the penalties of its training."""

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
from unrolled.recurrence.scan import split_steps


@dataclass(frozen=True)
class Penalties:
    """Weights of terms that training adds to the cross-entropy of a decoder that sees pictures, in nats per example.

    Attributes:
        doubly_stochastic: of Σ_p (1 − Σ_t α_tp)², which asks attention to read every position in the course of a
            sentence (Xu et al. 2015, eq. 14).
        reconstruction: of the distance between a visual memory and the picture, summed over the tokens (Chen & Zitnick
            2015).
        reinforcement, entropy: λ_r and λ_e of hard attention, see `unrolled.models.attention`.
    """

    doubly_stochastic: float = 0.0
    reconstruction: float = 0.0
    reinforcement: float = 0.0
    entropy: float = 0.0

    def window_loss(
        self, decoder: Decoder, memory: EncoderOutput, window: DecoderOutput, mask: Tensor, fractions: Tensor
    ) -> Tensor:
        """Computes the penalties of a window, summed over the examples.

        Args:
            mask: `(batch, time)`, False on padding.
            fractions: of each example's tokens, those in the window, `(batch,)`: the attention that every position
                should get in it; 1 for a window that is a whole sentence.
        """
        total = window.outputs.new_zeros(())
        if self.doubly_stochastic and window.weights is not None:
            attention = (window.weights * mask[..., None]).sum(1)
            total = total + self.doubly_stochastic * (fractions[:, None] - attention).square().sum()
        if self.reconstruction and decoder.visual is not None:
            assert window.visual_hidden is not None
            errors = decoder.visual.errors(window.visual_hidden, memory.summary)
            total = total + self.reconstruction * errors[mask].sum()
        return total


NO_PENALTIES = Penalties()


class EncoderDecoder(nn.Module):
    """A model p(target | input) = Π_t p(y_t | y_<t, memory). Decoding uses `start` and `step`.

    Args:
        encoder: computes an `EncoderOutput` of the inputs, called memory here.
        penalties: terms that `loss` adds to the cross-entropy in training.
    """

    def __init__(
        self,
        encoder: TextEncoder | ImageEncoder,
        decoder: Decoder,
        head: VocabularyHead,
        penalties: Penalties = NO_PENALTIES,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head, self.penalties = encoder, decoder, head, penalties

    def encode(self, *inputs: Any) -> EncoderOutput:
        """The encoder's inputs → a memory prepared for the decoder."""
        return self.decoder.prepare(self.encoder(*inputs))

    def read_prefix(self, memory: EncoderOutput, tokens: Tensor, mask: Tensor) -> EncoderOutput:
        """Reads a text that precedes the output, such as the question to answer: `tokens` `(batch, time)`, padded at
        the end, with a mask that is False on padding; a row may be all padding. Returns the memory, which is prepared,
        with the state after the text, from which decoding starts."""
        state = self.start(memory)
        for step in range(tokens.shape[1]):
            _, after, _ = self.decoder.step(memory, tokens[:, step], state)
            state = nest.where(mask[:, step], after, state)
        return replace(memory, prefix_state=state)

    def sequence_log_probs(
        self, memory: EncoderOutput, decoder_inputs: Tensor, targets: Tensor, mask: Tensor
    ) -> Tensor:
        """Returns the log-probability of each target sequence, `(batch,)`, in nats; arguments as of `loss`."""
        window = self.decoder.window(memory, decoder_inputs, self.start(memory))
        logs = self.head.log_probabilities(window.outputs[mask]).gather(1, targets[mask][:, None])[:, 0]
        rows = mask.nonzero()[:, 0]
        return logs.new_zeros(len(mask)).index_add(0, rows, logs)

    def choice_loss(
        self,
        memory: EncoderOutput,
        decoder_inputs: Tensor,
        targets: Tensor,
        mask: Tensor,
        examples: Tensor,
        correct: Tensor,
    ) -> Tensor:
        """Returns the summed cross-entropy (nats) of the correct text among several, by their likelihoods.

        Args:
            memory: one row per text.
            decoder_inputs, targets, mask: as of `loss`.
            examples: example that each text belongs to, `(texts,)`, ascending.
            correct: which texts are correct, `(texts,)`, one per example.
        """
        logs = self.sequence_log_probs(memory, decoder_inputs, targets, mask)
        _, index, counts = torch.unique_consecutive(examples, return_inverse=True, return_counts=True)
        padded = Rows.from_counts(index, counts).pad(logs, fill=-math.inf)
        return (padded.logsumexp(1) - logs[correct]).sum()

    def loss(
        self,
        memory: EncoderOutput,
        decoder_inputs: Tensor,
        targets: Tensor,
        mask: Tensor,
        smoothing: float = 0.0,
        source_index: Tensor | None = None,
    ) -> Tensor:
        """Returns the summed cross-entropy (nats) of the targets, in training with the penalties.

        Args:
            memory: prepared.
            decoder_inputs: `(batch, time)`, the token before each target.
            targets: `(batch, time)`.
            mask: `(batch, time)`, False on padding.
            smoothing: see `VocabularyHead.loss`.
            source_index: see `window_losses`.
        """
        (loss,) = self.window_losses(memory, decoder_inputs, targets, mask, smoothing, None, source_index=source_index)
        return loss

    def window_losses(
        self,
        memory: EncoderOutput,
        decoder_inputs: Tensor,
        targets: Tensor,
        mask: Tensor,
        smoothing: float,
        truncate: int | None,
        weights: Tensor | None = None,
        source_index: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yields `loss` in windows of `truncate` target steps, for truncated back-propagation through time.

        The backward pass of a window must have run before the next one is taken: then its graph is freed.

        Args:
            weights: constant weights of the examples in the cross-entropy, `(batch,)`; `None`: 1 each.
            source_index: row of the memory per example, `(batch,)`, if the decoder `supports_shared_sources`; `None`:
                row i for example i.
        """
        state = self.start(memory)
        state = state if source_index is None else nest.select(state, source_index)
        for steps in split_steps(decoder_inputs.shape[1], truncate):
            valid = mask[:, steps]
            lengths = None if source_index is None else valid.sum(1).tolist()
            window = self.decoder.window(memory, decoder_inputs[:, steps], state, source_index, lengths)
            row_weights = None if weights is None else weights[:, None].expand_as(valid)[valid]
            # Without a copy where nothing is padded, as in many batches of texts of similar length.
            outputs = window.outputs.flatten(0, 1) if bool(valid.all()) else window.outputs[valid]
            loss = self.head.loss(outputs, targets[:, steps][valid], smoothing, row_weights)
            if self.training and self.penalties != NO_PENALTIES:
                fractions = valid.sum(1) / mask.sum(1)
                loss = loss + self.penalties.window_loss(self.decoder, memory, window, valid, fractions)
            if window.samples is not None:
                with torch.no_grad():
                    logs = self.head.log_probabilities(window.outputs).gather(2, targets[:, steps, None])[..., 0]
                    likelihoods = logs.masked_fill(~valid, 0)
                reward, entropy = self.penalties.reinforcement, self.penalties.entropy
                loss = loss + window.samples.loss(likelihoods, valid, reward, entropy)
            yield loss
            if truncate is not None:
                state = nest.detach(window.state)

    def start(self, memory: EncoderOutput) -> DecoderState:
        """Returns the state before the first token of every example, after its prefix if there is one."""
        return self.decoder.start(memory) if memory.prefix_state is None else memory.prefix_state

    def step(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Returns the logits `(rows, vocabulary)` of the tokens that follow `tokens` `(rows,)`, and the state; rows as
        of `Decoder.step`."""
        output, state, _ = self.step_outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    @property
    def attends(self) -> bool:
        """Whether the decoder attends to the encoder output, so that `step_with_attention` can be called."""
        return self.decoder.attention is not None

    def step_with_attention(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """As `step`, and the weights of attention `(rows, positions)`."""
        output, state, weights = self.step_outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.head.logits(output), state, weights

    def step_outputs(
        self, tokens: Tensor, state: DecoderState, memory: EncoderOutput, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """As `step`, but returns the vectors `(rows, features)` from which the head or a `scorer` computes logits, the
        state, and if the decoder `attends`, the weights of its attention `(rows, positions)`."""
        return self.decoder.step(memory, tokens, state, rows)

    def scorer(self, precision: Precision) -> Scorer:
        """Returns the head, prepared for the steps of a search."""
        return self.head.scorer(precision)
