"""Protocols of models that can be searched."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from unrolled.models import Precision, Rows
from unrolled.recurrence import Nest


class EncodedInputs(Protocol):
    """What an encoder returns for n sentences (or images, questions, …). The search only counts and selects them."""

    def __len__(self) -> int:
        """Returns n."""
        ...

    def select(self, rows: Tensor) -> Self:
        """Returns the encoded inputs of the sentences `rows` `(m,)`, in that order."""
        ...


M = TypeVar("M", bound=EncodedInputs)
M_contra = TypeVar("M_contra", bound=EncodedInputs, contravariant=True)


class Searchable(Protocol[M_contra]):
    """A decoder that returns an initial state and then takes one token at a time."""

    def start(self, memory: M_contra) -> Nest:
        """Returns the state before the first token, a nest of tensors `(n, …)`."""
        ...

    def step(self, tokens: Tensor, state: Nest, memory: M_contra, rows: Rows) -> tuple[Tensor, Nest]:
        """Feeds one token to every hypothesis.

        Args:
            tokens: `(rows,)`, long.
            state: the nest that `start` or `step` returned, its tensors `(rows, …)`.
            memory: of n sentences.
            rows: the sentence of each hypothesis, so that memory is never copied per hypothesis. The number of
                hypotheses per sentence may change from step to step.

        Returns:
            Logits of the next token `(rows, vocabulary)` in float32 or float64, whose softmax gives the probabilities
            (log-probabilities are logits too), -inf for impossible tokens; the search overwrites them. And the new
            state.
        """
        ...


@runtime_checkable
class SupportsAttention(Protocol):
    """A searchable model whose step can return attention weights.

    Its encoded inputs have a `mask` `(n, positions)`, False on padding.
    """

    @property
    def attends(self) -> bool: ...

    def step_with_attention(
        self, tokens: Tensor, state: Nest, memory: EncodedInputs, rows: Rows
    ) -> tuple[Tensor, Nest, Tensor]:
        """As `step`, and the weights of each hypothesis over the positions `(rows, positions)`, which sum to 1."""
        ...


class OutputScorer(Protocol):
    """Maps outputs to logits; `unrolled.models.heads.Scorer` documents the methods."""

    @property
    def vocabulary(self) -> int: ...

    def topk(self, outputs: Tensor, count: int, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def logits(self, outputs: Tensor) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class SupportsScorer(Protocol):
    """A searchable model whose step has two parts, so that the search selects the best tokens while their logits are
    computed, in the precision of its choice."""

    def step_outputs(
        self, tokens: Tensor, state: Nest, memory: EncodedInputs, rows: Rows
    ) -> tuple[Tensor, Nest, Tensor | None]:
        """As `step`, but returns the outputs `(rows, features)` from which the scorer computes logits; and, if the
        model `attends`, the attention weights `(rows, positions)`, else `None`."""
        ...

    def scorer(self, precision: Precision) -> OutputScorer:
        """Returns the output layer with the current parameters."""
        ...
