"""Encoder, decoder and head as one model that can be trained and searched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.config.translation import Model
from unrolled.models.attention import Attention
from unrolled.models.decoder import Decoder, DecoderState
from unrolled.models.encoder import TextEncoder
from unrolled.models.heads import VocabularyHead
from unrolled.models.image_encoder import ImageEncoder
from unrolled.models.memory import Memory
from unrolled.models.penalties import Penalties
from unrolled.models.recurrent import build_dropout, build_stack
from unrolled.models.rows import Rows
from unrolled.models.scorer import Precision, Scorer
from unrolled.recurrence import state as nest

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

    def encode(self, *inputs: Any) -> Memory:
        """The encoder's inputs → a memory ready for the decoder."""
        return self.decoder.prepare(self.encoder(*inputs))

    def read(self, memory: Memory, tokens: Tensor, mask: Tensor) -> Memory:
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
        return replace(memory, read=state)

    def log_likelihoods(self, memory: Memory, before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
        """Of the tokens `after` given those `before`, all as in `loss`: their sums a row, `(batch,)`, in nats."""
        window = self.decoder.window(memory, before, self.start(memory))
        logs = self.head.log_probabilities(window.outputs[mask]).gather(1, after[mask][:, None])[:, 0]
        owners = mask.nonzero()[:, 0]
        return logs.new_zeros(len(mask)).index_add(0, owners, logs)

    def choice_loss(
        self, memory: Memory, before: Tensor, after: Tensor, mask: Tensor, examples: Tensor, right: Tensor
    ) -> Tensor:
        """Summed cross-entropy (nats) of the right one of several texts, by their likelihoods.

        Args:
            memory: a row a text.
            before, after, mask: as in `loss`.
            examples: to which of the examples each text belongs, `(texts,)`, rising.
            right: which are right, `(texts,)`, one an example.
        """
        logs = self.log_likelihoods(memory, before, after, mask)
        _, owners, counts = torch.unique_consecutive(examples, return_inverse=True, return_counts=True)
        table = Rows.of(owners, counts).spread(logs, fill=-math.inf)
        return (table.logsumexp(1) - logs[right]).sum()

    def loss(
        self,
        memory: Memory,
        before: Tensor,
        after: Tensor,
        mask: Tensor,
        smoothing: float = 0.0,
        owners: Tensor | None = None,
    ) -> Tensor:
        """Summed cross-entropy (nats) of the tokens `after` `(batch, time)` where `mask` is True, each given the
        tokens `before` `(batch, time)` up to its place; while training, with the penalties. `owners` as in
        `window_losses`."""
        (loss,) = self.window_losses(memory, before, after, mask, smoothing, max(1, before.shape[1]), owners=owners)
        return loss

    def window_losses(
        self,
        memory: Memory,
        before: Tensor,
        after: Tensor,
        mask: Tensor,
        smoothing: float,
        truncate: int,
        weights: Tensor | None = None,
        owners: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """`loss` in windows of `truncate` target steps, for truncated back-propagation through time.

        Whoever takes a window's loss must have run its backward pass before taking the next one: then its graph is
        gone. With the leaf of a memory in its place, gradients of the memory add up there.

        Args:
            weights: of the examples in the sum of cross-entropies `(batch,)`, constants; `None`: 1 each.
            owners: the memory of each example, `(batch,)`, where the decoder `shares` them; `None`: its own.
        """
        state = self.start(memory)
        state = state if owners is None else nest.select(state, owners)
        for start in range(0, before.shape[1], truncate):
            places = slice(start, start + truncate)
            asked = mask[:, places]
            lengths = None if owners is None else asked.sum(1).tolist()
            window = self.decoder.window(memory, before[:, places], state, owners, lengths)
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

    def start(self, memory: Memory) -> DecoderState:
        """The state before the first token of every example, behind what was `read`."""
        return self.decoder.start(memory) if memory.read is None else memory.read

    def step(
        self, tokens: Tensor, state: DecoderState, memory: Memory, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Logits `(rows, vocabulary)` of the tokens that follow `tokens` `(rows,)`; rows as in `Decoder.step`."""
        output, state, _ = self.outputs(tokens, state, memory, rows)
        return self.head.logits(output), state

    @property
    def attends(self) -> bool:
        """Whether `look` is to be had: whether the decoder looks at the memory."""
        return self.decoder.attention is not None

    def look(
        self, tokens: Tensor, state: DecoderState, memory: Memory, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """As `step`, and attention's weights `(rows, positions)`."""
        output, state, weights = self.outputs(tokens, state, memory, rows)
        assert weights is not None
        return self.head.logits(output), state, weights

    def outputs(
        self, tokens: Tensor, state: DecoderState, memory: Memory, rows: Rows | None = None
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


def build_translator(config: Model, input_vocabulary: int, target_vocabulary: int) -> EncoderDecoder:
    """Makes the model that `config` describes for vocabularies of these sizes."""
    encoder, decoder = config.encoder, config.decoder
    reading = make_embedding(input_vocabulary, encoder.embedding)
    writing = reading if config.tie_embeddings else make_embedding(target_vocabulary, decoder.embedding)
    encoder_stack = build_stack(encoder, encoder.embedding, config.engine, bidirectional=encoder.bidirectional)
    # A tied output matrix is as wide as the embedding.
    output = decoder.embedding if decoder.tie else decoder.hidden
    feeding = decoder.attention.input_feeding
    decoder_stack = build_stack(decoder, decoder.embedding + (output if feeding else 0), config.engine)
    attends = decoder.conditioning == "attention"
    memory = encoder_stack.output_size
    return EncoderDecoder(
        TextEncoder(reading, encoder_stack, build_dropout(encoder)),
        Decoder(
            writing,
            decoder_stack,
            memory,
            output,
            Attention(decoder.attention.score, decoder.hidden, memory) if attends else None,
            input_feeding=feeding,
            dropout=build_dropout(decoder),
        ),
        VocabularyHead(output, target_vocabulary, writing.weight if decoder.tie else None),
    )


def make_embedding(vocabulary: int, size: int) -> nn.Embedding:
    """Returns an embedding whose vectors have a norm of about 1 at first."""
    embedding = nn.Embedding(vocabulary, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding
