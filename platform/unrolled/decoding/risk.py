"""The sample of least risk: minimum Bayes risk decoding, its utility a metric of sentences (Eikema & Aziz 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from unrolled.decoding.overlap import common_ngrams
from unrolled.decoding.strategies import Utility

Pairs = NDArray[np.float64]
LETTERS, BETA = 6, 2
"""Of chrF: character n-grams up to this length; how many times as much recall counts as precision (Popović 2015)."""
WORDS = 4
"""Of BLEU: n-grams of words up to this length (Papineni et al. 2002)."""
_words = Tokenizer13a()


def least_risk(samples: Sequence[str], utility: Utility) -> int:
    """Returns the place of the text whose mean utility against all samples is highest, the first of equals."""
    distinct = list(dict.fromkeys(samples))
    weights = np.array([samples.count(text) for text in distinct], dtype=np.float64)
    return samples.index(distinct[int((UTILITIES[utility](distinct) @ weights).argmax())])


def chrf(texts: Sequence[str]) -> Pairs:
    """Returns the sentence-level chrF of every text against every text, 0 to 100, `(hypotheses, references)`.

    As sacrebleu defines it: spaces do not count, and precision and recall are means over the orders for which both
    texts are long enough.
    """
    spaceless = ["".join(text.split()) for text in texts]
    lengths = np.array([len(text) for text in spaceless], dtype=np.int64)
    letters = np.frombuffer("".join(spaceless).encode("utf-32-le"), dtype=np.uint32)
    units = np.unique(letters, return_inverse=True)[1]
    precision, recall, orders = np.zeros((3, len(texts), len(texts)))
    for n, common in enumerate(common_ngrams(units, lengths, LETTERS), start=1):
        count = np.maximum(lengths - n + 1, 0)
        both = (count[:, None] > 0) & (count[None] > 0)
        precision += common / np.maximum(count[:, None], 1) * both
        recall += common / np.maximum(count[None], 1) * both
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def bleu(texts: Sequence[str]) -> Pairs:
    """Returns the sentence-level BLEU of every text against every text, 0 to 100, `(hypotheses, references)`.

    As sacrebleu's `sentence_bleu` defines it: words of its tokenizer 13a; the geometric mean goes over the orders for
    which the hypothesis is long enough; an order with nothing in common counts as if it had half an n-gram, the next
    such order a quarter, and so on (smoothing `exp`, that of NIST's mteval-v13a; method 3 of Chen & Cherry 2014).
    """
    rows = [_words(text.rstrip()).split() for text in texts]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    known: dict[str, int] = {}
    units = np.array([known.setdefault(word, len(known)) for row in rows for word in row], dtype=np.int64)
    logs, misses, anything = np.zeros((3, len(texts), len(texts)))
    for n, common in enumerate(common_ngrams(units, lengths, WORDS), start=1):
        count, missed = np.maximum(lengths - n + 1, 0)[:, None], common == 0
        misses += missed
        anything += common
        logs += np.where(count > 0, np.log(np.where(missed, 0.5**misses, common) / np.maximum(count, 1)), 0)
    orders = np.clip(lengths, 1, WORDS)[:, None]
    short = np.minimum(0, 1 - lengths[None] / np.maximum(lengths[:, None], 1))
    return np.where(anything > 0, 100 * np.exp(short + logs / orders), 0)


UTILITIES: Mapping[Utility, Callable[[Sequence[str]], Pairs]] = {"chrf": chrf, "bleu": bleu}
