"""What every metric is: an `evaluate.Metric` that lives in memory, and what it is given.

Nothing is downloaded and nothing is written, so any number of processes may score at once.  Nearly all are
functions of statistics that add up over examples, which is what `unrolled.metrics.significance` resamples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray

import evaluate
from unrolled.errors import UserError

Texts = Sequence[str]
References = Sequence[str] | Sequence[list[str]]
"""One reference text to each prediction, or a list of several to each."""
Statistics = NDArray[np.float64]

_TEXT = datasets.Value("string")
ONE_REFERENCE = datasets.Features({"predictions": _TEXT, "references": _TEXT})
SEVERAL_REFERENCES = datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)})


class CorpusMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """A score of a corpus of examples.

    Attributes:
        key: what the score is called in results and configurations.
        description: one sentence.
        citation: where the definition stands.
        examples: what the examples may look like.
    """

    key: str = ""
    description: str = ""
    citation: str = ""
    examples: ClassVar[list[datasets.Features]] = [SEVERAL_REFERENCES, ONE_REFERENCE]

    def __init__(self) -> None:
        # A seed is not needed; without one, numpy's global state would be read for it.
        super().__init__(keep_in_memory=True, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation=self.citation, features=self.examples)

    def _build_data_dir(self) -> str:
        # The base class makes this folder, in the user's cache, even for a metric that is kept in memory.
        return str(self._data_dir_root)

    @abstractmethod
    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        """Returns the score under the metric's key, and what else there is to say of it."""


class SummedMetric(CorpusMetric):
    """A score that follows from statistics which add up over the examples of a corpus."""

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        references = list(references)
        totals = self.sentence_statistics(list(predictions), references).sum(axis=0)
        signature = self.signature(references)
        return {
            self.key: float(self.from_statistics(totals)),
            **({"signature": signature} if signature else {}),
            **self.details(totals),
        }

    @abstractmethod
    def sentence_statistics(self, predictions: Sequence[Any], references: Sequence[Any]) -> Statistics:
        """Returns what each example adds to the statistics of the corpus, `(examples, statistics)`."""

    @abstractmethod
    def from_statistics(self, totals: Statistics) -> Statistics:
        """Returns the scores `(…)` of corpora whose summed statistics are `totals`, `(…, statistics)`."""

    def sentence_scores(self, predictions: Sequence[Any], references: Sequence[Any]) -> Statistics:
        """Returns the score of each example as if it were a corpus, `(examples,)`."""
        return self.from_statistics(self.sentence_statistics(predictions, references))

    def signature(self, references: Sequence[Any]) -> str:
        """Returns in one line, after scoring, how the score came about; empty where nothing could differ."""
        return ""

    def details(self, totals: Statistics) -> dict[str, Any]:
        """Returns what else there is to say of a corpus with the statistics `(statistics,)`."""
        return {}


class MeanMetric(SummedMetric):
    """The mean of a score of single examples; the statistics are the score and 1."""

    @abstractmethod
    def example_scores(self, predictions: Sequence[Any], references: Sequence[Any]) -> list[float]:
        """Returns the score of each example."""

    def sentence_statistics(self, predictions: Sequence[Any], references: Sequence[Any]) -> Statistics:
        scores = self.example_scores(predictions, references)
        return np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)

    def from_statistics(self, totals: Statistics) -> Statistics:
        return safe_divide(totals[..., 0], totals[..., 1])


def safe_divide(numerator: Statistics, denominator: Statistics, otherwise: float = 0.0) -> Statistics:
    """Returns the quotient, element by element, and `otherwise` where the denominator is 0."""
    known = denominator != 0
    return np.where(known, numerator / np.where(known, denominator, 1.0), otherwise)


def as_reference_lists(references: References) -> list[list[str]]:
    """Returns the references as a list to each prediction."""
    return [[each] if isinstance(each, str) else list(each) for each in references]


def format_signature(settings: str, references: References) -> str:
    """Returns the signature of a metric computed here, in the manner of sacrebleu's; `settings` are key:value|…"""
    counts = {len(each) for each in as_reference_lists(references)}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|{settings}"


def check_pairs(predictions: Texts, references: References) -> None:
    """Raises `UserError` unless there is a text to score and every text has a reference or several."""
    if len(predictions) != len(references):
        raise UserError(f"There are {len(predictions)} predictions but {len(references)} references.")
    if not len(predictions):
        raise UserError("There are no predictions to score: at least one is needed.")
    if len({isinstance(each, str) for each in references}) > 1:
        raise UserError("The references mix texts with lists of texts: give every prediction a list.")
    for number, (prediction, truths) in enumerate(zip(predictions, references, strict=True), start=1):
        if isinstance(truths, list | tuple) and not truths:
            raise UserError(f"Prediction {number} has no reference: at least one is needed.")
        for text in (prediction, *(truths if isinstance(truths, list | tuple) else [truths])):
            if not isinstance(text, str):
                raise UserError(f"Prediction {number} or its reference is {text!r}, not a text.")
