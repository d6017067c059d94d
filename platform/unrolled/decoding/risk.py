"""The sample of least risk: minimum Bayes risk decoding with sentence-level chrF (Eikema & Aziz 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDER, BETA = 6, 2
"""Of chrF: character n-grams up to this length; how many times as much recall counts as precision (Popović 2015)."""


def least_risk(samples: Sequence[str]) -> int:
    """Returns the place of the text whose mean chrF against all samples is highest, the first of equals."""
    distinct = list(dict.fromkeys(samples))
    weights = np.array([samples.count(text) for text in distinct], dtype=np.float64)
    return samples.index(distinct[int((chrf(distinct) @ weights).argmax())])


def chrf(samples: Sequence[str]) -> NDArray[np.float64]:
    """Returns the sentence-level chrF of every text against every text, 0 to 100, `(hypotheses, references)`.

    As sacrebleu defines it: spaces do not count, and precision and recall are means over the orders for which both
    texts are long enough. Common n-grams are counted for all pairs in one matrix product an order: an n-gram that
    occurs c times is c columns, and a text that has it b times has ones in the first b of them, so that products of
    rows are sums of minima.
    """
    lengths = np.array([len("".join(text.split())) for text in samples])
    owners = np.repeat(np.arange(len(samples)), lengths)
    letters = np.frombuffer("".join("".join(text.split()) for text in samples).encode("utf-32-le"), dtype=np.uint32)
    left = np.concatenate([np.arange(length, 0, -1) for length in lengths]) if len(samples) else lengths
    alphabet, codes = np.unique(letters, return_inverse=True)
    grams = np.zeros(len(letters), dtype=np.int64)
    precision, recall, orders = np.zeros((3, len(samples), len(samples)))
    for n in range(1, ORDER + 1):
        # The n-gram at a place: the one before, longer by the letter n - 1 places on, both as small numbers.
        grams = grams[: len(letters) - n + 1] * len(alphabet) + codes[n - 1 :]
        grams = np.unique(grams, return_inverse=True)[1]
        whole = left[: len(grams)] >= n
        common = _common(owners[: len(grams)][whole], grams[whole], len(samples))
        count = np.maximum(lengths - n + 1, 0)
        both = (count[:, None] > 0) & (count[None] > 0)
        precision += common / np.maximum(count[:, None], 1) * both
        recall += common / np.maximum(count[None], 1) * both
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def _common(owners: NDArray[np.int64], grams: NDArray[np.int64], samples: int) -> NDArray[np.float64]:
    """Returns how many n-grams, counted as often as both have them, every two texts have in common."""
    if len(grams) == 0:
        return np.zeros((samples, samples))
    keys = np.sort(grams * samples + owners)
    # How often the same text had the same n-gram before.
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    before = np.arange(len(keys)) - np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    columns = np.unique(keys // samples * (int(before.max()) + 1) + before, return_inverse=True)[1]
    has = np.zeros((samples, int(columns.max()) + 1), dtype=np.float32)
    has[keys % samples, columns] = 1
    return (has @ has.T).astype(np.float64)
