"""Encoders of text and of photographs, and the encoder output that a decoder reads.

What an encoder hands to a decoder.

Which example each row of a decoding step belongs to.

Encoders: an input becomes a `Memory`.

From what a convolutional network made of a picture to a `Memory`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.recurrence import Dropout, Stack
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class EncoderOutput:
    """An encoded input, one row an example.

    Attributes:
        states: `(batch, positions, features)`, what attention looks at.
        mask: `(batch, positions)`, False on padding.
        summary: `(batch, features)`, the whole input in one vector.
        keys: `(batch, positions, hidden)`, the states as the decoder's attention compares them, made once an
            input by `Decoder.prepare`.
        glance: `(batch, features)`, the summary as the decoder reads it, made there too.
        read: the decoder's state where it has read a text before it writes, made by `EncoderDecoder.read`.
    """

    states: Tensor
    mask: Tensor
    summary: Tensor
    keys: Tensor | None = None
    glance: Tensor | None = None
    read: Nest = None

    def __len__(self) -> int:
        return len(self.states)

    def leaf(self) -> EncoderOutput:
        """The same values, those with a graph cut from it and ready to gather gradients of their own."""
        cut = {name: value.detach().requires_grad_() for name, value in self._learned().items()}
        return replace(self, **cut)

    def behind(self, leaf: EncoderOutput) -> Tensor:
        """A loss of zero whose backward pass sends the gradients that `leaf` has gathered on into the encoder."""
        gathered = {name: value.grad for name, value in leaf._learned().items() if value.grad is not None}
        values = self._learned()
        zero: Tensor = _Behind.apply(self.summary.detach(), gathered.values(), *(values[name] for name in gathered))
        return zero

    def _learned(self) -> dict[str, Tensor]:
        values = {"states": self.states, "summary": self.summary, "keys": self.keys, "glance": self.glance}
        return {name: value for name, value in values.items() if value is not None and value.requires_grad}

    def select(self, rows: Tensor) -> EncoderOutput:
        """Takes the examples `rows` `(n,)`."""
        keys, glance = (None if value is None else nest.taken(value, rows) for value in (self.keys, self.glance))
        states, mask, summary = (nest.taken(value, rows) for value in (self.states, self.mask, self.summary))
        return EncoderOutput(states, mask, summary, keys, glance, nest.select(self.read, rows))


class _Behind(torch.autograd.Function):
    """Zero. Its gradients are those given, whatever comes in: the losses that they are from were scaled already."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, gradients: Iterable[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return like.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, None, *ctx.gradients


@dataclass(frozen=True)
class Rows:
    """Rows that share the memories of n examples: those of one example are adjacent, examples in order.

    Attributes:
        examples: n.
        owners: the example of each row, `(rows,)`, rising.
        places: its place among the rows of its example, `(rows,)`.
        width: rows of the example that has most.
    """

    examples: int
    owners: Tensor
    places: Tensor
    width: int

    @staticmethod
    def even(examples: int, width: int, device: torch.device) -> Rows:
        """Returns `width` rows for every example."""
        every = torch.arange(examples * width, device=device)
        return Rows(examples, every // max(1, width), every % max(1, width), width)

    @staticmethod
    def of(owners: Tensor, counts: Tensor) -> Rows:
        """Returns the rows of `owners` `(rows,)`, of which example i has `counts[i]`, one or more."""
        first = counts.cumsum(0) - counts
        places = torch.arange(len(owners), device=owners.device) - first[owners]
        return Rows(len(counts), owners, places, int(counts.max()))

    def __len__(self) -> int:
        return len(self.owners)

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """`(rows, …)` → `(n, width, …)`; `fill` stands where an example has fewer rows."""
        shape = (self.examples, self.width, *values.shape[1:])
        if len(self) == self.examples * self.width:
            return values.view(shape)
        table = values.new_full((self.examples * self.width, *values.shape[1:]), fill)
        return table.index_copy_(0, self._cells(), values).view(shape)

    def unpad(self, table: Tensor) -> Tensor:
        """`(n, width, …)` → `(rows, …)`: undoes `pad`."""
        flat = table.flatten(0, 1)
        return flat if len(self) == len(flat) else flat.index_select(0, self._cells())

    def _cells(self) -> Tensor:
        return self.owners * self.width + self.places


class TextEncoder(nn.Module):
    """Reads tokens with a recurrent network (Sutskever et al. 2014; in both directions: Bahdanau et al. 2015).

    Args:
        embedding: `(vocabulary, features)`, shared with the decoder or not.
        stack: the recurrent network over the embedded tokens.
        dropout: of embeddings and outputs.
    """

    def __init__(self, embedding: nn.Embedding, stack: Stack, dropout: Dropout) -> None:
        super().__init__()
        self.embedding, self.stack, self.dropout = embedding, stack, dropout

    def forward(self, tokens: Tensor, mask: Tensor, truncate: int | None = None) -> EncoderOutput:
        """Encodes `tokens` `(batch, positions)`; the summary joins the last state h of every direction. `truncate` as
        in `truncated_scan`."""
        embedded = self.dropout(self.embedding(tokens))
        outputs, state = self.stack(embedded, mask=mask, truncate=truncate)
        summary = torch.cat([direction[0] for direction in state[-1]], dim=-1)
        return EncoderOutput(self.dropout(outputs), mask, summary)


class ImageEncoder(nn.Module):
    """Positions of a grid, or one position that is the whole picture.

    Args:
        channels: features of a position, as the network gives them.
        size: features of a position as the decoder sees them, max(0, W x + b); `None`: those the network gives.
        dropout: of the positions, after the map.
        network: pixels `(pictures, 3, height, width)` → grids `(pictures, positions, channels)`, where it is trained
            with the decoder; `None`: grids are given.
        grid: whether the decoder looks at positions; else it is given their mean as the only one.
        placed: positions, to each of which a learned vector is added, by which the decoder knows where it looks (as
            Gehring et al. 2017, section 3.1, for words); 0: none is.
        spread: deviation of these vectors at first.
    """

    def __init__(
        self,
        channels: int,
        size: int | None,
        dropout: Dropout,
        *,
        network: nn.Module | None = None,
        grid: bool = True,
        placed: int = 0,
        spread: float = 0.1,
    ) -> None:
        super().__init__()
        self.network, self.grid, self.dropout = network, grid, dropout
        self.map = None if size is None else nn.Linear(channels, size)
        self.memory_size = size or channels
        self.places = nn.Parameter(spread * torch.randn(placed, self.memory_size)) if placed else None
        self.kind: Tensor
        self.register_buffer("kind", torch.empty(0), persistent=False)  # of the type that the model computes in

    def forward(self, pictures: Tensor) -> EncoderOutput:
        """Grids `(pictures, positions, channels)`, or pixels where there is a network; the summary is the mean."""
        grids = pictures.to(self.kind.dtype) if self.network is None else self.network(pictures)
        if not self.grid:
            grids = grids.mean(1, keepdim=True)
        states = grids if self.map is None else self.map(grids)
        if self.places is not None:  # before the rectifier, so that the mean, too, says what is where
            states = states + self.places
        states = self.dropout(states if self.map is None else torch.relu(states))
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mean = states.sum(1) / states.shape[1]  # of torch's own, the gradient would be written out for every position
        return EncoderOutput(states, mask, mean)
