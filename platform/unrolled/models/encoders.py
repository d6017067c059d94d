"""Encoders of text and of pictures, and the encoder output that a decoder reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.recurrence import Dropout, Nest, Stack
from unrolled.recurrence import state as nest


@dataclass(frozen=True)
class EncoderOutput:
    """An encoded input, one row per example.

    Attributes:
        states: `(batch, positions, features)`, what attention reads.
        mask: `(batch, positions)`, False on padding.
        summary: `(batch, features)`, the whole input in one vector.
        keys: `(batch, positions, hidden)`, the states as the decoder's attention compares them, computed once per
            input by `Decoder.prepare`.
        projected_summary: `(batch, features)`, the summary as the decoder reads it, computed there too.
        prefix_state: decoder state after a text that precedes the output, computed by `EncoderDecoder.read_prefix`.
    """

    states: Tensor
    mask: Tensor
    summary: Tensor
    keys: Tensor | None = None
    projected_summary: Tensor | None = None
    prefix_state: Nest = None

    def __len__(self) -> int:
        return len(self.states)

    def detach_leaf(self) -> EncoderOutput:
        """Returns the same values, those with a graph replaced by detached leaves that accumulate gradients."""
        leaves = {name: value.detach().requires_grad_() for name, value in self._differentiable().items()}
        return replace(self, **leaves)

    def backward_into_encoder(self, leaf: EncoderOutput) -> Tensor:
        """Returns a loss of zero whose backward pass sends the gradients accumulated in `leaf` into the encoder."""
        gradients = {name: value.grad for name, value in leaf._differentiable().items() if value.grad is not None}
        values = self._differentiable()
        zero: Tensor = _InjectGradients.apply(
            self.summary.detach(), gradients.values(), *(values[name] for name in gradients)
        )
        return zero

    def _differentiable(self) -> dict[str, Tensor]:
        names = "states", "summary", "keys", "projected_summary"
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None and value.requires_grad}

    def select(self, rows: Tensor) -> EncoderOutput:
        """Selects the examples `rows` `(n,)`."""
        optional = (self.keys, self.projected_summary)
        keys, projected = (None if value is None else nest.index_rows(value, rows) for value in optional)
        states, mask, summary = (nest.index_rows(value, rows) for value in (self.states, self.mask, self.summary))
        return EncoderOutput(states, mask, summary, keys, projected, nest.select(self.prefix_state, rows))


class _InjectGradients(torch.autograd.Function):
    """Zero, whose gradients are the given ones whatever the incoming gradient: their losses were scaled already."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, gradients: Iterable[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return like.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, None, *ctx.gradients


@dataclass(frozen=True)
class Rows:
    """Assignment of rows (such as beam hypotheses) to n sources; the rows of a source are adjacent, sources in order.

    Attributes:
        num_sources: n.
        source_index: source of each row, `(rows,)`, ascending.
        rank: index of each row among the rows of its source, `(rows,)`.
        max_rows: largest number of rows per source.
    """

    num_sources: int
    source_index: Tensor
    rank: Tensor
    max_rows: int

    @staticmethod
    def uniform(num_sources: int, rows_per_source: int, device: torch.device) -> Rows:
        """Returns the same number of rows for every source."""
        index = torch.arange(num_sources * rows_per_source, device=device)
        divisor = max(1, rows_per_source)
        return Rows(num_sources, index // divisor, index % divisor, rows_per_source)

    @staticmethod
    def from_counts(source_index: Tensor, counts: Tensor) -> Rows:
        """Returns rows with the given `source_index` `(rows,)`; source i has `counts[i]` rows, one or more."""
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(source_index), device=source_index.device) - first[source_index]
        return Rows(len(counts), source_index, rank, int(counts.max()))

    def __len__(self) -> int:
        return len(self.source_index)

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """`(rows, …)` → `(n, max_rows, …)`; `fill` where a source has fewer rows."""
        shape = (self.num_sources, self.max_rows, *values.shape[1:])
        if len(self) == self.num_sources * self.max_rows:
            return values.view(shape)
        padded = values.new_full((self.num_sources * self.max_rows, *values.shape[1:]), fill)
        return padded.index_copy_(0, self._flat_index(), values).view(shape)

    def unpad(self, padded: Tensor) -> Tensor:
        """`(n, max_rows, …)` → `(rows, …)`: the inverse of `pad`."""
        flat = padded.flatten(0, 1)
        return flat if len(self) == len(flat) else flat.index_select(0, self._flat_index())

    def _flat_index(self) -> Tensor:
        return self.source_index * self.max_rows + self.rank


class TextEncoder(nn.Module):
    """A recurrent network over tokens (Sutskever et al. 2014; in both directions: Bahdanau et al. 2015).

    Args:
        embedding: `(vocabulary, features)`, shared with the decoder or not.
        stack: over the embedded tokens.
        dropout: of embeddings and outputs.
    """

    def __init__(self, embedding: nn.Embedding, stack: Stack, dropout: Dropout) -> None:
        super().__init__()
        self.embedding, self.stack, self.dropout = embedding, stack, dropout

    def forward(self, tokens: Tensor, mask: Tensor, truncate: int | None = None) -> EncoderOutput:
        """Encodes `tokens` `(batch, positions)`; the summary is the last state h of all directions. `mask` is False on
        padding, `truncate` as in `truncated_scan`."""
        embedded = self.dropout(self.embedding(tokens))
        outputs, state = self.stack(embedded, mask=mask, truncate=truncate)
        summary = torch.cat([direction[0] for direction in state[-1]], dim=-1)
        return EncoderOutput(self.dropout(outputs), mask, summary)


class ImageEncoder(nn.Module):
    """An encoder of pictures: grids of features, or their means.

    Args:
        channels: features of a position of the given grids.
        size: features of a position of the output, max(0, W x + b); `None`: the given features.
        dropout: of the positions of the output.
        network: pixels `(pictures, 3, height, width)` → grids `(pictures, positions, channels)`, if it is trained with
            the decoder; `None`: the inputs are grids.
        grid: whether the output has all positions; else their mean is its only one.
        position_embeddings: number of positions, if a learned vector is added to each, which tells the decoder where it
            attends (as Gehring et al. 2017, section 3.1, for words); 0: none.
        position_std: initial standard deviation of these vectors.
    """

    def __init__(
        self,
        channels: int,
        size: int | None,
        dropout: Dropout,
        *,
        network: nn.Module | None = None,
        grid: bool = True,
        position_embeddings: int = 0,
        position_std: float = 0.1,
    ) -> None:
        super().__init__()
        self.network, self.grid, self.dropout = network, grid, dropout
        self.map = None if size is None else nn.Linear(channels, size)
        self.memory_size = size or channels
        self.positions: nn.Parameter | None = None
        if position_embeddings:
            self.positions = nn.Parameter(position_std * torch.randn(position_embeddings, self.memory_size))
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)  # of the type that the model computes in

    def forward(self, pictures: Tensor) -> EncoderOutput:
        """Encodes grids `(pictures, positions, channels)`, or pixels if there is a network; the summary is the mean."""
        grids = pictures.to(self.like.dtype) if self.network is None else self.network(pictures)
        if not self.grid:
            grids = grids.mean(1, keepdim=True)
        states = grids if self.map is None else self.map(grids)
        if self.positions is not None:  # before the rectifier, so that the mean depends on where things are, too
            states = states + self.positions
        states = self.dropout(states if self.map is None else torch.relu(states))
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mean = states.sum(1) / states.shape[1]  # mean() would write out its gradient for every position
        return EncoderOutput(states, mask, mean)
