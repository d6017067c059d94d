"""Scores of translations as sacrebleu defines them: BLEU, chrF, chrF++ and TER.

sacrebleu compares the sentences; from the sums over sentences on, the formulas are written here once more for
many corpora at a time, because resampling asks for millions of scores.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import sacrebleu

from unrolled.metrics.base import References, Statistics, SummedMetric, Texts, as_reference_lists, safe_divide


class _SacrebleuMetric(SummedMetric):
    """A metric whose statistics are those that sacrebleu resamples."""

    scorer: sacrebleu.BLEU | sacrebleu.CHRF | sacrebleu.TER

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        streams = list(zip_longest(*as_reference_lists(references)))
        return np.array(self.scorer._extract_corpus_statistics(predictions, streams), dtype=np.float64)

    def signature(self, references: References) -> str:
        return str(self.scorer.get_signature().format())


class Bleu(_SacrebleuMetric):
    """Corpus BLEU of detokenised text (Papineni et al. 2002) as sacrebleu defines it (Post 2018).

    `compute` returns "bleu" (0 to 100), "signature", "precisions" (of 1- to 4-grams, 0 to 100),
    "brevity_penalty" (0 to 1) and "length_ratio" (tokens predicted over tokens of reference).
    """

    key = "bleu"
    description = "Corpus BLEU: the geometric mean of n-gram precisions, less for short predictions."
    citation = "Post, A Call for Clarity in Reporting BLEU Scores, 2018, https://aclanthology.org/W18-6319"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.BLEU()

    def from_statistics(self, totals: Statistics) -> Statistics:
        predicted, expected, right, written = totals[..., 0], totals[..., 1], totals[..., 2:6], totals[..., 6:10]
        # Where no n-gram of a length is right, half a one counts, a quarter at the next such length, and so on.
        smoothed = 0.5 ** np.cumsum(right == 0, axis=-1)
        precisions = safe_divide(np.where(right == 0, smoothed, right), written, 1.0)
        scores = 100 * brevity_penalty(predicted, expected) * np.exp(np.log(precisions).mean(axis=-1))
        return np.where(right.any(axis=-1) & written.all(axis=-1), scores, 0.0)

    def details(self, totals: Statistics) -> dict[str, Any]:
        result = self.scorer._compute_score_from_stats(totals.tolist())
        return {"precisions": result.precisions, "brevity_penalty": result.bp, "length_ratio": result.ratio}


class ChrF(_SacrebleuMetric):
    """chrF2, the F-score of character n-grams that gives recall twice the weight of precision (Popović 2016).

    `compute` returns "chrf" (0 to 100) and "signature".
    """

    key = "chrf"
    description = "chrF2: the F-score of character 1- to 6-grams, recall weighing twice as much as precision."
    citation = "Popović, chrF deconstructed, 2016, https://aclanthology.org/W16-2341"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.CHRF()

    def from_statistics(self, totals: Statistics) -> Statistics:
        written, expected, right = totals[..., 0::3], totals[..., 1::3], totals[..., 2::3]
        known = (written > 0) & (expected > 0)
        lengths = known.sum(axis=-1)
        precision = safe_divide((known * safe_divide(right, written)).sum(axis=-1), lengths)
        recall = safe_divide((known * safe_divide(right, expected)).sum(axis=-1), lengths)
        weight = self.scorer.beta**2
        return safe_divide(100 * (1 + weight) * precision * recall, weight * precision + recall)


class ChrFPlusPlus(ChrF):
    """chrF2++: chrF2 over word 1- and 2-grams as well as character 1- to 6-grams (Popović 2017).

    `compute` returns "chrf++" (0 to 100) and "signature".
    """

    key = "chrf++"
    description = "chrF2++: the F-score of character 1- to 6-grams and word 1- and 2-grams."
    citation = "Popović, chrF++: words helping character n-grams, 2017, https://aclanthology.org/W17-4770"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.CHRF(word_order=2)


class Ter(_SacrebleuMetric):
    """Translation edit rate (Snover et al. 2006): insertions, deletions, substitutions and shifts, in percent
    of the words of the reference (their mean where there are several; the edits are to the nearest one).

    `compute` returns "ter" (0 is best, it may exceed 100) and "signature".
    """

    key = "ter"
    description = "TER: the edits that would turn the predictions into references, in percent of their words."
    citation = "Snover et al., A Study of Translation Edit Rate, 2006, https://aclanthology.org/2006.amta-papers.25"

    def __init__(self) -> None:
        super().__init__()
        self.scorer = sacrebleu.TER()

    def from_statistics(self, totals: Statistics) -> Statistics:
        edits, words = totals[..., 0], totals[..., 1]
        return 100 * np.where(words > 0, safe_divide(edits, words), edits > 0)


def brevity_penalty(predicted: Statistics, expected: Statistics) -> Statistics:
    """Returns BLEU's factor, 0 to 1, for so many words predicted where so many were expected."""
    ratio = safe_divide(expected, predicted, np.inf)
    return np.where(predicted < expected, np.exp(1 - ratio), 1.0)
