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

    def __init__(
        self, attention: Attention, keys: Tensor, steps: int, *, half: bool, owners: Tensor | None = None
    ) -> None:
        keys = keys.contiguous()
        self._half, self._fast = half, compiled.can_look(keys)
        self._keys = compiled.powers(keys) if self._fast else keys
        self._owners, self._map, self._vector = owners, attention.query, attention.weight.detach()
        batch = len(keys) if owners is None else len(owners)
        weight, shape = self._map.weight.detach(), (batch, steps, half)
        self._into, self._back = Product(weight, *shape), Product(weight.t(), *shape)
        self._mapped = keys.new_empty(steps, batch, len(weight))  # U q + b, or its powers where the keys are such
        self._into_mapped = torch.empty_like(self._mapped)
        if not self._fast:
            self._into_keys, self._into_vector = torch.zeros_like(self._keys), torch.zeros_like(self._vector)

    def _squashed(self, t: int) -> Tensor:
        return (self._mapped[t][:, None] + self._keys).tanh_()

    def forward(self, t: int, query: Tensor) -> Tensor:
        torch.add(self._into(query), self._map.bias, out=self._mapped[t])
        if self._fast:
            compiled.powers(self._mapped[t], into=self._mapped[t])
            return compiled.additive_scores(self._mapped[t], self._keys, self._vector, self._owners)
        return self._squashed(t) @ self._vector

    def backward(self, t: int, errors: Tensor) -> Tensor:
        if self._fast:
            given = self._mapped[t], self._keys, self._vector, errors, self._owners
            self._into_mapped[t] = compiled.additive_queries(*given)
            return self._back(self._into_mapped[t])
        squashed = self._squashed(t)
        self._into_vector += errors.flatten() @ squashed.flatten(0, 1)
        into = squashed.square_().neg_().add_(1).mul_(self._vector).mul_(errors[:, :, None])
        self._into_keys += into
        torch.sum(into, 1, out=self._into_mapped[t])
        return self._back(self._into_mapped[t])

    def gradients(self, queries: Tensor, errors: Tensor) -> tuple[Tensor, ...]:
        if self._fast:  # of all steps at once, so that the keys pass through the processor once
            given = self._mapped, self._keys, self._vector, errors, self._owners
            into_keys, into_vector = compiled.additive_keys(*given)
        else:
            into_keys, into_vector = self._into_keys, self._into_vector
        weight, mapped = torch.empty_like(self._map.weight), self._into_mapped.flatten(0, 1)
        weight_gradient(mapped.bfloat16() if self._half else mapped, queries.flatten(0, 1), weight)
        return into_keys, weight, mapped.sum(0), into_vector
