"""What attention saw, fed into the recurrence (Xu et al. 2015, "Show, attend and tell")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.models.rows import Rows


class ContextFeeding(nn.Module):
    """ẑ_t = β_t Σ_p α_tp s_p with α_t = softmax(score(h_{t−1}, keys)): the state before a step looks, and what it saw
    enters the step beside the token.

    The gate β_t = σ(w h_{t−1} + b) lets words that owe nothing to the picture ignore it (their section 4.2.1).

    Args:
        hidden: features of h.
        gated: else β = 1.
    """

    def __init__(self, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, 1) if gated else None

    def forward(self, attention: Attention, hidden: Tensor, memory: Memory, rows: Rows) -> tuple[Tensor, Tensor]:
        """`hidden` h_{t−1} `(rows, hidden)` → ẑ_t `(rows, memory_size)` and α_t `(rows, positions)`."""
        seen, weights = attention(rows.spread(hidden), memory)
        context = rows.gather(seen)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return context, rows.gather(weights)
