"""Vocabulary heads: logits and losses over a vocabulary, and their scorers for the steps of a search."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled import native
from unrolled.recurrence.matmul import matmul_dtype, weight_gradient

Precision = Literal["float32", "bfloat16"]
"""Type that outputs and matrix are rounded to before they are multiplied; `float32` does not round."""


class VocabularyHead(nn.Module):
    """A linear layer with scores of every token of a vocabulary.

    Args:
        size: features of the vectors it reads.
        vocabulary: number of tokens.
        weight: `(vocabulary, size)` of an embedding to share (Press & Wolf 2017); its own if `None`.

    Raises:
        ValueError: the shape of `weight` does not fit.
    """

    def __init__(self, size: int, vocabulary: int, weight: Tensor | None = None) -> None:
        super().__init__()
        if weight is not None and tuple(weight.shape) != (vocabulary, size):
            raise ValueError(f"a tied weight is {tuple(weight.shape)}; expected {(vocabulary, size)}")
        self.weight = weight if weight is not None else nn.Parameter(torch.empty(vocabulary, size))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        if weight is None:
            nn.init.normal_(self.weight, std=1 / math.sqrt(size))

    def logits(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → logits `(rows, vocabulary)`."""
        return functional.linear(hidden, self.weight, self.bias)

    def scorer(self, precision: Precision) -> Scorer:
        """Returns a scorer with the current parameters, for many steps of a search."""
        return Scorer(self.weight, self.bias, precision)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → `(rows, vocabulary)`."""
        return self.logits(hidden).log_softmax(-1)

    def loss(self, hidden: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Returns the summed cross-entropy (nats). In training, its gradient can be computed once.

        Args:
            hidden: `(rows, size)`, without padding.
            targets: `(rows,)`.
            smoothing: ε of label smoothing (Szegedy et al. 2016): the target distribution is
                (1 − ε) · one-hot + ε · uniform.
            weights: constant weights of the rows in the sum `(rows,)`; `None`: 1 each.
        """
        return cross_entropy(hidden, self.weight, self.bias, targets, smoothing, weights, once=self.training)

    def candidate_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """`(rows, size)` → logits of a few tokens per row, `(rows, few)`."""
        return torch.einsum("rs,rfs->rf", hidden, functional.embedding(tokens, self.weight)) + self.bias[tokens]


CHUNK, BF16_CHUNK = 1024, 2048
"""Rows of logits that exist at a time in the loss, in float32 and in bfloat16: a few megabytes for any batch size. Each
chunk passes over the weights and their gradient once more, so that short ones take longer."""


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    *,
    once: bool,
) -> Tensor:
    """`VocabularyHead.loss` for a matrix `(choices, size)` and a bias `(choices,)`; `once`: its gradient can be
    computed once, in place."""
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, smoothing, weights, once)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear layer, log-softmax and cross-entropy, a few rows at a time.

    The full `(rows, vocabulary)` matrix is never stored: the gradient with respect to a chunk's logits, softmax −
    target distribution, is computed together with its loss, so that both products with it follow at once and the
    chunk's memory is reused by the next one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        weights: Tensor | None,
        once: bool,
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        dtype = matmul_dtype(weight)
        narrow = dtype != weight.dtype
        chunk = BF16_CHUNK if narrow else CHUNK
        loss = weight.new_zeros(())
        allocate = torch.empty_like if len(hidden) else torch.zeros_like  # filled by the first chunk
        gradients = [torch.empty_like(hidden), allocate(weight), torch.zeros_like(bias)] if needs_grad else []
        operand = weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows = slice(start, start + chunk)
                x = hidden[rows].to(dtype)
                grad, losses, grad_bias = _logit_gradients(x @ operand.t(), bias, targets[rows], smoothing)
                if weights is not None:
                    grad, losses = grad.mul_(weights[rows, None]), losses * weights[rows]
                    grad_bias = grad.sum(0, dtype=bias.dtype)
                loss += losses.sum()
                if needs_grad:
                    gradients[2] += grad_bias
                    gradients[0][rows] = grad @ operand
                    if start == 0:
                        weight_gradient(grad, x, gradients[1])
                    elif narrow:
                        gradients[1] += grad.t() @ x
                    else:
                        gradients[1].addmm_(grad.t(), x)
        ctx.gradients, ctx.once = gradients, once
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("in training, the gradient of a loss over a vocabulary can be computed once")
        if ctx.once:  # in place and released, so that other gradients of a tied matrix can be added in place too
            ctx.gradients = None
            return (*(gradient.mul_(outer[0]) for gradient in gradients), None, None, None, None)
        return (*(gradient * outer[0] for gradient in gradients), None, None, None, None)


def _logit_gradients(logits: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns softmax − target distribution, maybe in the memory of the logits; the loss of every row; and the gradient
    of the bias, which the logits do not contain."""
    computed = native.cross_entropy(logits, bias, targets, smoothing)
    if computed is not None:
        return logits, *computed
    logs, index = (logits.to(bias.dtype) + bias).log_softmax(-1), targets[:, None]
    losses = -(1 - smoothing) * logs.gather(1, index)[:, 0]
    if smoothing:
        losses -= smoothing / len(bias) * logs.sum(1)
    grad = logs.exp_().sub_(smoothing / len(bias)) if smoothing else logs.exp_()
    grad.scatter_add_(1, index, grad.new_full((1, 1), smoothing - 1).expand_as(index))
    return grad.to(logits.dtype), losses, grad.sum(0)


class Scorer:
    """Logits of a vocabulary, their log Σ exp and the largest of them in one pass, for the steps of a search.

    On CPUs with the required instructions, compiled code keeps the matrix packed and no row's result depends on the
    other rows. Elsewhere torch computes the same.

    Args:
        weight: `(vocabulary, features)`.
        bias: `(vocabulary,)`.

    Attributes:
        vocabulary, features: sizes of the matrix.
        dtype: of the outputs that it takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: Precision) -> None:
        (self.vocabulary, self.features), self.dtype = weight.shape, weight.dtype
        self._bias = bias
        packed = weight.dtype == torch.float32 and weight.device.type == "cpu" and native.ranking_supported(precision)
        self._ranking = native.Ranking(weight, bias, precision) if packed else None
        self._weight = weight.bfloat16() if precision == "bfloat16" and not packed else weight

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Finds the largest logits of every row.

        Args:
            outputs: `(rows, features)`.
            excluded: `(vocabulary,)`, True for tokens left out of the largest, not of log Σ exp.

        Returns:
            log Σ exp of the logits `(rows,)`, and their `topk`.
        """
        if self._ranking is not None:
            return self._ranking.topk(outputs, count, excluded)
        logits = self._multiply(outputs)
        return logits.logsumexp(1), *topk(logits.masked_fill(excluded, -float("inf")), count)

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log Σ exp of the logits `(rows,)`, and the logits `(rows, vocabulary)`."""
        if self._ranking is not None:
            return self._ranking.logits(outputs)
        logits = self._multiply(outputs)
        return logits.logsumexp(1), logits

    def _multiply(self, outputs: Tensor) -> Tensor:
        product = functional.linear(outputs.to(self._weight.dtype), self._weight)
        return product.to(self._bias.dtype) + self._bias


def topk(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest logits of each row in descending order, and their tokens, `(rows, count)` both."""
    # `max` returns the first of equals, which `topk` does not guarantee.
    values, tokens = logits.max(1, keepdim=True) if count == 1 else logits.topk(count)
    return values, tokens
