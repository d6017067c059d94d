"""WUPS: accuracy of answers that lists nearly right ones as nearly right, by their place in WordNet."""

from __future__ import annotations

import math

from unrolled.metrics.base import MeanMetric, References, Texts, grouped, own_signature
from unrolled.metrics.wordnet import nearness

FAR = 0.1
"""What is left of the nearness of two words that are not near enough."""


class Wups(MeanMetric):
    """Wu–Palmer similarity of answers that list things, such as "book, lamp".

    Malinowski and Fritz 2014: of both lists the product over its things of their nearness to the nearest thing in the
    other one, and of these two the less. Things less near than a threshold, 0.9 or 0, count a tenth of their nearness:
    WUPS@0.9 asks for the same thing, WUPS@0.0 for the same sort of thing. Of several references the best counts.
    `compute` returns the score under its key, 0 to 100, and "signature". It needs WordNet (see `wordnet.nouns`).
    """

    description = "Wu-Palmer similarity of the things that an answer and its reference list."
    citation = "Malinowski and Fritz, A Multi-World Approach to Question Answering, 2014, arXiv:1410.0210"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.key = f"wups@{threshold:.1f}"
        self._threshold = threshold

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [
            100 * max(self._score(_things(text), _things(truth)) for truth in truths)
            for text, truths in zip(predictions, grouped(references), strict=True)
        ]

    def signature(self, references: References) -> str:
        return own_signature(f"threshold:{self._threshold:.1f}|below:{FAR}|senses:nouns,nearest", references)

    def _score(self, ours: list[str], theirs: list[str]) -> float:
        return min(self._covered(ours, theirs), self._covered(theirs, ours))

    def _covered(self, things: list[str], by: list[str]) -> float:
        return math.prod(max(self._near(thing, other) for other in by) for thing in things)

    def _near(self, one: str, other: str) -> float:
        found = nearness(one, other)
        return found if found >= self._threshold else FAR * found


def _things(answer: str) -> list[str]:
    """Returns the things that an answer lists, each once."""
    return list(dict.fromkeys(" ".join(thing.lower().split()) for thing in answer.split(",")))
