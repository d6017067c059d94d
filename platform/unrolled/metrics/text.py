"""Scores of generated texts against references: BLEU, chrF and exact match.

Each is an `evaluate.Metric` that lives in memory: nothing is downloaded and nothing is written, so any number
of processes may score at once.  Each is also a function of statistics that add up over sentences, which is
what `unrolled.metrics.significance` resamples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import datasets
import numpy as np
import sacrebleu
from numpy.typing import NDArray

import evaluate
from unrolled.errors import UserError, listing, nearest

Texts = Sequence[str]
Statistics = NDArray[np.float64]


class TextMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """A score of a corpus of texts, one reference to a prediction, from 0 to 100."""

    higher_is_better: ClassVar[bool] = True
    description: ClassVar[str]
    citation: ClassVar[str] = ""

    def __init__(self) -> None:
        # A seed is not needed; without one, numpy's global state would be read for it.
        super().__init__(keep_in_memory=True, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description=self.description, citation=self.citation, features=features)

    def _build_data_dir(self) -> str:
        # The base class makes this folder, in the user's cache, even for a metric that is kept in memory.
        return str(self._data_dir_root)

    @abstractmethod
    def _compute(self, predictions: Texts, references: Texts) -> dict[str, Any]:
        """Returns the score under the metric's name, and what else there is to say of it."""

    @abstractmethod
    def sentence_statistics(self, predictions: Texts, references: Texts) -> Statistics:
        """Returns what each sentence adds to the statistics of the corpus, `(sentences, statistics)`."""

    @abstractmethod
    def from_statistics(self, totals: Statistics) -> float:
        """Returns the score of a corpus whose summed statistics are `totals`, `(statistics,)`."""


class _SacrebleuMetric(TextMetric):
    """A metric that sacrebleu computes; its statistics are the n-gram counts that sacrebleu resamples."""

    scorer: sacrebleu.BLEU | sacrebleu.CHRF

    def sentence_statistics(self, predictions: Texts, references: Texts) -> Statistics:
        return np.array(self.scorer._extract_corpus_statistics(predictions, [references]), dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> float:
        return float(self.scorer._compute_score_from_stats(list(totals)).score)


class Bleu(_SacrebleuMetric):
    """Corpus BLEU of detokenised text (Papineni et al. 2002) as sacrebleu defines it (Post 2018).

    `compute` returns "bleu" (0 to 100), "signature", "precisions" (of 1- to 4-grams, 0 to 100),
    "brevity_penalty" (0 to 1) and "length_ratio" (tokens predicted over tokens of reference).
    """

    description = "Corpus BLEU: the geometric mean of n-gram precisions, less for short predictions."
    citation = "Post, A Call for Clarity in Reporting BLEU Scores, 2018, https://aclanthology.org/W18-6319"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.BLEU()

    def _compute(self, predictions: Texts, references: Texts) -> dict[str, Any]:
        result = self.scorer.corpus_score(predictions, [references])
        return {
            "bleu": result.score,
            "signature": self.scorer.get_signature().format(),
            "precisions": result.precisions,
            "brevity_penalty": result.bp,
            "length_ratio": result.ratio,
        }


class ChrF(_SacrebleuMetric):
    """chrF2, the F-score of character n-grams that gives recall twice the weight of precision (Popović 2016).

    `compute` returns "chrf" (0 to 100) and "signature".
    """

    description = "chrF2: the F-score of character 1- to 6-grams, recall weighing twice as much as precision."
    citation = "Popović, chrF deconstructed, 2016, https://aclanthology.org/W16-2341"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.CHRF()

    def _compute(self, predictions: Texts, references: Texts) -> dict[str, Any]:
        result = self.scorer.corpus_score(predictions, [references])
        return {"chrf": result.score, "signature": self.scorer.get_signature().format()}


class ExactMatch(TextMetric):
    """The percentage of predictions equal to their reference; `compute` returns it as "exact_match"."""

    description = "The percentage of predictions that equal their reference in every character."

    def _compute(self, predictions: Texts, references: Texts) -> dict[str, Any]:
        statistics = self.sentence_statistics(predictions, references)
        return {"exact_match": self.from_statistics(statistics.sum(axis=0))}

    def sentence_statistics(self, predictions: Texts, references: Texts) -> Statistics:
        pairs = zip(predictions, references, strict=True)
        return np.array([(prediction == reference, 1) for prediction, reference in pairs], dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> float:
        matches, sentences = totals
        return float(100 * matches / sentences)


METRICS: dict[str, type[TextMetric]] = {"bleu": Bleu, "chrf": ChrF, "exact_match": ExactMatch}


def text_metric(name: str) -> TextMetric:
    """Returns a new metric of that name; raises `UserError` for a name that `METRICS` has not."""
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}: it may be {listing(METRICS)}.{nearest(name, METRICS)}")
    return METRICS[name]()


def higher_is_better(name: str) -> bool:
    """Returns whether a larger value of the metric is better; raises `UserError` for an unknown name."""
    return text_metric(name).higher_is_better


def check_pairs(predictions: Texts, references: Texts) -> None:
    """Raises `UserError` unless there is one reference to every prediction, and at least one of each."""
    if len(predictions) != len(references):
        raise UserError(f"There are {len(predictions)} predictions but {len(references)} references.")
    if not predictions:
        raise UserError("There are no predictions to score: at least one is needed.")


def score(names: Iterable[str], predictions: Texts, references: Texts) -> dict[str, Any]:
    """Scores a corpus by several metrics.

    Args:
        names: Names in `METRICS`.
        predictions: The texts to score.
        references: One reference text to each prediction, in the same order.

    Returns:
        The score under each name, 0 to 100, and under "signatures" how sacrebleu computed its scores:
        `{"bleu": 34.1, "exact_match": 12.0, "signatures": {"bleu": "nrefs:1|case:mixed|…"}}`.

    Raises:
        UserError: A name is unknown, or predictions and references do not pair up.
    """
    check_pairs(predictions, references)
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    for name, metric in {name: text_metric(name) for name in names}.items():
        result = metric.compute(predictions=list(predictions), references=list(references))
        scores[name] = result[name]
        if "signature" in result:
            signatures[name] = result["signature"]
    return {**scores, "signatures": signatures}
