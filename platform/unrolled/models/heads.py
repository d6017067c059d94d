"""Vocabulary heads: losses in training, scores of a search.

A vocabulary head made ready for the many steps of a search.

Heads: what turns a model's vectors into a decision and a loss.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled import native
from unrolled.recurrence.matmul import matmul_dtype, weight_gradient

Precision = Literal["float32", "bfloat16", "int8"]
"""What the outputs and the matrix are rounded to before they are multiplied; `float32` leaves them as they are."""


class Scorer:
    """Scores of every token, and the best of them in the same pass.

    On CPUs with the instructions for it, compiled code keeps the matrix packed and no row's result depends on the rows
    beside it. Elsewhere torch does the same, with outputs in the head's own type where the precision is int8.

    Args:
        weight: `(vocabulary, features)`.
        bias: `(vocabulary,)`.
        precision: int8 gives every row of the matrix, and of the outputs, a unit of its own: its largest size / 127.

    Attributes:
        vocabulary, features: the matrix's sizes.
        dtype: of the outputs that it takes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: Precision) -> None:
        (self.vocabulary, self.features), self.dtype = weight.shape, weight.dtype
        self._bias = bias
        packs = weight.dtype == torch.float32 and weight.device.type == "cpu" and native.ranking_supported(precision)
        self._ranking = native.Ranking(weight, bias, precision) if packs else None
        self._weight = weight if packs else _rounded(weight, precision)

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks the vocabulary for every row.

        Args:
            outputs: `(rows, features)`.
            never: `(vocabulary,)`, True for what is not among the best; it counts in the sums all the same.

        Returns:
            What `logsumexp` gives of the logits `(rows,)`, and what `best` does.
        """
        if self._ranking is not None:
            return self._ranking.topk(outputs, count, excluded)
        logits = self._multiply(outputs)
        return logsumexp(logits), *topk(logits.masked_fill(excluded, -float("inf")), count)

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `logsumexp` gives of the logits `(rows,)`, and the logits `(rows, vocabulary)`."""
        if self._ranking is not None:
            return self._ranking.logits(outputs)
        logits = self._multiply(outputs)
        return logsumexp(logits), logits

    def _multiply(self, outputs: Tensor) -> Tensor:
        kind, weight = self._bias.dtype, self._weight
        return functional.linear(outputs.to(weight.dtype), weight).to(kind) + self._bias


def _rounded(weight: Tensor, precision: Precision) -> Tensor:
    if precision == "int8":
        unit = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
        return (weight / unit).round() * unit
    return weight.bfloat16() if precision == "bfloat16" else weight


def logsumexp(logits: Tensor) -> Tensor:
    """Returns what makes log-probabilities of logits when it is subtracted, log Σ exp, `(rows,)`."""
    sums = native.logsumexp(logits)
    return logits.logsumexp(1) if sums is None else sums


def topk(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the `count` largest logits of each row, falling, and their tokens, `(rows, count)` both."""
    found = native.topk(logits, count)
    if found is not None:
        return found
    if count == 1:  # the first of equals, which topk does not promise
        values, tokens = logits.max(1, keepdim=True)
        return values, tokens
    values, tokens = logits.topk(count)
    return values, tokens


CHUNK, NARROW_CHUNK = 1024, 2048
"""Rows of logits that exist at one time in the loss: a few megabytes, which the size of a batch does not change. Each
chunk passes over the weights and their gradient once more, so that short ones cost time."""


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

    def logits(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → scores `(rows, vocabulary)`, of which a softmax makes probabilities."""
        return functional.linear(hidden, self.weight, self.bias)

    def scorer(self, precision: Precision) -> Scorer:
        """Makes the head, as it is now, ready for many steps of a search."""
        return Scorer(self.weight, self.bias, precision)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """`(rows, size)` → `(rows, vocabulary)`."""
        return self.logits(hidden).log_softmax(-1)

    def loss(self, hidden: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats, summed over the rows. While training, its gradient can be asked for once.

        Args:
            hidden: `(rows, size)`, padding already left out.
            targets: `(rows,)`.
            smoothing: ε of label smoothing (Szegedy et al. 2016): the target distribution is
                (1 − ε) · one-hot + ε · uniform.
            weights: of the rows in the sum `(rows,)`, constants; `None`: 1 each.
        """
        return cross_entropy(hidden, self.weight, self.bias, targets, smoothing, weights, once=self.training)

    def candidate_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """`(rows, size)` → scores of a few tokens a row, by number, `(rows, few)`."""
        return torch.einsum("rs,rfs->rf", hidden, functional.embedding(tokens, self.weight)) + self.bias[tokens]


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
    """`VocabularyHead.loss` by a matrix `(choices, size)` and a bias `(choices,)`; `once`: its gradient can be asked
    for once."""
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, smoothing, weights, once)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear layer, log-softmax and cross-entropy, a few rows at a time.

    The full `(rows, vocabulary)` matrix is never kept: the gradient with respect to a chunk's logits,
    softmax − target distribution, is known as soon as its loss is, so both products with it happen at once and
    the chunk's memory serves the next one.
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
        wanted = any(ctx.needs_input_grad)
        kind = matmul_dtype(weight)
        narrow = kind != weight.dtype
        chunk = NARROW_CHUNK if narrow else CHUNK
        loss = weight.new_zeros(())
        fresh = torch.empty_like if len(hidden) else torch.zeros_like  # the first chunk fills it
        gradients = [torch.empty_like(hidden), fresh(weight), torch.zeros_like(bias)] if wanted else []
        narrow_weight = weight.to(kind)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows, picked = hidden[start : start + chunk].to(kind), targets[start : start + chunk]
                logits = rows @ narrow_weight.t()
                error, losses, into_bias = _errors(logits, bias, picked, smoothing)
                if weights is not None:
                    counts = weights[start : start + chunk]
                    error, losses = error.mul_(counts[:, None]), losses * counts
                    into_bias = error.sum(0, dtype=bias.dtype)
                loss += losses.sum()
                if wanted:
                    gradients[2] += into_bias
                    gradients[0][start : start + chunk] = error @ narrow_weight
                    if start == 0:
                        weight_gradient(error, rows, gradients[1])
                    elif narrow:
                        gradients[1] += error.t() @ rows
                    else:
                        gradients[1].addmm_(error.t(), rows)
        ctx.gradients, ctx.once = gradients, once
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("while training, the gradient of a loss over a vocabulary can be asked for once")
        if ctx.once:  # in place, and given away, so that other gradients of a tied matrix can be added in place too
            ctx.gradients = None
            return (*(gradient.mul_(outer[0]) for gradient in gradients), None, None, None, None)
        return (*(gradient * outer[0] for gradient in gradients), None, None, None, None)


def _errors(logits: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """softmax − target distribution, which may take the memory of the logits; the loss of every row; and the gradient
    of the bias, which the logits are without."""
    done = native.cross_entropy(logits, bias, targets, smoothing)
    if done is not None:
        return logits, *done
    logs, picked = (logits.to(bias.dtype) + bias).log_softmax(-1), targets[:, None]
    losses = -(1 - smoothing) * logs.gather(1, picked)[:, 0]
    if smoothing:
        losses -= smoothing / len(bias) * logs.sum(1)
    error = logs.exp_().sub_(smoothing / len(bias)) if smoothing else logs.exp_()
    error.scatter_add_(1, picked, error.new_full((1, 1), smoothing - 1).expand_as(picked))
    return error.to(logits.dtype), losses, error.sum(0)
