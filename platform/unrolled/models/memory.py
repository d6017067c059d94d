"""What an encoder hands to a decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """An encoded input, one row an example.

    Attributes:
        states: `(batch, positions, features)`, what attention looks at.
        mask: `(batch, positions)`, False on padding.
        summary: `(batch, features)`, the whole input in one vector.
        keys: `(batch, positions, hidden)`, the states as the decoder's attention compares them, made once an
            input by `Decoder.prepare`.
    """

    states: Tensor
    mask: Tensor
    summary: Tensor
    keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def leaf(self) -> Memory:
        """The same values cut from the graph, ready to gather gradients of their own."""
        cut = {name: value.detach().requires_grad_() for name, value in self._learned().items()}
        return replace(self, **cut)

    def backward(self, leaf: Memory) -> None:
        """Sends the gradients that `leaf` has gathered on into the encoder."""
        gathered = leaf._learned()
        reached = {name: value for name, value in self._learned().items() if gathered[name].grad is not None}
        if reached:
            torch.autograd.backward(list(reached.values()), [gathered[name].grad for name in reached])

    def _learned(self) -> dict[str, Tensor]:
        values = {"states": self.states, "summary": self.summary, "keys": self.keys}
        return {name: value for name, value in values.items() if value is not None}

    def select(self, rows: Tensor) -> Memory:
        """Takes the examples `rows` `(n,)`."""
        keys = None if self.keys is None else self.keys[rows]
        return Memory(self.states[rows], self.mask[rows], self.summary[rows], keys)
