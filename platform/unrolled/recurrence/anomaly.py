"""Where numbers stopped being finite: looked for while torch detects anomalies, as it costs a pass over the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NotFinite(FloatingPointError):
    """A value is infinite or not a number.

    Attributes:
        stack: where it stands.
        what: such as `the input of layer 1`.
        step, example: counted from 1.
    """

    def __init__(self, stack: nn.Module, what: str, step: int, example: int) -> None:
        super().__init__(f"{what} is not finite at step {step} of example {example}")
        self.stack, self.what, self.step, self.example = stack, what, step, example


def refuse_non_finite(stack: nn.Module, what: str, values: Tensor, mask: Tensor | None) -> None:
    """Looks for the first step with a value that is not finite, if `torch.autograd.set_detect_anomaly` is on.

    Args:
        stack: that works on the values.
        what: the values are called.
        values: `(batch, time, features)`.
        mask: `(batch, time)`, bool; padding may hold anything.

    Raises:
        NotFinite: there is one.
    """
    if not torch.is_anomaly_enabled():
        return
    wrong = ~values.isfinite().all(-1)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        step, example = (int(place) + 1 for place in wrong.t().nonzero()[0])
        raise NotFinite(stack, what, step, example)
