"""A second recurrence that remembers what has been said of a picture (Chen & Zitnick 2015, "Mind's eye")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.recurrence import Stack


class VisualMemory(nn.Module):
    """u_t = f(word_t, u_{t−1}), trained so that a linear map of it is the picture's feature: ṽ_t ≈ v.

    It never sees the picture, and v stays the same from step to step while words come and go: so it changes slowly
    and keeps what the sentence has shown of the picture so far. The decoder, which sees the picture, reads u_t beside
    its own state before it chooses the next word.

    Args:
        stack: f.
        memory_size: features of v.
    """

    def __init__(self, stack: Stack, memory_size: int) -> None:
        super().__init__()
        self.stack, self.recall = stack, nn.Linear(stack.output_size, memory_size)

    def errors(self, remembered: Tensor, summary: Tensor) -> Tensor:
        """Mean squares of ṽ_t − v, where v is brought to a mean square of 1, whatever network it is from.

        Args:
            remembered: u, `(batch, time, hidden)`.
            summary: the picture's feature, `(batch, memory_size)`; nothing is learned through it.

        Returns:
            `(batch, time)`.
        """
        size = summary.detach().square().mean(-1, keepdim=True).sqrt().clamp(min=torch.finfo(summary.dtype).tiny)
        wanted = (summary.detach() / size)[:, None]
        errors: Tensor = (self.recall(remembered) - wanted).square().mean(-1)
        return errors
