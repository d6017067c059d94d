"""The one decoder: a recurrent network that writes tokens and sees a memory through its conditioning.

- `state`: the memory's summary becomes the first state, nothing more (Cho et al. 2014, Sutskever et al. 2014);
- `attention`: besides, every state h_t looks at the memory and is joined with what it saw, tanh(W [h_t; context_t])
  (Luong et al. 2015, eq. 5); with input feeding that vector also enters the next step (their section 3.3).

Without input feeding no step waits for the attention of the one before: all steps run in one scan and attention
is one batched product. With it, the steps run one by one, their derivative by hand where `feeding` can.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from unrolled.models import feeding
from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.models.rows import Rows
from unrolled.recurrence import Dropout, Stack, StackState

DecoderState = tuple[StackState, Tensor | None]
"""The recurrent state and, with input feeding, the last attentional vector `(batch, output)`."""


class Decoder(nn.Module):
    """Args:
    embedding: of the tokens it reads, `(vocabulary, features)`.
    stack: its input is the embedding, joined by the last output with input feeding.
    memory_size: features of the memory's states and summary.
    output_size: features of the vectors it returns.
    attention: looks at the memory; `None` for conditioning `state`.
    input_feeding: see above; wants attention.
    dropout: of embeddings and outputs; none if `None`.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        stack: Stack,
        memory_size: int,
        output_size: int,
        attention: Attention | None,
        *,
        input_feeding: bool = False,
        dropout: Dropout | None = None,
    ) -> None:
        super().__init__()
        if input_feeding and attention is None:
            raise ValueError("input feeding feeds what attention saw: it wants an attention")
        self.embedding, self.stack, self.attention = embedding, stack, attention
        self.input_feeding, self.output_size = input_feeding, output_size
        self.dropout = dropout or Dropout(0.0)
        hidden = stack.output_size
        # One learned first state a layer and tensor, so that sizes and cells of both sides are free.
        self.bridges = nn.ModuleList(
            nn.ModuleList(nn.Linear(memory_size, hidden) for _ in range(cell.tensors)) for (cell,) in stack.cells()
        )
        self.readout = nn.Linear(hidden + (memory_size if attention else 0), output_size)

    def prepare(self, memory: Memory) -> Memory:
        """Adds what attention needs of the memory alone, so that no step computes it again."""
        if self.attention is None:
            return memory
        return Memory(memory.states, memory.mask, memory.summary, self.attention.keys(memory.states))

    def start(self, memory: Memory) -> DecoderState:
        """The state before the first token: tanh of a learned map of the summary (Bahdanau et al. 2015, A.2.2)."""
        state = tuple(
            (tuple(torch.tanh(bridge(memory.summary)) for bridge in tensors),)
            for tensors in cast(list[nn.ModuleList], self.bridges)
        )
        fed = memory.summary.new_zeros(len(memory), self.output_size) if self.input_feeding else None
        return state, fed

    def forward(self, memory: Memory, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Reads a whole window.

        Args:
            memory: of `batch` examples, prepared.
            tokens: `(batch, time)`, each the one before the token to predict.
            state: before the window.

        Returns:
            One output a token, `(batch, time, output_size)`, and the state after the window.
        """
        embedded = self._embed(tokens)
        if not self.input_feeding:
            hidden, after = self.stack(embedded, state[0])
            return self.dropout(self._see(hidden, memory)[0]), (after, None)
        kept = self.dropout(embedded.new_ones(*embedded.shape[:2], self.output_size))
        if feeding.applies(self.stack):
            carried, fed = state
            assert self.attention is not None and fed is not None
            outputs, after = feeding.feed(
                self.stack, self.attention, self.readout, embedded, memory, carried, fed, kept
            )
            return outputs, (after, outputs[:, -1])
        each = []
        rows = Rows.even(len(memory), 1, tokens.device)
        for step, share in zip(embedded.unbind(1), kept.unbind(1), strict=True):
            output, state, _ = self._advance(step, state, memory, rows, share)
            each.append(output)
        return torch.stack(each, dim=1), state

    def step(
        self, memory: Memory, tokens: Tensor, state: DecoderState, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Reads one token a row.

        Args:
            memory: of `n` examples, prepared.
            tokens: `(rows,)`.
            rows: hypotheses of one example share its memory; `None`: every example has as many rows, adjacent.

        Returns:
            Outputs `(rows, output_size)`, the state after them, and with attention its weights `(rows, positions)`.
        """
        rows = rows or Rows.even(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        return self._advance(self._embed(tokens), state, memory, rows)

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def _advance(
        self, embedded: Tensor, state: DecoderState, memory: Memory, rows: Rows, kept: Tensor | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """One step; `kept`: what dropout multiplies its output by, drawn here if `None`."""
        carried, fed = state
        inputs = embedded if fed is None else torch.cat([embedded, fed], dim=-1)
        hidden, after = self.stack.step(inputs, carried)
        seen, weights = self._see(rows.spread(hidden), memory)
        weights = None if weights is None else rows.gather(weights)
        output = rows.gather(seen)
        output = self.dropout(output) if kept is None else output * kept
        return output, (after, output if self.input_feeding else None), weights

    def _see(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Joins states h `(batch, steps, hidden)` with what they see of the memory; returns attention's weights too."""
        weights = None
        if self.attention is not None:
            context, weights = self.attention(hidden, memory)
            hidden = torch.cat([hidden, context], dim=-1)
        return torch.tanh(self.readout(hidden)), weights
