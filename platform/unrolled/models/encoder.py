"""Encoders: an input becomes a `Memory`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.models.memory import Memory
from unrolled.recurrence import Dropout, Stack


class TextEncoder(nn.Module):
    """Reads tokens with a recurrent network (Sutskever et al. 2014; in both directions: Bahdanau et al. 2015).

    Args:
        embedding: `(vocabulary, features)`, shared with the decoder or not.
        stack: the recurrent network over the embedded tokens.
        dropout: of embeddings and outputs.
    """

    def __init__(self, embedding: nn.Embedding, stack: Stack, dropout: Dropout) -> None:
        super().__init__()
        self.embedding, self.stack, self.dropout = embedding, stack, dropout

    def forward(self, tokens: Tensor, mask: Tensor, truncate: int | None = None) -> Memory:
        """Encodes `tokens` `(batch, positions)`; the summary joins the last state h of every direction. `truncate` as
        in `truncated_scan`."""
        embedded = self.dropout(self.embedding(tokens))
        outputs, state = self.stack(embedded, mask=mask, truncate=truncate)
        summary = torch.cat([direction[0] for direction in state[-1]], dim=-1)
        return Memory(self.dropout(outputs), mask, summary)
