"""Protocols of models that can be searched."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from unrolled.models.encoders import Rows
from unrolled.models.heads import Precision
from unrolled.recurrence.state import Nest


class EncodedInputs(Protocol):
    """What an encoder made of n sentences (or photos, questions, …); the search never looks inside."""

    def __len__(self) -> int:
        """Returns n."""
        ...

    def select(self, rows: Tensor) -> Self:
        """Returns the memory of the sentences `rows` `(m,)`, in that order."""
        ...


M = TypeVar("M", bound=EncodedInputs)
M_contra = TypeVar("M_contra", bound=EncodedInputs, contravariant=True)


class Searchable(Protocol[M_contra]):
    """A decoder that can begin and take one token at a time."""

    def start(self, memory: M_contra) -> Nest:
        """Returns the state before the first token, a nest of tensors `(n, …)`."""
        ...

    def step(self, tokens: Tensor, state: Nest, memory: M_contra, rows: Rows) -> tuple[Tensor, Nest]:
        """Feeds one token to every hypothesis.

        Args:
            tokens: `(rows,)`, long.
            state: the nest that `start` or `step` returned, its tensors `(rows, …)`.
            memory: of n sentences.
            rows: which sentence each hypothesis belongs to, so that memory is never copied per hypothesis. How many
                a sentence has may change from step to step.

        Returns:
            Logits of the next token `(rows, vocabulary)` in float32 or float64, of which a softmax makes probabilities
            (log-probabilities are logits too), -inf where a token is impossible; the search overwrites them. And the
            new state.
        """
        ...


@runtime_checkable
class SupportsAttention(Protocol):
    """What some searchable models offer besides: a step that says where it looked.

    Their memory has a `mask` `(n, positions)`, False on padding.
    """

    @property
    def attends(self) -> bool:
        """Returns whether this model looks at its memory at all."""
        ...

    def step_with_attention(
        self, tokens: Tensor, state: Nest, memory: EncodedInputs, rows: Rows
    ) -> tuple[Tensor, Nest, Tensor]:
        """As `step`, and the weights of each hypothesis over the positions `(rows, positions)`, which sum to 1."""
        ...


class OutputScorer(Protocol):
    """What turns outputs into logits; `Scorer` says what its methods take and return."""

    @property
    def vocabulary(self) -> int: ...

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class SupportsScorer(Protocol):
    """What some searchable models offer besides: a step in two parts, so that the search finds the best tokens while
    their logits are made, in a precision of its choice."""

    def step_outputs(
        self, tokens: Tensor, state: Nest, memory: EncodedInputs, rows: Rows
    ) -> tuple[Tensor, Nest, Tensor | None]:
        """As `step`, but instead of logits what the scorer makes them of `(rows, features)`; and if the model
        `attends`, the weights of `SupportsAttention.step_with_attention`, else `None`."""
        ...

    def scorer(self, precision: Precision) -> OutputScorer:
        """Returns what turns outputs into logits, with the parameters as they are now."""
        ...
