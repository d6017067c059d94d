"""The decoder: a recurrent network that writes tokens, conditioned on an encoder output.

Conditioning:

- initial state: tanh of a linear map of the encoder output's summary (Cho et al. 2014, Sutskever et al. 2014);
- attention: every state h_t attends to the encoder output and is joined with the context, tanh(W [h_t; c_t]) (Luong et
  al. 2015, eq. 5); with input feeding that vector also enters the next step (their section 3.3);
- context feeding: h_{t−1} attends, and the context enters step t (Xu et al. 2015, "Show, attend and tell", eq. 1–3 and
  13; see `ContextFeeding`), softly or at a single position (`HardAttention`);
- `SummaryProjection`: the summary as one vector at the start, at every step or after the recurrence, with an initial
  state that does not depend on the input; with a `VisualMemory` besides (Chen & Zitnick 2015).

Where no step depends on the attention of the step before, all steps run in one scan and attention is one batched
product. Else the steps run one by one, with hand-written backward if `decoder_loop.supports` the stack.
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


class SummaryProjection(nn.Module):
    """v = W summary + b, which enters the decoder at one of four points:

    - `first`: as the input of a step before the first token (Vinyals et al. 2015, "Show and tell", eq. 10);
    - `once`: with the first token (Karpathy & Fei-Fei 2015, eq. 14);
    - `every`: with every token, in a layer of choice (Karpathy's h = f(W_xh x + W_hh h + W_ih v); the factored model
      of Donahue et al. 2015, "LRCN", in an upper one);
    - `output`: after the recurrence, which does not read it (Mao et al. 2015, "m-RNN").

    Args:
        memory_size: features of the summary.
        size: of v. For `first` that of a token's embedding, for `output` that of the decoder's outputs.
        dropout: of v.
    """

    def __init__(self, memory_size: int, size: int, entry: EntryPoint, dropout: Dropout) -> None:
        super().__init__()
        self.linear, self.entry, self.dropout = nn.Linear(memory_size, size), entry, dropout

    def forward(self, summary: Tensor) -> Tensor:
        """`(batch, memory_size)` → v `(batch, size)`."""
        projected: Tensor = self.dropout(self.linear(summary))
        return projected

    def pending(self, projected: Tensor) -> Tensor | None:
        """Returns the part of the decoder's initial state that is still to be read, `(batch, size)`: v for `once`,
        where later steps read zeros."""
        return projected if self.entry == "once" else None

    def extra_input(self, projected: Tensor, pending: Tensor | None, steps: int) -> Tensor | None:
        """Returns the extra input of the next steps, `(batch, steps, size)`, or `(batch, 1, size)` if it is the same at
        all of them.

        Args:
            projected: v.
            pending: before these steps, from `pending` or, after the first step, zeros.
        """
        if self.entry == "every":
            return projected[:, None]
        if pending is None:
            return None
        zeros = pending.new_zeros(len(pending), steps - 1, pending.shape[1])
        return torch.cat([pending[:, None], zeros], dim=1)


class VisualMemory(nn.Module):
    """u_t = f(word_t, u_{t−1}), trained so that a linear map of it reconstructs the picture's feature: ṽ_t ≈ v.

    It does not read the picture, and v is the same at every step while the words change: so u_t changes slowly and
    remembers which part of the picture the sentence has described so far. The decoder, which reads the picture, reads
    u_t besides its own state before it chooses the next word.

    Args:
        stack: f.
        memory_size: features of v.
    """

    def __init__(self, stack: Stack, memory_size: int) -> None:
        super().__init__()
        self.stack, self.recall = stack, nn.Linear(stack.output_size, memory_size)

    def errors(self, hidden: Tensor, summary: Tensor) -> Tensor:
        """Returns the mean squares of ṽ_t − v, `(batch, time)`, with v scaled to a mean square of 1 for any network.

        Args:
            hidden: u, `(batch, time, hidden)`.
            summary: the picture's feature, `(batch, memory_size)`; gets no gradient.
        """
        scale = summary.detach().square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(summary.dtype).tiny)
        target = (summary.detach() / scale)[:, None]
        errors: Tensor = (self.recall(hidden) - target).square().mean(-1)
        return errors


DecoderState = tuple[StackState, Tensor | None]
"""The recurrent state, with the layers of a visual memory last; and a further input of the next step: with input
feeding the last attentional vector `(batch, output)`, of a summary projection for `once` its pending part."""


class DecoderOutput(NamedTuple):
    """Result of a window of tokens.

    Attributes:
        outputs: one vector per token, `(batch, time, output_size)`.
        state: after the window.
        weights: of attention, `(batch, time, positions)`, if available.
        visual_hidden: states of the visual memory, `(batch, time, features)`.
        samples: positions that hard attention sampled in training.
    """

    outputs: Tensor
    state: DecoderState
    weights: Tensor | None = None
    visual_hidden: Tensor | None = None
    samples: AttentionSamples | None = None


class Decoder(nn.Module):
    """The decoder.

    Args:
        embedding: of the tokens it reads, `(vocabulary, features)`.
        stack: its input is the embedding, with input feeding followed by the last output; its extra input is a summary
            projection that enters the recurrence, or a fed context.
        memory_size: features of the encoder output's states and summary.
        output_size: features of the outputs; `None`: outputs are the states h of the stack.
        attention: over the encoder output; `None`: none.
        input_feeding: see the module; requires attention.
        context_feeding: see the module; requires attention.
        summary_projection: replaces the initial state computed from the summary. Entry `first` can be combined with
            context feeding (Zhu et al. 2016, "Visual7W").
        visual: its states join the outputs.
        deep_output: the token's embedding joins the outputs (Pascanu et al. 2014; Xu et al. 2015, eq. 7).
        dropout: of embeddings and of outputs that are not h; none if `None`.

    Raises:
        ValueError: feeding without attention.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        stack: Stack,
        memory_size: int,
        output_size: int | None,
        attention: Attention | None,
        *,
        input_feeding: bool = False,
        context_feeding: ContextFeeding | None = None,
        summary_projection: SummaryProjection | None = None,
        visual: VisualMemory | None = None,
        deep_output: bool = False,
        dropout: Dropout | None = None,
    ) -> None:
        super().__init__()
        if (input_feeding or context_feeding) and attention is None:
            raise ValueError("input feeding and context feeding require attention")
        self.embedding, self.stack, self.attention = embedding, stack, attention
        self.input_feeding, self.context_feeding = input_feeding, context_feeding
        self.summary_projection, self.visual, self.deep_output = summary_projection, visual, deep_output
        self.dropout = dropout or Dropout(0.0)
        hidden = stack.output_size
        # One linear map per layer and state tensor, so that sizes and cells of encoder and decoder are independent.
        self.bridges = nn.ModuleList(
            nn.ModuleList(nn.Linear(memory_size, hidden) for _ in range(cell.num_states))
            for (cell,) in ([] if summary_projection else stack.cells())
        )
        joined = hidden + (memory_size if attention else 0) + (visual.stack.output_size if visual else 0)
        joined += embedding.embedding_dim if deep_output else 0
        self.readout = None if output_size is None else nn.Linear(joined, output_size)
        self.output_size = output_size or hidden
        self.output_dropout = Dropout(0.0) if self.readout is None else self.dropout

    def prepare(self, memory: EncoderOutput) -> EncoderOutput:
        """Adds what depends on the encoder output alone, so that no step computes it again."""
        keys = None if self.attention is None else self.attention.keys(memory.states)
        projected = None if self.summary_projection is None else self.summary_projection(memory.summary)
        return replace(memory, keys=keys, projected_summary=projected)

    def start(self, memory: EncoderOutput) -> DecoderState:
        """Returns the state before the first token: with a summary projection the stack's own, else tanh of a linear
        map of the summary (Bahdanau et al. 2015, A.2.2)."""
        if self.summary_projection is not None:
            return self._start_from_projection(self.summary_projection, memory)
        state = tuple(
            (tuple(torch.tanh(bridge(memory.summary)) for bridge in tensors),)
            for tensors in cast(list[nn.ModuleList], self.bridges)
        )
        return state, memory.summary.new_zeros(len(memory), self.output_size) if self.input_feeding else None

    def _start_from_projection(self, projection: SummaryProjection, memory: EncoderOutput) -> DecoderState:
        assert memory.projected_summary is not None
        state = self.stack.begin(len(memory))
        if projection.entry == "first":
            no_context = None
            if self.context_feeding is not None:  # no state has attended yet
                no_context = memory.states.new_zeros(len(memory), memory.states.shape[2])
            _, state = self.stack.step(memory.projected_summary, state, no_context)
        visual = () if self.visual is None else self.visual.stack.begin(len(memory))
        return (*state, *visual), projection.pending(memory.projected_summary)

    def forward(self, memory: EncoderOutput, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Returns outputs and state of a `window`."""
        outputs, after, *_ = self.window(memory, tokens, state)
        return outputs, after

    @property
    def supports_shared_sources(self) -> bool:
        """Whether the rows of a `window` can share encoder outputs."""
        soft = not isinstance(self.attention, HardAttention)
        return self.context_feeding is not None and soft and decoder_loop.supports(self.stack)

    def window(
        self,
        memory: EncoderOutput,
        tokens: Tensor,
        state: DecoderState,
        source_index: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> DecoderOutput:
        """Reads a window of tokens.

        Args:
            memory: prepared encoder outputs of `batch` examples.
            tokens: `(batch, time)`, each the one before the token to predict.
            state: before the window.
            source_index: encoder output of each row, `(batch,)`, if the decoder `supports_shared_sources`; `None`: row
                i reads encoder output i.
            lengths: tokens of every row, after which its outputs are not used; `None`: all of the window.
        """
        embedded = self._embed(tokens)
        if not self.input_feeding and self.context_feeding is None:
            return self._scan(embedded, memory, state)
        masks = self.output_dropout(embedded.new_ones(*embedded.shape[:2], self.output_size))
        if self.input_feeding and decoder_loop.supports(self.stack):
            recurrent, last_output = state
            assert self.attention is not None and last_output is not None and self.readout is not None
            outputs, after = attention_feeding.feed_inputs(
                self.stack, self.attention, self.readout, embedded, memory, recurrent, last_output, masks
            )
            return DecoderOutput(outputs, (after, outputs[:, -1]))
        if isinstance(self.attention, HardAttention) and self.training:
            attend = SampledAttention(self.attention, len(tokens), tokens.device)
            return self._step_loop(embedded, memory, state, masks, attend)._replace(samples=attend.samples())
        if self.supports_shared_sources:
            assert self.attention is not None and self.context_feeding is not None
            hidden, contexts, weights, after = self.context_feeding.run_window(
                self.stack, self.attention, embedded, memory, state[0], source_index, lengths
            )
            outputs = self._read_out(hidden, contexts, embedded, None, None) * masks
            return DecoderOutput(outputs, (after, None), weights)
        return self._step_loop(embedded, memory, state, masks)

    def step(
        self, memory: EncoderOutput, tokens: Tensor, state: DecoderState, rows: Rows | None = None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Reads one token per row.

        Args:
            memory: prepared encoder outputs of n examples.
            tokens: `(rows,)`.
            rows: the example of each row; `None`: the same number of adjacent rows per example.

        Returns:
            Outputs `(rows, output_size)`, the state after them, and with attention its weights `(rows, positions)`.
        """
        rows = rows or Rows.uniform(len(memory), len(tokens) // max(1, len(memory)), tokens.device)
        return self._step(self._embed(tokens), state, memory, rows)

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(tokens))
        return embedded

    def _scan(self, embedded: Tensor, memory: EncoderOutput, state: DecoderState) -> DecoderOutput:
        """A window in which no step depends on the attention of the step before."""
        recurrent, pending = state
        own, visual_state = self._split_state(recurrent)
        extra_input, projected = None, memory.projected_summary
        if self.summary_projection is not None and projected is not None:
            extra_input = self.summary_projection.extra_input(projected, pending, embedded.shape[1])
        hidden, after = self.stack(embedded, own, extra_input=extra_input)
        visual_hidden = None
        if self.visual is not None:
            visual_hidden, visual_state = self.visual.stack(embedded, visual_state)
        context, weights = (None, None) if self.attention is None else self.attention(hidden, memory)
        projected = None if projected is None else projected[:, None]
        outputs = self.output_dropout(self._read_out(hidden, context, embedded, visual_hidden, projected))
        pending = None if pending is None else torch.zeros_like(pending)
        return DecoderOutput(outputs, ((*after, *visual_state), pending), weights, visual_hidden)

    def _step_loop(
        self,
        embedded: Tensor,
        memory: EncoderOutput,
        state: DecoderState,
        output_masks: Tensor,
        attend: AttentionFunction | None = None,
    ) -> DecoderOutput:
        """A window step by step; `output_masks`: scaled dropout masks; `attend` replaces the decoder's attention."""
        outputs, weights = [], []
        rows = Rows.uniform(len(memory), 1, embedded.device)
        for token, mask in zip(embedded.unbind(1), output_masks.unbind(1), strict=True):
            output, state, step_weights = self._step(token, state, memory, rows, mask, attend)
            assert step_weights is not None
            outputs.append(output)
            weights.append(step_weights)
        return DecoderOutput(torch.stack(outputs, dim=1), state, torch.stack(weights, dim=1))

    def _step(
        self,
        embedded: Tensor,
        state: DecoderState,
        memory: EncoderOutput,
        rows: Rows,
        output_mask: Tensor | None = None,
        attend: AttentionFunction | None = None,
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """One step; `output_mask`: scaled dropout mask of its output, drawn here if `None`."""
        recurrent, pending = state
        attend = attend or self.attention
        own, visual_state = self._split_state(recurrent)
        inputs = embedded if pending is None or not self.input_feeding else torch.cat([embedded, pending], dim=-1)
        projected = None if memory.projected_summary is None else memory.projected_summary[rows.source_index]
        context, weights, extra_input, visual_hidden = None, None, None, None
        if self.context_feeding is not None:
            assert attend is not None
            context, weights = self.context_feeding(attend, own[-1][0][0], memory, rows)
            extra_input = context
        elif self.summary_projection is not None and projected is not None:
            extra_input = self.summary_projection.extra_input(projected, pending, 1)
            extra_input = None if extra_input is None else extra_input[:, 0]
        hidden, after = self.stack.step(inputs, own, extra_input)
        if attend is not None and context is None:
            contexts, padded_weights = attend(rows.pad(hidden), memory)
            context, weights = rows.unpad(contexts), rows.unpad(padded_weights)
        if self.visual is not None:
            visual_hidden, visual_state = self.visual.stack.step(embedded, visual_state)
        output = self._read_out(hidden, context, embedded, visual_hidden, projected)
        output = self.output_dropout(output) if output_mask is None else output * output_mask
        if self.input_feeding:
            pending = output
        elif pending is not None:
            pending = torch.zeros_like(pending)
        return output, ((*after, *visual_state), pending), weights

    def _split_state(self, recurrent: StackState) -> tuple[StackState, StackState]:
        """The states of the stack and of the visual memory."""
        layers = len(self.stack.layers)
        return recurrent[:layers], recurrent[layers:]

    def _read_out(
        self,
        hidden: Tensor,
        context: Tensor | None,
        embedded: Tensor,
        visual_hidden: Tensor | None,
        projected: Tensor | None,
    ) -> Tensor:
        """Joins the vectors of a step, all `(…, features)`.

        A summary projection that enters here is added before tanh: the multimodal layer of Mao et al. 2015, whose
        scaled tanh this is up to scales that the surrounding weights learn.
        """
        if self.readout is None:
            return hidden
        word = embedded if self.deep_output else None
        parts = [part for part in (hidden, context, word, visual_hidden) if part is not None]
        joined = self.readout(torch.cat(parts, dim=-1) if len(parts) > 1 else hidden)
        if self.summary_projection is not None and self.summary_projection.entry == "output":
            joined = joined + projected
        return torch.tanh(joined)
