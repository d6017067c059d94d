"""Averages of parameters, which often do better than the parameters themselves (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """ā ← d · ā + (1 − d) · parameter after every update, with d = min(decay, (1 + step) / (10 + step)), so that the
    first parameters, which know nothing, are soon forgotten.

    Args:
        decay: 0 for none: then all of this does nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = list(model.parameters()) if decay else []
        self._places = {parameter: place for place, parameter in enumerate(self._parameters)}
        self._decay = decay
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in self._parameters]

    def share(self, step: int) -> float:
        """1 − d of the update number `step`, from 0."""
        return 1 - min(self._decay, (1 + step) / (10 + step))

    def of(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The averages of some parameters."""
        return [self.values[self._places[parameter]] for parameter in parameters] if self.values else []

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Takes in the parameters of a finished update, the number `step` from 0."""
        if self.values:
            torch._foreach_lerp_(self.values, self._parameters, self.share(step))

    @torch.no_grad()
    def restart(self) -> None:
        """Takes the parameters as they are for the averages."""
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the model's parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for place, parameter in enumerate(self._parameters):
            parameter.data, self.values[place] = self.values[place], parameter.data
