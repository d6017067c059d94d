"""What matrices are multiplied in while training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from unrolled.config.training import Precision
from unrolled.recurrence.product import multiplies_bfloat16
from unrolled.training.comm import Comm

NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(precision: Precision, device: torch.device, comm: Comm) -> Precision:
    """Returns what `auto` stands for: bfloat16 where every worker has matrix units for it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if all(comm.gather(multiplies_bfloat16(device))) else "float32"


def narrowed(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """While open, matrices are multiplied in the narrow type, if the precision is one."""
    kind = NARROW.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)


@dataclass
class LossScale:
    """What a loss is multiplied by so that its gradient does not vanish in float16 (Micikevicius et al. 2018): halved
    whenever that was too much, doubled after a long time of finite gradients.

    Attributes:
        value: the factor; 1 wherever float16 is not used.
        good: updates since it changed.
    """

    value: float = 1.0
    good: int = 0

    PATIENCE = 2000

    def passed(self) -> None:
        """Counts a finite gradient."""
        self.good += 1
        if self.good == self.PATIENCE:
            self.value, self.good = self.value * 2, 0

    def failed(self) -> None:
        """Lowers the scale after a gradient that was not finite."""
        self.value, self.good = max(1.0, self.value / 2), 0
