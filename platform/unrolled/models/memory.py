"""What an encoder hands to a decoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class Memory:
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

    def leaf(self) -> Memory:
        """The same values, those with a graph cut from it and ready to gather gradients of their own."""
        cut = {name: value.detach().requires_grad_() for name, value in self._learned().items()}
        return replace(self, **cut)

    def behind(self, leaf: Memory) -> Tensor:
        """A loss of zero whose backward pass sends the gradients that `leaf` has gathered on into the encoder."""
        gathered = {name: value.grad for name, value in leaf._learned().items() if value.grad is not None}
        values = self._learned()
        zero: Tensor = _Behind.apply(self.summary.detach(), gathered.values(), *(values[name] for name in gathered))
        return zero

    def _learned(self) -> dict[str, Tensor]:
        values = {"states": self.states, "summary": self.summary, "keys": self.keys, "glance": self.glance}
        return {name: value for name, value in values.items() if value is not None and value.requires_grad}

    def select(self, rows: Tensor) -> Memory:
        """Takes the examples `rows` `(n,)`."""
        keys, glance = (None if value is None else nest.taken(value, rows) for value in (self.keys, self.glance))
        states, mask, summary = (nest.taken(value, rows) for value in (self.states, self.mask, self.summary))
        return Memory(states, mask, summary, keys, glance, nest.select(self.read, rows))


class _Behind(torch.autograd.Function):
    """Zero. Its gradients are those given, whatever comes in: the losses that they are from were scaled already."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, gradients: Iterable[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return like.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, None, *ctx.gradients
