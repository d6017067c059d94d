"""Base classes of metrics: an `evaluate.Metric` kept in memory, and its inputs.

Nothing is downloaded and nothing is written, so any number of processes may score at the same time. Nearly all metrics
are functions of statistics that add up over examples, which `unrolled.metrics.significance` resamples.
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
"""One reference per prediction, or a list of several."""
Statistics = NDArray[np.float64]

_TEXT = datasets.Value("string")
ONE_REFERENCE = datasets.Features({"predictions": _TEXT, "references": _TEXT})
SEVERAL_REFERENCES = datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)})


class CorpusMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """A score of a corpus of examples.

    Attributes:
        key: name of the score in results and configs.
        description: one sentence.
        citation: source of the definition.
        examples: accepted features of the examples.
    """

    key: str = ""
    description: str = ""
    citation: str = ""
    examples: ClassVar[list[datasets.Features]] = [SEVERAL_REFERENCES, ONE_REFERENCE]

    def __init__(self) -> None:
        # No seed is needed, but without one the base class reads numpy's global state.
        super().__init__(keep_in_memory=True, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation=self.citation, features=self.examples)

    def _build_data_dir(self) -> str:
        # The base class creates this folder, in the user's cache, even for a metric that is kept in memory.
        return str(self._data_dir_root)

    @abstractmethod
    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        """Returns the score under the metric's key, and further details."""


class SummedMetric(CorpusMetric):
    """A score computed from statistics that add up over the examples of a corpus.

    Attributes:
        settings: those that determine the score, as key:value|…; empty if there are none.
    """

    settings: str = ""

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
        """Returns the statistics of each example, `(examples, statistics)`; their sums are those of the corpus."""

    @abstractmethod
    def from_statistics(self, totals: Statistics) -> Statistics:
        """Returns the scores `(…)` of corpora with the summed statistics `totals` `(…, statistics)`."""

    def sentence_scores(self, predictions: Sequence[Any], references: Sequence[Any]) -> Statistics:
        """Returns the score of each example as a corpus of its own, `(examples,)`."""
        return self.from_statistics(self.sentence_statistics(predictions, references))

    def signature(self, references: Sequence[Any]) -> str:
        """Returns, after scoring, the settings in sacrebleu's format; empty if there are none."""
        if not self.settings:
            return ""
        counts = {len(each) for each in as_reference_lists(references)}
        return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|{self.settings}"

    def details(self, totals: Statistics) -> dict[str, Any]:
        """Returns further results for a corpus with the statistics `(statistics,)`."""
        return {}


class MeanMetric(SummedMetric):
    """The mean over examples of a score; the statistics are the score and 1."""

    @abstractmethod
    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        """Returns the score of each example."""

    def sentence_statistics(self, predictions: Sequence[Any], references: Sequence[Any]) -> Statistics:
        scores = self.example_scores(predictions, references)
        return np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)

    def from_statistics(self, totals: Statistics) -> Statistics:
        return safe_divide(totals[..., 0], totals[..., 1])


class MeanTextMetric(MeanMetric):
    """The mean over examples of a score that each text has by itself."""

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        pairs = zip(predictions, as_reference_lists(references), strict=True)
        return [self.score_text(text, own) for text, own in pairs]

    @abstractmethod
    def score_text(self, text: str, references: Sequence[str]) -> float:
        """Returns the score of one example."""


def safe_divide(numerator: Statistics, denominator: Statistics, otherwise: float = 0.0) -> Statistics:
    """Returns the elementwise quotient, and `otherwise` where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), otherwise)


def as_reference_lists(references: References) -> list[list[str]]:
    """Returns the references as one list per prediction."""
    return [[each] if isinstance(each, str) else list(each) for each in references]


def check_pairs(predictions: Texts, references: References) -> None:
    """Raises `UserError` unless there is a text to score and every text has one or more references."""
    if len(predictions) != len(references):
        raise UserError(f"There are {len(predictions)} predictions but {len(references)} references.")
    if not len(predictions):
        raise UserError("There are no predictions to score: at least one is needed.")
    if len({isinstance(each, str) for each in references}) > 1:
        raise UserError("The references mix texts with lists of texts: give every prediction a list.")
    for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True), start=1):
        own = reference if isinstance(reference, list | tuple) else [reference]
        if not own:
            raise UserError(f"Prediction {number} has no reference: at least one is needed.")
        for text in (prediction, *own):
            if not isinstance(text, str):
                raise UserError(f"Prediction {number} or its reference is {text!r}, not a text.")
