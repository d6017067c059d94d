"""Dropout and zoneout.

Dropout (Srivastava et al. 2014), plain or the same at every step.

Zoneout: some values of the state stay as they were (Krueger et al., "Zoneout: regularizing RNNs by randomly
preserving hidden activations", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled import native
from unrolled.recurrence.cell import State


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
            dropped = native.dropout(values, self.share)
            return functional.dropout(values, self.share) if dropped is None else dropped
        kept = torch.rand(len(values), 1, values.shape[-1], device=values.device) >= self.share
        return values * (kept / (1 - self.share)).to(values.dtype)

    def extra_repr(self) -> str:
        return f"{self.share}, variational={self.variational}"


@dataclass(frozen=True)
class Zoneout:
    """What a scan keeps of the old state at every step.

    Attributes:
        share: of the values; in evaluation, the weight of the old state in the new one, its expectation.
        kept: while training, for every tensor of the state, where the old value stays: `(time, batch, hidden)`, bool.
    """

    share: float
    kept: tuple[Tensor, ...] | None

    @classmethod
    def draw(cls, share: float, steps: int, state: State, *, training: bool) -> Zoneout | None:
        """Draws the places for so many steps; `None` where there is nothing to keep."""
        if share == 0:
            return None
        if not training:
            return cls(share, None)
        drawn = (torch.rand(steps, *tensor.shape, device=tensor.device) < share for tensor in state)
        return cls(share, tuple(drawn))

    def mixed(self, t: int, new: State, old: State) -> State:
        """The state after step t, of what the cell made and what was there before."""
        if self.kept is None:
            return tuple(torch.lerp(a, b, self.share) for a, b in zip(new, old, strict=True))
        return tuple(torch.where(kept[t], b, a) for a, b, kept in zip(new, old, self.kept, strict=True))

    def mix(self, t: int, new: State, old: State, into: State) -> None:
        """`mixed` into given memory."""
        for place, value in zip(into, self.mixed(t, new, old), strict=True):
            place.copy_(value)

    def split(self, t: int, gradient: State) -> tuple[State, list[Tensor]]:
        """The derivative of `mixed`: the gradients of what the cell made and of what was there before."""
        if self.kept is None:
            return tuple(g * (1 - self.share) for g in gradient), [g * self.share for g in gradient]
        pairs: Sequence[tuple[Tensor, Tensor]] = list(zip(gradient, (kept[t] for kept in self.kept), strict=True))
        return tuple(g.masked_fill(kept, 0) for g, kept in pairs), [g * kept for g, kept in pairs]
