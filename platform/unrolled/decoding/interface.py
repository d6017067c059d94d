"""What a model must offer to be searched over."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

from torch import Tensor

from unrolled.recurrence.state import Nest


class Memory(Protocol):
    """What an encoder made of n sentences (or photos, questions, …); the search never looks inside."""

    def __len__(self) -> int:
        """Returns n."""
        ...

    def select(self, rows: Tensor) -> Self:
        """Returns the memory of the sentences `rows` `(m,)`, in that order."""
        ...


M = TypeVar("M", bound=Memory)
M_contra = TypeVar("M_contra", bound=Memory, contravariant=True)


class Searchable(Protocol[M_contra]):
    """A decoder that can begin and take one token at a time.

    A step sees `rows = n · k` hypotheses of the n sentences in memory, k for each: row r belongs to sentence
    r // k, so memory is never copied per hypothesis. k may change from step to step.
    """

    def start(self, memory: M_contra) -> Nest:
        """Returns the state before the first token, a nest of tensors `(n, …)`."""
        ...

    def step(self, tokens: Tensor, state: Nest, memory: M_contra) -> tuple[Tensor, Nest]:
        """Feeds one token to every hypothesis.

        Args:
            tokens: `(rows,)`, long.
            state: the nest that `start` or `step` returned, its tensors `(rows, …)`.
            memory: of n sentences.

        Returns:
            Log-probabilities of the next token `(rows, vocabulary)` in float32 or float64, never above 0 and
            -inf where a token is impossible, and the new state.
        """
        ...
