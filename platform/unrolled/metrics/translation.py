"""Translation metrics as defined by sacrebleu: BLEU, chrF, chrF++ and TER; pairwise BLEU and chrF.

sacrebleu compares the sentences. From the statistics on, the formulas are repeated here for many corpora or pairs of
texts at a time, because resampling and minimum Bayes risk decoding need millions of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import sacrebleu
from numpy.typing import NDArray

from unrolled.metrics.base import References, Statistics, SummedMetric, Texts, as_reference_lists, safe_divide


class _SacrebleuMetric(SummedMetric):
    """A metric whose sentence statistics are computed by sacrebleu."""

    scorer: sacrebleu.BLEU | sacrebleu.CHRF | sacrebleu.TER

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        streams = list(zip_longest(*as_reference_lists(references)))
        return np.array(self.scorer._extract_corpus_statistics(predictions, streams), dtype=np.float64)

    def signature(self, references: References) -> str:
        return str(self.scorer.get_signature().format())


class Bleu(_SacrebleuMetric):
    """Corpus BLEU of detokenised text (Papineni et al. 2002) as defined by sacrebleu (Post 2018).

    `compute` returns "bleu" (0 to 100), "signature", "precisions" (of 1- to 4-grams, 0 to 100),
    "brevity_penalty" (0 to 1) and "length_ratio" (tokens predicted over tokens of reference).

    Args:
        effective_order: average only over the orders for which a prediction is long enough, as in sentence-level BLEU.
    """

    key = "bleu"
    description = "Corpus BLEU: the geometric mean of n-gram precisions, less for short predictions."
    citation = "Post, A Call for Clarity in Reporting BLEU Scores, 2018, https://aclanthology.org/W18-6319"

    def __init__(self, *, effective_order: bool = False) -> None:
        super().__init__()
        self.scorer = sacrebleu.BLEU(effective_order=effective_order)
        self._effective_order = effective_order

    def from_statistics(self, totals: Statistics) -> Statistics:
        predicted, expected, correct, written = totals[..., 0], totals[..., 1], totals[..., 2:6], totals[..., 6:10]
        # Smoothing `exp`: the first order without a correct n-gram counts half an n-gram, the next a quarter, and so on
        # (NIST's mteval-v13a; method 3 of Chen & Cherry 2014).
        smoothed = 0.5 ** np.cumsum(correct == 0, axis=-1)
        precisions = safe_divide(np.where(correct == 0, smoothed, correct), written, 1.0)
        long_enough = written > 0
        orders = np.maximum(long_enough.sum(axis=-1), 1) if self._effective_order else MAX_WORD_ORDER
        scores = 100 * brevity_penalty(predicted, expected) * np.exp(np.log(precisions).sum(axis=-1) / orders)
        defined = correct.any(axis=-1) & (long_enough.all(axis=-1) | self._effective_order)
        return np.where(defined, scores, 0.0)

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
        written, expected, correct = totals[..., 0::3], totals[..., 1::3], totals[..., 2::3]
        long_enough = (written > 0) & (expected > 0)
        orders = long_enough.sum(axis=-1)
        precision = safe_divide((long_enough * safe_divide(correct, written)).sum(axis=-1), orders)
        recall = safe_divide((long_enough * safe_divide(correct, expected)).sum(axis=-1), orders)
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
    """Translation edit rate (Snover et al. 2006): insertions, deletions, substitutions and shifts, in percent of the
    words of the reference. With several references: the edits to the nearest one, in percent of their mean length.

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
    """Returns BLEU's brevity penalty, 0 to 1, given the numbers of words predicted and expected."""
    ratio = safe_divide(expected, predicted, np.inf)
    return np.where(predicted < expected, np.exp(1 - ratio), 1.0)


MAX_CHARACTER_ORDER, MAX_WORD_ORDER = 6, 4
"""Longest n-grams of chrF and BLEU."""


def pairwise_scores(name: Literal["chrf", "bleu"], texts: Sequence[str]) -> Statistics:
    """Returns the sentence-level score of every text against every text, 0 to 100, `(hypotheses, references)`.

    They equal those of sacrebleu's `sentence_chrf` and `sentence_bleu`.
    """
    if name == "chrf":
        chrf = ChrF()
        lengths, matches = _common_ngrams(["".join(text.split()) for text in texts], MAX_CHARACTER_ORDER)
        counts = [np.maximum(lengths - n, 0) for n in range(MAX_CHARACTER_ORDER)]
        columns = [
            column
            for count, match in zip(counts, matches, strict=True)
            for column in (count[:, None], count[None], match)
        ]
        return chrf.from_statistics(_stack(columns, len(texts)))
    bleu = Bleu(effective_order=True)
    lengths, matches = _common_ngrams([bleu.scorer.tokenizer(text.rstrip()).split() for text in texts], MAX_WORD_ORDER)
    counts = [np.maximum(lengths - n, 0)[:, None] for n in range(MAX_WORD_ORDER)]
    return bleu.from_statistics(_stack([lengths[:, None], lengths[None], *matches, *counts], len(texts)))


def _stack(columns: Sequence[NDArray[Any]], size: int) -> Statistics:
    return np.stack([np.broadcast_to(column, (size, size)) for column in columns], axis=-1).astype(np.float64)


def _common_ngrams(
    texts: Sequence[Sequence[str]], max_order: int
) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Returns the lengths of texts, sequences of characters or words, `(texts,)`; and for n = 1 to `max_order` the
    number of n-grams that each pair of texts has in common, counted as often as both have it, `(texts, texts)`."""
    numbers: dict[str, int] = {}
    units = np.array([numbers.setdefault(unit, len(numbers)) for text in texts for unit in text], dtype=np.int64)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    remaining = np.concatenate([np.arange(length, 0, -1) for length in lengths]) if len(lengths) else lengths
    ngrams = np.zeros(len(units), dtype=np.int64)
    common = []
    for n in range(1, max_order + 1):
        # The n-gram at an index extends the (n - 1)-gram there by one unit; both are numbered compactly.
        ngrams = ngrams[: max(0, len(units) - n + 1)] * max(1, len(numbers)) + units[n - 1 :]
        ngrams = np.unique(ngrams, return_inverse=True)[1]
        complete = remaining[: len(ngrams)] >= n
        common.append(_pairwise_minima(owners[: len(ngrams)][complete], ngrams[complete], len(lengths)))
    return lengths, common


def _pairwise_minima(owners: NDArray[np.int64], ngrams: NDArray[np.int64], texts: int) -> NDArray[np.float64]:
    """Returns Σ min(count in one text, count in the other) over n-grams for all pairs, by one matrix product.

    An n-gram that occurs up to c times has c columns, and a text in which it occurs b times has ones in the first b of
    them, so that the product of two rows is a sum of minima.
    """
    if len(ngrams) == 0:
        return np.zeros((texts, texts))
    keys = np.sort(ngrams * texts + owners)
    # How many times the same n-gram occurred in the same text before.
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
    repetition = np.arange(len(keys)) - np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    columns = np.unique(keys // texts * (int(repetition.max()) + 1) + repetition, return_inverse=True)[1]
    indicators = np.zeros((texts, int(columns.max()) + 1), dtype=np.float32)
    indicators[keys % texts, columns] = 1
    return (indicators @ indicators.T).astype(np.float64)
