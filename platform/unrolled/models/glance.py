"""One look at the whole memory: its summary in a learned vector, and where the decoder reads it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from unrolled.recurrence import Dropout

Enters = Literal["first", "once", "every", "output"]


class Glance(nn.Module):
    """v = W summary + b, which the decoder reads in one of four places:

    - `first`: as its input of a step before the first token (Vinyals et al. 2015, "Show and tell", eq. 10);
    - `once`: beside the first token (Karpathy & Fei-Fei 2015, eq. 14);
    - `every`: beside every token, in a layer of choice (Karpathy's h = f(W_xh x + W_hh h + W_ih v); the factored model
      of Donahue et al. 2015, "LRCN", in an upper one);
    - `output`: after the recurrence, which never sees it (Mao et al. 2015, "m-RNN").

    Args:
        memory_size: features of the summary.
        size: of v. For `first` that of a token's embedding, for `output` that of the decoder's outputs.
        dropout: of v.
    """

    def __init__(self, memory_size: int, size: int, enters: Enters, dropout: Dropout) -> None:
        super().__init__()
        self.map, self.enters, self.dropout = nn.Linear(memory_size, size), enters, dropout

    def forward(self, summary: Tensor) -> Tensor:
        """`(batch, memory_size)` → v `(batch, size)`."""
        seen: Tensor = self.dropout(self.map(summary))
        return seen

    def carried(self, seen: Tensor) -> Tensor | None:
        """What is still to be read at the start, `(batch, size)`; only for `once`, where later steps have zeros."""
        return seen if self.enters == "once" else None

    def beside(self, seen: Tensor, carried: Tensor | None, steps: int) -> Tensor | None:
        """What the recurrence reads besides the tokens of so many steps, `(batch, steps, size)`, or `(batch, 1, size)`
        where it is the same at all of them.

        Args:
            seen: v.
            carried: before these steps, as `carried` returned it or, after the first step, zeros.
        """
        if self.enters == "every":
            return seen[:, None]
        if carried is None:
            return None
        return torch.cat([carried[:, None], carried.new_zeros(len(carried), steps - 1, carried.shape[1])], dim=1)
