"""What texts have in common: their n-grams, of every two at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


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
