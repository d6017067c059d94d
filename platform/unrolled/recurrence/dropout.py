"""Dropout (Srivastava et al. 2014), plain or the same at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence import compiled


class Dropout(nn.Module):
    """Sets a share of values to 0 while training and scales the others up, so that their mean stays.

    Args:
        share: of values that are dropped.
        variational: draw one mask a sequence and keep it over all of its steps (Gal & Ghahramani 2016), which also
            costs next to nothing to draw.
    """

    def __init__(self, share: float, *, variational: bool = False) -> None:
        super().__init__()
        self.share, self.variational = share, variational

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, time, features)`, or `(batch, features)` for a single step."""
        if not self.training or self.share == 0:
            return values
        if not self.variational or values.ndim != 3:
            dropped = compiled.drop(values, self.share)
            return functional.dropout(values, self.share) if dropped is None else dropped
        kept = torch.rand(len(values), 1, values.shape[-1], device=values.device) >= self.share
        return values * (kept / (1 - self.share)).to(values.dtype)

    def extra_repr(self) -> str:
        return f"{self.share}, variational={self.variational}"
