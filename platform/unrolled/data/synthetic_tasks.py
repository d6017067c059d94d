"""Generated memory problems: adding, copy, delayed XOR.

Every example is drawn from (seed, split, index) alone, so that any process makes the same one in any order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unrolled.data.batching import TensorBatch

SPLITS = {"train": 0, "validation": 1, "test": 2}
NUM_SYMBOLS, RECALL_LENGTH = 8, 10
"""Of the copy problem: different symbols, and length of the sequence to recall."""
BLANK, DELIMITER = NUM_SYMBOLS, NUM_SYMBOLS + 1


@dataclass(frozen=True)
class Examples(TensorBatch):
    """Sequences `inputs` `(batch, time, features)` with `targets` `(batch, n)` at the last n steps: numbers or
    classes."""

    inputs: Tensor
    targets: Tensor


class Problem(ABC):
    """Examples, loss and score of a problem, and the baseline without memory. `length`: steps of a sequence (adding,
    delayed XOR), or blanks between symbols and recall (copy)."""

    metric: ClassVar[str]
    """Name of the score."""
    num_features: ClassVar[int]
    """Input features per step."""
    num_outputs: ClassVar[int]
    """Outputs of a model per step: the prediction itself, or one logit per class."""
    num_scored: ClassVar[int]
    """Targets at the end that the score is a mean over."""

    def __init__(self, length: int) -> None:
        self.length = length

    @property
    def steps(self) -> int:
        """Steps of a sequence."""
        return self.length

    @property
    def num_targets(self) -> int:
        """Last steps with a target."""
        return 1

    @property
    @abstractmethod
    def baseline(self) -> dict[str, float]:
        """Expected `loss` and score of the best prediction without input, in closed form."""

    @abstractmethod
    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws one example: inputs `(time, features)` and targets `(n,)`."""

    def examples(self, seed: int, split: str, indices: Sequence[int]) -> Examples:
        """Draws the examples of these indices; inputs are float32, targets that are classes int64."""
        start = (seed % 2**64, SPLITS[split])
        samples = [self.sample(np.random.default_rng((*start, index))) for index in indices]
        inputs, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
        return Examples(inputs, targets)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of every target, `(batch, n)`, from outputs `(batch, n, num_outputs)`."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns predictions in the form of targets, `(batch, n)`, from outputs `(batch, n, num_outputs)`."""

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the score of every scored target, `(batch, num_scored)`; the mean is the problem's `metric`."""


class _Classes(Problem):
    """Base of problems whose targets are classes; the score is the accuracy in per cent."""

    metric = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return 100.0 * (predictions == targets)[:, -self.num_scored :]


class Adding(Problem):
    """The sum of two numbers of a long sequence (Hochreiter & Schmidhuber 1997, in the form of Le, Jaitly & Hinton 2015
    and Arjovsky, Shah & Bengio 2016).

    Inputs are a number drawn uniformly from [0, 1) and a marker, which is 1 at one step of either half and else 0. The
    target at the end is the sum of the two marked numbers.
    """

    metric, num_features, num_outputs, num_scored = "mse", 2, 1, 1

    @property
    def baseline(self) -> dict[str, float]:
        """Predicting 1 leaves the variance of the sum of two uniform numbers, 2 · 1/12."""
        return {"loss": 1 / 6, "mse": 1 / 6}

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.zeros((self.length, 2), dtype=np.float32)
        inputs[:, 0] = generator.random(self.length, dtype=np.float32)
        marked = _one_each_half(generator, self.length)
        inputs[marked, 1] = 1
        return inputs, inputs[marked, 0].sum(keepdims=True)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, :, 0] - targets).square()

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs[:, :, 0]

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square()


class Copy(_Classes):
    """Ten symbols of eight, recalled after a long delay (Arjovsky, Shah & Bengio 2016, after Hochreiter & Schmidhuber
    1997).

    The symbols come first; `length` blanks follow, the last of which is the delimiter; then ten blanks, at which the
    targets are the symbols. Before, targets are blanks. Inputs are one-hot: eight symbols, blank, delimiter.
    """

    num_features, num_outputs, num_scored = NUM_SYMBOLS + 2, NUM_SYMBOLS + 1, RECALL_LENGTH

    @property
    def steps(self) -> int:
        return self.length + 2 * RECALL_LENGTH

    @property
    def num_targets(self) -> int:
        return self.steps

    @property
    def baseline(self) -> dict[str, float]:
        """Blanks everywhere but in the last ten places, which are random symbols."""
        return {"loss": RECALL_LENGTH * math.log(NUM_SYMBOLS) / self.steps, "accuracy": 100 / NUM_SYMBOLS}

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        symbols = generator.integers(NUM_SYMBOLS, size=RECALL_LENGTH)
        inputs = np.full(self.steps, BLANK)
        inputs[:RECALL_LENGTH] = symbols
        inputs[-RECALL_LENGTH - 1] = DELIMITER
        targets = np.full(self.steps, BLANK)
        targets[-RECALL_LENGTH:] = symbols
        return np.eye(self.num_features, dtype=np.float32)[inputs], targets


class DelayedXOR(_Classes):
    """Whether two distant bits differ: the XOR problem of Martens & Sutskever 2011 without its noise.

    Inputs are a bit and a marker, which is 1 at one step of either half; at all other steps both are 0. The target at
    the end is the exclusive or of the two marked bits.
    """

    num_features, num_outputs, num_scored = 2, 2, 1

    @property
    def baseline(self) -> dict[str, float]:
        """A random bit."""
        return {"loss": math.log(2), "accuracy": 50.0}

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.zeros((self.length, 2), dtype=np.float32)
        bits = generator.integers(2, size=2)
        marked = _one_each_half(generator, self.length)
        inputs[marked, 0], inputs[marked, 1] = bits, 1
        return inputs, bits.sum(keepdims=True) % 2


def _one_each_half(generator: np.random.Generator, length: int) -> list[int]:
    half = length // 2
    return [int(generator.integers(half)), int(generator.integers(half, length))]


PROBLEMS: dict[str, type[Problem]] = {"adding": Adding, "copy": Copy, "delayed_xor": DelayedXOR}
