"""Dropout (Srivastava et al. 2014) and zoneout (Krueger et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled import native
from unrolled.recurrence.cell import State


class Dropout(nn.Module):
    """Dropout, with a new mask per step or one mask per sequence.

    Args:
        p: probability of a value to be set to 0 in training; the others are scaled up so that the mean stays.
        variational: draw one mask per sequence and use it at all steps (Gal & Ghahramani 2016), which also costs next
            to nothing to draw.
    """

    def __init__(self, p: float, *, variational: bool = False) -> None:
        super().__init__()
        self.p, self.variational = p, variational

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, time, features)`, or `(batch, features)` for a single step."""
        if not self.training or self.p == 0:
            return values
        if not self.variational or values.ndim != 3:
            dropped = native.dropout(values, self.p)
            return functional.dropout(values, self.p) if dropped is None else dropped
        keep = torch.rand(len(values), 1, values.shape[-1], device=values.device) >= self.p
        return values * (keep / (1 - self.p)).to(values.dtype)

    def extra_repr(self) -> str:
        return f"{self.p}, variational={self.variational}"


@dataclass(frozen=True)
class Zoneout:
    """Zoneout of a scan: random values of the state keep their previous value (Krueger et al., "Zoneout: regularizing
    RNNs by randomly preserving hidden activations", 2017).

    Attributes:
        p: probability to keep a value; in evaluation, the weight of the old state in the new one, its expectation.
        masks: in training, per tensor of the state where the old value stays: `(time, batch, hidden)`, bool.
    """

    p: float
    masks: tuple[Tensor, ...] | None

    @classmethod
    def draw(cls, p: float, steps: int, state: State, *, training: bool) -> Zoneout | None:
        """Draws the masks of so many steps; `None` for p = 0."""
        if p == 0:
            return None
        if not training:
            return cls(p, None)
        masks = (torch.rand(steps, *tensor.shape, device=tensor.device) < p for tensor in state)
        return cls(p, tuple(masks))

    def mix(self, t: int, new: State, old: State) -> State:
        """Returns the state after step t, from the cell's new state and the old one."""
        if self.masks is None:
            return tuple(torch.lerp(a, b, self.p) for a, b in zip(new, old, strict=True))
        return tuple(torch.where(mask[t], b, a) for a, b, mask in zip(new, old, self.masks, strict=True))

    def backward(self, t: int, gradient: State) -> tuple[State, list[Tensor]]:
        """Derivative of `mix`: the gradients of the cell's new state and of the old one."""
        if self.masks is None:
            return tuple(g * (1 - self.p) for g in gradient), [g * self.p for g in gradient]
        masks = [mask[t] for mask in self.masks]
        pairs = list(zip(gradient, masks, strict=True))
        return tuple(g.masked_fill(mask, 0) for g, mask in pairs), [g * mask for g, mask in pairs]
