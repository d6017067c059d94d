"""The scores of `Attention` one step at a time, with their derivatives by hand, for `feeding`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from unrolled.models.attention import Attention
from unrolled.recurrence import compiled
from unrolled.recurrence.product import Product, weight_gradient


class Scores(ABC):
    """How every step's query is compared with the keys `(batch, positions, features)`."""

    @abstractmethod
    def forward(self, t: int, query: Tensor) -> Tensor:
        """The query `(batch, query)` of step t → scores `(batch, positions)`."""

    @abstractmethod
    def backward(self, t: int, errors: Tensor) -> Tensor:
        """∂L/∂scores of step t → ∂L/∂query."""

    @abstractmethod
    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        """Of the keys and of the parameters, from the queries `(time, batch, query)` and ∂L/∂scores of all steps."""


class ScaledProducts(Scores):
    """qᵀ k / √d: of `dot` and `general`."""

    def __init__(self, keys: Tensor) -> None:
        self._keys, self._scale = keys, 1 / math.sqrt(keys.shape[-1])

    def forward(self, t: int, query: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(self._keys, query[:, :, None])[:, :, 0].mul_(self._scale)

    def backward(self, t: int, errors: Tensor) -> Tensor:  # noqa: ARG002
        return torch.bmm(errors[:, None], self._keys)[:, 0].mul_(self._scale)

    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        return (torch.bmm(errors.permute(1, 2, 0), queries.transpose(0, 1)).mul_(self._scale),)


class Additive(Scores):
    """vᵀ tanh(U q + b + k); the tanh is computed again on the way back, so that one step's is held at a time."""

    def __init__(self, attention: Attention, keys: Tensor, steps: int, *, half: bool) -> None:
        self._keys, self._half, self._fast = keys.contiguous(), half, compiled.can_look(keys.contiguous())
        self._map, self._vector = attention.query, attention.weight.detach()
        weight, shape = self._map.weight.detach(), (len(keys), steps, half)
        self._into, self._back = Product(weight, *shape), Product(weight.t(), *shape)
        self._mapped = keys.new_empty(steps, len(keys), len(weight))  # U q + b, and on the way back its gradient
        self._into_keys, self._into_vector = torch.zeros_like(self._keys), torch.zeros_like(self._vector)

    def _squashed(self, t: int) -> Tensor:
        return (self._mapped[t][:, None] + self._keys).tanh_()

    def forward(self, t: int, query: Tensor) -> Tensor:
        torch.add(self._into(query), self._map.bias, out=self._mapped[t])
        if self._fast:
            return compiled.additive_scores(self._mapped[t], self._keys, self._vector)
        return self._squashed(t) @ self._vector

    def backward(self, t: int, errors: Tensor) -> Tensor:
        if self._fast:
            given = self._mapped[t], self._keys, self._vector, errors, self._into_keys
            self._mapped[t], into_vector = compiled.additive_errors(*given)
            self._into_vector += into_vector
            return self._back(self._mapped[t])
        squashed = self._squashed(t)
        self._into_vector += errors.flatten() @ squashed.flatten(0, 1)
        into = squashed.square_().neg_().add_(1).mul_(self._vector).mul_(errors[:, :, None])
        self._into_keys += into
        torch.sum(into, 1, out=self._mapped[t])
        return self._back(self._mapped[t])

    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        weight, mapped = torch.empty_like(self._map.weight), self._mapped.flatten(0, 1)
        weight_gradient(mapped.bfloat16() if self._half else mapped, queries.flatten(0, 1), weight)
        return self._into_keys, weight, mapped.sum(0), self._into_vector
