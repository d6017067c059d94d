"""Generated memory problems: adding, copy, delayed XOR.

Every example is drawn from its own numbers (seed, split, index), so that any process makes the same one, in any order
and at any time. No example of one split is drawn from the numbers of another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SPLITS = {"train": 0, "validation": 1, "test": 2}
NUM_SYMBOLS, RECALL_LENGTH = 8, 10
"""Of the copy problem: different symbols, and how many of them are to be recalled."""
BLANK, DELIMITER = NUM_SYMBOLS, NUM_SYMBOLS + 1


@dataclass(frozen=True)
class Examples:
    """Sequences and what is wanted at the last steps of each.

    Attributes:
        inputs: `(batch, time, features)`.
        targets: `(batch, n)`, for the last n steps: numbers, or classes.
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Self:
        """Moves both."""
        return type(self)(self.inputs.to(device), self.targets.to(device))


class Problem(ABC):
    """How the examples of a problem are drawn, and what is reached without a memory.

    Args:
        length: steps between first and last (adding, delayed XOR), or blanks to remember over (copy).
    """

    metric: ClassVar[str]
    """Name of the score beside the loss."""
    features: ClassVar[int]
    """Of a step's input."""
    outputs: ClassVar[int]
    """Numbers that a model gives at a step: the answer itself, or a score a class."""
    scored: ClassVar[int]
    """Of the targets, how many at the end count for the score."""

    def __init__(self, length: int) -> None:
        self.length = length

    @property
    def steps(self) -> int:
        """Steps of a sequence."""
        return self.length

    @property
    def targets(self) -> int:
        """How many of the last steps have a target."""
        return 1

    @property
    @abstractmethod
    def baseline(self) -> dict[str, float]:
        """The expected `loss` and score of the best answer that looks at no input, in closed form."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws one example: inputs `(time, features)` and targets `(n,)`."""

    def examples(self, seed: int, split: str, indices: Sequence[int]) -> Examples:
        """Draws the examples of these numbers, float32 and, where targets are classes, int64."""
        start = (seed % 2**64, SPLITS[split])
        drawn = [self.draw(np.random.default_rng((*start, index))) for index in indices]
        inputs, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
        return Examples(inputs, targets)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss at every target, `(batch, n)`, from a model's outputs `(batch, n, outputs)`."""

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """What the outputs `(batch, n, outputs)` say, as targets are written: `(batch, n)`."""

    @abstractmethod
    def merit(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The score of every target that counts, `(batch, scored)`; its mean is the problem's `metric`."""


class _Classes(Problem):
    """A problem whose targets are classes; its score is the accuracy in per cent."""

    metric = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def merit(self, answers: Tensor, targets: Tensor) -> Tensor:
        return 100.0 * (answers == targets)[:, -self.scored :]


class Adding(Problem):
    """The sum of two numbers of a long sequence (Hochreiter & Schmidhuber 1997, in the form of Le, Jaitly & Hinton 2015
    and Arjovsky, Shah & Bengio 2016).

    Inputs are a number drawn evenly from [0, 1) and a marker, which is 1 at one step of either half and else 0. The
    target at the end is the sum of the two marked numbers.
    """

    metric, features, outputs, scored = "mse", 2, 1, 1

    @property
    def baseline(self) -> dict[str, float]:
        """Always answering 1 leaves the variance of the sum of two even draws, 2 · 1/12."""
        return {"loss": 1 / 6, "mse": 1 / 6}

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.zeros((self.length, 2), dtype=np.float32)
        inputs[:, 0] = generator.random(self.length, dtype=np.float32)
        marked = _one_each_half(generator, self.length)
        inputs[marked, 1] = 1
        return inputs, inputs[marked, 0].sum(keepdims=True)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, :, 0] - targets).square()

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs[:, :, 0]

    def merit(self, answers: Tensor, targets: Tensor) -> Tensor:
        return (answers - targets).square()


class Copy(_Classes):
    """Ten symbols of eight, recalled after a long silence (Arjovsky, Shah & Bengio 2016, after Hochreiter & Schmidhuber
    1997).

    The symbols come first; `length` blanks follow, the last of which is the delimiter; then ten blanks in whose place
    the symbols are wanted. Everywhere before, a blank is wanted. Inputs are one-hot: eight symbols, blank, delimiter.
    """

    features, outputs, scored = NUM_SYMBOLS + 2, NUM_SYMBOLS + 1, RECALL_LENGTH

    @property
    def steps(self) -> int:
        return self.length + 2 * RECALL_LENGTH

    @property
    def targets(self) -> int:
        return self.steps

    @property
    def baseline(self) -> dict[str, float]:
        """Blanks where they belong and a symbol at random in the last ten places."""
        return {"loss": RECALL_LENGTH * math.log(NUM_SYMBOLS) / self.steps, "accuracy": 100 / NUM_SYMBOLS}

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        symbols = generator.integers(NUM_SYMBOLS, size=RECALL_LENGTH)
        read = np.full(self.steps, BLANK)
        read[:RECALL_LENGTH] = symbols
        read[-RECALL_LENGTH - 1] = DELIMITER
        wanted = np.full(self.steps, BLANK)
        wanted[-RECALL_LENGTH:] = symbols
        return np.eye(self.features, dtype=np.float32)[read], wanted


class DelayedXOR(_Classes):
    """Whether two bits that stand far apart differ: the XOR problem of Martens & Sutskever 2011 without its noise.

    Inputs are a bit and a marker, which is 1 at one step of either half; at all other steps both are 0. The target at
    the end is the exclusive or of the two marked bits.
    """

    features, outputs, scored = 2, 2, 1

    @property
    def baseline(self) -> dict[str, float]:
        """A coin."""
        return {"loss": math.log(2), "accuracy": 50.0}

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.zeros((self.length, 2), dtype=np.float32)
        bits = generator.integers(2, size=2)
        marked = _one_each_half(generator, self.length)
        inputs[marked, 0], inputs[marked, 1] = bits, 1
        return inputs, bits.sum(keepdims=True) % 2


def _one_each_half(generator: np.random.Generator, length: int) -> list[int]:
    half = length // 2
    return [int(generator.integers(half)), int(generator.integers(half, length))]


PROBLEMS: dict[str, type[Problem]] = {"adding": Adding, "copy": Copy, "delayed_xor": DelayedXOR}
