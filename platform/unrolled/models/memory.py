"""What an encoder hands to a decoder."""

from __future__ import annotations

from dataclasses import dataclass

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

    def select(self, rows: Tensor) -> Memory:
        """Takes the examples `rows` `(n,)`."""
        keys = None if self.keys is None else self.keys[rows]
        return Memory(self.states[rows], self.mask[rows], self.summary[rows], keys)
