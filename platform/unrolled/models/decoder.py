"""The decoder: a recurrent network that writes tokens and sees an encoder output.

One look at the whole memory: its summary in a learned vector, and where the decoder reads it.

A second recurrence that remembers what has been said of a picture (Chen & Zitnick 2015, "Mind's eye").

The one decoder: a recurrent network that writes tokens and sees a memory through its conditioning.

- by the first state: tanh of a learned map of the memory's summary (Cho et al. 2014, Sutskever et al. 2014);
- by attention: every state h_t looks at the memory and is joined with what it saw, tanh(W [h_t; context_t])
  (Luong et al. 2015, eq. 5); with input feeding that vector also enters the next step (their section 3.3);
- by attention whose context is fed: h_{t−1} looks, and what it saw enters step t (Xu et al. 2015, "Show, attend and
  tell", eq. 1–3 and 13; see `ContextFeeding`), of a mean or of a single place (`HardAttention`);
- by a `Glance`, the summary as one vector at the start, at every step or after the recurrence, from a first state that
  knows nothing; with a `VisualMemory` besides (Chen & Zitnick 2015).

Where no step waits for what the one before has seen, all steps run in one scan and attention is one batched product.
Else the steps run one by one, with their derivative by hand where that is known (`by_hand.applies`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from unrolled.models import attention_feeding, decoder_loop
from unrolled.models.attention import Attention, AttentionFunction, AttentionSamples, HardAttention, SampledAttention
from unrolled.models.attention_feeding import ContextFeeding
from unrolled.models.encoders import EncoderOutput, Rows
from unrolled.recurrence import Dropout, Stack, StackState

EntryPoint = Literal["first", "once", "every", "output"]


class ImageVector(nn.Module):
    """v = W summary + b, which the decoder reads in one of four places:

    - `first`: as its input of a step before the first token (Vinyals et al. 2015, "Show and tell", eq. 10);
    - `once`: beside the first token (Karpathy & Fei-Fei 2015, eq. 14);
    - `every`: beside every token, in a layer of choice (Karpathy's h = f(W_xh x + W_hh h + W_ih v); the factored model
      of Donahue et al. 2015, "LRCN", in an upper one);
    - `output`: after the recurrence, which never sees it (Mao et al. 2015, "m-RNN").

    Args:
        memory_size: features of the summary.
        size: of v. For `first` that of a token's embedding, for `output` that of the decoder's outputs.
        dropout: of v.
    """

    def __init__(self, memory_size: int, size: int, enters: EntryPoint, dropout: Dropout) -> None:
        super().__init__()
        self.map, self.enters, self.dropout = nn.Linear(memory_size, size), enters, dropout

    def forward(self, summary: Tensor) -> Tensor:
        """`(batch, memory_size)` → v `(batch, size)`."""
        seen: Tensor = self.dropout(self.map(summary))
        return seen

    def carried(self, seen: Tensor) -> Tensor | None:
        """What is still to be read at the start, `(batch, size)`; only for `once`, where later steps have zeros."""
        return seen if self.enters == "once" else None

    def beside(self, seen: Tensor, carried: Tensor | None, steps: int) -> Tensor | None:
        """What the recurrence reads besides the tokens of so many steps, `(batch, steps, size)`, or `(batch, 1, size)`
        where it is the same at all of them.

        Args:
            seen: v.
            carried: before these steps, as `carried` returned it or, after the first step, zeros.
        """
        if self.enters == "every":
            return seen[:, None]
        if carried is None:
            return None
        return torch.cat([carried[:, None], carried.new_zeros(len(carried), steps - 1, carried.shape[1])], dim=1)


class VisualMemory(nn.Module):
    """u_t = f(word_t, u_{t−1}), trained so that a linear map of it is the picture's feature: ṽ_t ≈ v.

    It never sees the picture, and v stays the same from step to step while words come and go: so it changes slowly
    and keeps what the sentence has shown of the picture so far. The decoder, which sees the picture, reads u_t beside
    its own state before it chooses the next word.

    Args:
        stack: f.
        memory_size: features of v.
    """

    def __init__(self, stack: Stack, memory_size: int) -> None:
        super().__init__()
        self.stack, self.recall = stack, nn.Linear(stack.output_size, memory_size)

    def errors(self, remembered: Tensor, summary: Tensor) -> Tensor:
        """Mean squares of ṽ_t − v, where v is brought to a mean square of 1, whatever network it is from.

        Args:
            remembered: u, `(batch, time, hidden)`.
            summary: the picture's feature, `(batch, memory_size)`; nothing is learned through it.

        Returns:
            `(batch, time)`.
        """
        size = summary.detach().square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(summary.dtype).tiny)
        wanted = (summary.detach() / size)[:, None]
        errors: Tensor = (self.recall(remembered) - wanted).square().mean(-1)
        return errors


DecoderState = tuple[StackState, Tensor | None]
"""The recurrent state, layers of a visual memory last; and what the next step reads besides: with input feeding the
last attentional vector `(batch, output)`, of a glance at the first token alone what is left of it."""


class DecoderOutput(NamedTuple):
    """What a window of tokens gave.

    Attributes:
        outputs: one a token, `(batch, time, output_size)`.
        state: after the window.
        weights: of attention, `(batch, time, positions)`, where they are at hand.
        remembered: states of the visual memory, `(batch, time, features)`.
        choices: what hard attention drew in training.
    """

    outputs: Tensor
    state: DecoderState
    weights: Tensor | None = None
    remembered: Tensor | None = None
    choices: AttentionSamples | None = None


class Decoder(nn.Module):
    """Args:
    embedding: of the tokens it reads, `(vocabulary, features)`.
    stack: its input is the embedding, joined by the last output with input feeding; beside it, it reads a glance
        that enters the recurrence, or a context that is fed.
    memory_size: features of the memory's states and summary.
    output_size: features of the vectors it returns.
    attention: looks at the memory; `None`: none does.
    input_feeding: see above; wants attention.
    context_feeding: see above; wants attention.
    glance: then the first state knows nothing of the memory. One that enters `first` goes with a context that is fed
        (Zhu et al. 2016, "Visual7W").
    visual: joins the outputs.
    deep_output: outputs join the token's embedding too (Pascanu et al. 2014; Xu et al. 2015, eq. 7).
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
        context_feeding: ContextFeeding | None = None,
        glance: ImageVector | None = None,
        visual: VisualMemory | None = None,
        deep_output: bool = False,
        dropout: Dropout | None = None,
    ) -> None:
        super().__init__()
        if (input_feeding or context_feeding) and attention is None:
            raise ValueError("feeding feeds what attention saw: it wants an attention")
        self.embedding, self.stack, self.attention = embedding, stack, attention
        self.input_feeding, self.context_feeding, self.output_size = input_feeding, context_feeding, output_size
        self.glance, self.visual, self.deep_output = glance, visual, deep_output
        self.dropout = dropout or Dropout(0.0)
        hidden = stack.output_size
        # One learned first state a layer and tensor, so that sizes and cells of both sides are free.
        self.bridges = nn.ModuleList(
            nn.ModuleList(nn.Linear(memory_size, hidden) for _ in range(cell.num_states))
            for (cell,) in ([] if glance else stack.cells())
        )
        joined = hidden + (memory_size if attention else 0) + (visual.stack.output_size if visual else 0)
        self.readout = nn.Linear(joined + (embedding.embedding_dim if deep_output else 0), output_size)

    def prepare(self, memory: EncoderOutput) -> EncoderOutput:
        """Adds what the decoder needs of the memory alone, so that no step computes it again."""
        keys = None if self.attention is None else self.attention.keys(memory.states)
        return replace(
            memory, keys=keys, projected_summary=None if self.glance is None else self.glance(memory.summary)
        )

    def start(self, memory: EncoderOutput) -> DecoderState:
        """The state before the first token: with a glance the stack's own, else tanh of a learned map of the summary
        (Bahdanau et al. 2015, A.2.2)."""
        if self.glance is not None:
            return self._start_with_glance(self.glance, memory)
        state = tuple(
            (tuple(torch.tanh(bridge(memory.summary)) for bridge in tensors),)
            for tensors in cast(list[nn.ModuleList], self.bridges)
        )
        fed = memory.summary.new_zeros(len(memory), self.output_size) if self.input_feeding else None
        return state, fed

    def _start_with_glance(self, glance: ImageVector, memory: EncoderOutput) -> DecoderState:
        assert memory.projected_summary is not None
        state = self.stack.begin(len(memory))
        if glance.enters == "first":
            nothing = None
            if self.context_feeding is not None:  # no state has looked yet
                nothing = memory.states.new_zeros(len(memory), memory.states.shape[2])
            _, state = self.stack.step(memory.projected_summary, state, nothing)
        visual = () if self.visual is None else self.visual.stack.begin(len(memory))
        return (*state, *visual), glance.carried(memory.projected_summary)

    def forward(self, memory: EncoderOutput, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Outputs and state of a `window`."""
        outputs, after, *_ = self.window(memory, tokens, state)
        return outputs, after

    @property
    def supports_shared_sources(self) -> bool:
        """Whether `window` knows rows that share a memory."""
        soft = not isinstance(self.attention, HardAttention)
        return self.context_feeding is not None and soft and decoder_loop.applies(self.stack)

    def window(
        self,
        memory: EncoderOutput,
        tokens: Tensor,
        state: DecoderState,
        source_index: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> DecoderOutput:
        """Reads a whole window.

        Args:
            memory: of `batch` examples, prepared.
            tokens: `(batch, time)`, each the one before the token to predict.
            state: before the window.
            source_index: the example of each row, `(batch,)`, of a decoder that `shares`; `None`: its own.
            lengths: tokens of every row, whose outputs behind them nobody wants; `None`: all of the window.
        """
        embedded = self._embed(tokens)
        if not self.input_feeding and self.context_feeding is None:
            return self._scan(embedded, memory, state)
        kept = self.dropout(embedded.new_ones(*embedded.shape[:2], self.output_size))
        if self.input_feeding and decoder_loop.applies(self.stack):
            carried, fed = state
            assert self.attention is not None and fed is not None
            outputs, after = attention_feeding.feed(
                self.stack, self.attention, self.readout, embedded, memory, carried, fed, kept
            )
            return DecoderOutput(outputs, (after, outputs[:, -1]))
        if isinstance(self.attention, HardAttention) and self.training:
            draws = SampledAttention(self.attention, len(tokens), tokens.device)
            return self._walk(embedded, memory, state, kept, draws)._replace(choices=draws.choices())
        if self.supports_shared_sources:
            assert self.attention is not None and self.context_feeding is not None
            run = self.context_feeding.run(
                self.stack, self.attention, embedded, memory, state[0], source_index, lengths
            )
            outputs = self._read_out(run.hidden, run.contexts, embedded, None, None) * kept
            return DecoderOutput(outputs, (run.state, None), run.weights)
        return self._walk(embedded, memory, state, kept)

    def step(
        self, memory: EncoderOutput, tokens: Tensor, state: DecoderState, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Reads one token a row.

        Args:
            memory: of `n` examples, prepared.
            tokens: `(rows,)`.
            rows: hypotheses of one example share its memory; `None`: every example has as many rows, adjacent.

        Returns:
            Outputs `(rows, output_size)`, the state after them, and with attention its weights `(rows, positions)`.
        """
        rows = rows or Rows.uniform(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        return self._advance(self._embed(tokens), state, memory, rows)

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def _scan(self, embedded: Tensor, memory: EncoderOutput, state: DecoderState) -> DecoderOutput:
        """A window in which no step waits for what the one before has seen."""
        carried, left = state
        own, beyond = self._parted(carried)
        beside = None
        if self.glance is not None and memory.projected_summary is not None:
            beside = self.glance.beside(memory.projected_summary, left, embedded.shape[1])
        hidden, after = self.stack(embedded, own, extra_input=beside)
        remembered = None
        if self.visual is not None:
            remembered, beyond = self.visual.stack(embedded, beyond)
        context, weights = (None, None) if self.attention is None else self.attention(hidden, memory)
        glance = None if memory.projected_summary is None else memory.projected_summary[:, None]
        outputs = self.dropout(self._read_out(hidden, context, embedded, remembered, glance))
        left = None if left is None else torch.zeros_like(left)
        return DecoderOutput(outputs, ((*after, *beyond), left), weights, remembered)

    def _walk(
        self,
        embedded: Tensor,
        memory: EncoderOutput,
        state: DecoderState,
        kept: Tensor,
        look: AttentionFunction | None = None,
    ) -> DecoderOutput:
        """A window step by step; `kept`: what dropout multiplies the outputs by; `look`: in the attention's stead."""
        each, looked = [], []
        rows = Rows.uniform(len(memory), 1, embedded.device)
        for step, share in zip(embedded.unbind(1), kept.unbind(1), strict=True):
            output, state, weights = self._advance(step, state, memory, rows, share, look)
            assert weights is not None
            each.append(output)
            looked.append(weights)
        return DecoderOutput(torch.stack(each, dim=1), state, torch.stack(looked, dim=1))

    def _advance(
        self,
        embedded: Tensor,
        state: DecoderState,
        memory: EncoderOutput,
        rows: Rows,
        kept: Tensor | None = None,
        look: AttentionFunction | None = None,
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """One step; `kept`: what dropout multiplies its output by, drawn here if `None`; `look` as in `_walk`."""
        carried, fed = state
        look = look or self.attention
        own, beyond = self._parted(carried)
        inputs = embedded if fed is None or not self.input_feeding else torch.cat([embedded, fed], dim=-1)
        glance = None if memory.projected_summary is None else memory.projected_summary[rows.source_index]
        context, weights, beside, remembered = None, None, None, None
        if self.context_feeding is not None:
            assert look is not None
            context, weights = self.context_feeding(look, own[-1][0][0], memory, rows)
            beside = context
        elif self.glance is not None and glance is not None:
            beside = self.glance.beside(glance, fed, 1)
            beside = None if beside is None else beside[:, 0]
        hidden, after = self.stack.step(inputs, own, beside)
        if look is not None and context is None:
            seen, looked = look(rows.pad(hidden), memory)
            context, weights = rows.unpad(seen), rows.unpad(looked)
        if self.visual is not None:
            remembered, beyond = self.visual.stack.step(embedded, beyond)
        output = self._read_out(hidden, context, embedded, remembered, glance)
        output = self.dropout(output) if kept is None else output * kept
        left = output if self.input_feeding else None if fed is None else torch.zeros_like(fed)
        return output, ((*after, *beyond), left), weights

    def _parted(self, carried: StackState) -> tuple[StackState, StackState]:
        """The states of the stack and of the visual memory."""
        layers = len(self.stack.layers)
        return carried[:layers], carried[layers:]

    def _read_out(
        self, hidden: Tensor, context: Tensor | None, embedded: Tensor, remembered: Tensor | None, glance: Tensor | None
    ) -> Tensor:
        """Joins what a step knows, all `(…, features)`.

        A glance that enters here is added before the squashing: the multimodal layer of Mao et al. 2015, whose scaled
        tanh this is up to scales that the weights around it learn.
        """
        word = embedded if self.deep_output else None
        parts = [part for part in (hidden, context, word, remembered) if part is not None]
        joined = self.readout(torch.cat(parts, dim=-1) if len(parts) > 1 else hidden)
        if self.glance is not None and self.glance.enters == "output":
            joined = joined + glance
        return torch.tanh(joined)
