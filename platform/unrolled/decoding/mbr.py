"""Minimum Bayes risk decoding.

What texts have in common: their n-grams, of every two at a time.

The sample of least risk: minimum Bayes risk decoding, its utility a metric of sentences (Eikema & Aziz 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from unrolled.decoding.strategies import Utility


def common_ngrams(units: NDArray[np.int64], lengths: NDArray[np.int64], order: int) -> Iterator[NDArray[np.float64]]:
    """Yields for n = 1 to `order` how many n-grams, counted as often as both have them, every two texts have in common,
    `(texts, texts)`.

    Args:
        units: letters or words of all texts one after the other, as numbers from 0.
        lengths: units of every text, `(texts,)`.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    left = np.concatenate([np.arange(length, 0, -1) for length in lengths]) if len(lengths) else lengths
    alphabet = int(units.max(initial=0)) + 1
    grams = np.zeros(len(units), dtype=np.int64)
    for n in range(1, order + 1):
        # The n-gram at a place: the one before, longer by the unit n - 1 places on, both as small numbers.
        grams = grams[: max(0, len(units) - n + 1)] * alphabet + units[n - 1 :]
        grams = np.unique(grams, return_inverse=True)[1]
        whole = left[: len(grams)] >= n
        yield _common(owners[: len(grams)][whole], grams[whole], len(lengths))


def _common(owners: NDArray[np.int64], grams: NDArray[np.int64], texts: int) -> NDArray[np.float64]:
    """Counts for all pairs in one matrix product: an n-gram that occurs c times is c columns, and a text that has it b
    times has ones in the first b of them, so that products of rows are sums of minima."""
    if len(grams) == 0:
        return np.zeros((texts, texts))
    keys = np.sort(grams * texts + owners)
    # How often the same text had the same n-gram before.
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    before = np.arange(len(keys)) - np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    columns = np.unique(keys // texts * (int(before.max()) + 1) + before, return_inverse=True)[1]
    has = np.zeros((texts, int(columns.max()) + 1), dtype=np.float32)
    has[keys % texts, columns] = 1
    return (has @ has.T).astype(np.float64)


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
