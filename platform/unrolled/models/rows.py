"""Which example each row of a decoding step belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """`(rows, …)` → `(n, width, …)`; `fill` stands where an example has fewer rows."""
        shape = (self.examples, self.width, *values.shape[1:])
        if len(self) == self.examples * self.width:
            return values.view(shape)
        table = values.new_full((self.examples * self.width, *values.shape[1:]), fill)
        return table.index_copy_(0, self._cells(), values).view(shape)

    def gather(self, table: Tensor) -> Tensor:
        """`(n, width, …)` → `(rows, …)`: undoes `spread`."""
        flat = table.flatten(0, 1)
        return flat if len(self) == len(flat) else flat.index_select(0, self._cells())

    def _cells(self) -> Tensor:
        return self.owners * self.width + self.places
