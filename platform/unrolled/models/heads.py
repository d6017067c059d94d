"""Heads: what turns a model's vectors into a decision and a loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.product import type_of_products

CHUNK = 256
"""Rows of logits that exist at one time in the loss; small enough that a chunk stays in a core's cache."""


class VocabularyHead(nn.Module):
    """Scores of every token of a vocabulary.

    Args:
        size: features of the vectors it reads.
        vocabulary: how many tokens.
        weight: `(vocabulary, size)` of an embedding to share (Press & Wolf 2017); its own if `None`.
    """

    def __init__(self, size: int, vocabulary: int, weight: Tensor | None = None) -> None:
        super().__init__()
        if weight is not None and tuple(weight.shape) != (vocabulary, size):
            raise ValueError(f"a tied weight is {tuple(weight.shape)}; expected {(vocabulary, size)}")
        self.weight = weight if weight is not None else nn.Parameter(torch.empty(vocabulary, size))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        if weight is None:
            nn.init.normal_(self.weight, std=1 / math.sqrt(size))

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → `(rows, vocabulary)`."""
        return functional.linear(hidden, self.weight, self.bias).log_softmax(-1)

    def loss(self, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy in nats, summed over the rows.

        Args:
            hidden: `(rows, size)`, padding already left out.
            targets: `(rows,)`.
            smoothing: ε of label smoothing (Szegedy et al. 2016): the target distribution is
                (1 − ε) · one-hot + ε · uniform.
        """
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, self.weight, self.bias, targets, smoothing)
        return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear layer, log-softmax and cross-entropy, a few rows at a time.

    The full `(rows, vocabulary)` matrix is never kept: the gradient with respect to a chunk's logits,
    softmax − target distribution, is known as soon as its loss is, so both products with it happen at once and
    the chunk's memory serves the next one.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        vocabulary, kind = len(weight), type_of_products(weight)
        loss = weight.new_zeros(())
        gradients = [torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)] if wanted else []
        narrow_weight, narrow_bias = weight.to(kind), bias.to(kind)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), CHUNK):
                rows, picked = hidden[start : start + CHUNK].to(kind), targets[start : start + CHUNK, None]
                logs = torch.addmm(narrow_bias, rows, narrow_weight.t()).to(weight.dtype).log_softmax(-1)
                loss -= (1 - smoothing) * logs.gather(1, picked).sum()
                if smoothing:
                    loss -= smoothing / vocabulary * logs.sum()
                if wanted:
                    error = logs.exp_().sub_(smoothing / vocabulary) if smoothing else logs.exp_()
                    error.scatter_add_(1, picked, error.new_full((1, 1), smoothing - 1).expand_as(picked))
                    gradients[2] += error.sum(0)
                    error = error.to(kind)
                    gradients[0][start : start + CHUNK] = error @ narrow_weight
                    if kind == weight.dtype:
                        gradients[1].addmm_(error.t(), rows)
                    else:
                        gradients[1] += error.t() @ rows
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (*(gradient * outer[0] for gradient in ctx.saved_tensors), None, None)
