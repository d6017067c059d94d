"""Words and n-grams of captions; metrics of word variety and output length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import unescape
from typing import Any

import numpy as np

from unrolled.metrics.base import (
    CorpusMetric,
    References,
    Statistics,
    SummedMetric,
    Texts,
    as_reference_lists,
    safe_divide,
)

Ngrams = Counter[tuple[str, ...]]

TOKENIZER_SIGNATURE = "tok:ptb-lower-nopunct"
"""`tokenize_caption` in signatures."""

_SPLIT = (
    "can(?=not\\b)|(?:gon|wan)(?=na\\b)|got(?=ta\\b)|(?:lem|gim)(?=me\\b)"  # one word in writing, two to the Treebank
)
_CLITIC = r"n't\b|'(?:s|m|d|ll|re|ve)\b"
_TOKEN = re.compile(
    rf"""(?:[^\W\d_]\.){{2,}}           # u.s.
    |\b(?:{_SPLIT})
    |[^\W_]+?(?={_CLITIC})|{_CLITIC}    # is n't, dog 's
    |\d+(?:[.,:/]\d+)+                  # 1,000 and 3.5
    |\w+(?:[-/.@&']\w+)*                # t-shirt, o'clock
    |\.+|-+|\S""",
    re.VERBOSE,
)
_DROPPED = re.compile(r"""[.?!,:;'"`“”„‘’…–—-]+""")


@lru_cache(maxsize=100_000)
def tokenize_caption(text: str) -> tuple[str, ...]:
    """Returns the words of a text in lower case, without punctuation.

    As in the COCO caption evaluation (Chen et al. 2015): Penn Treebank tokens, which split "isn't" into "is n't" and
    "dog's" into "dog 's", without quotation marks, full stops, commas, colons, semicolons, dashes, question and
    exclamation marks; brackets remain.
    """
    plain = unescape(text).lower().replace("’", "'")
    return tuple(token for token in _TOKEN.findall(plain) if not _DROPPED.fullmatch(token))


def ngrams(words: Sequence[str], max_order: int) -> Ngrams:
    """Returns the counts of all n-grams of 1 to `max_order` words."""
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, max_order + 1)
        for start in range(len(words) - order + 1)
    )


def closest_length(length: int, references: Iterable[int]) -> int:
    """Returns the reference length closest to `length`, the shorter of two equally close ones."""
    return min(references, key=lambda reference: (abs(reference - length), reference))


class Distinct(CorpusMetric):
    """Distinct-n: the percentage of distinct n-grams among all word n-grams of a corpus (Li et al. 2016).

    Li et al. divide by the number of words; as is now common, this divides by the number of n-grams, so 100 can be
    reached for every n. It falls as a corpus grows, so compare corpora of equal size; it is not a sum over sentences
    and has no bootstrap interval. References are ignored. `compute` returns "distinct_1" or "distinct_2" (0 to 100; 0
    if no output has n words) and "signature".
    """

    citation = "Li et al., A Diversity-Promoting Objective Function, 2016, https://aclanthology.org/N16-1014"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"distinct_{order}"
        self.description = (
            f"Distinct-{order}: different {order}-grams of all outputs in percent of their {order}-grams."
        )
        super().__init__()

    def _compute(self, predictions: Texts, references: Sequence[Any]) -> dict[str, Any]:
        texts = [tokenize_caption(text) for text in predictions]
        grams = [words[start : start + self.order] for words in texts for start in range(len(words) - self.order + 1)]
        score = 100 * len(set(grams)) / len(grams) if grams else 0.0
        return {self.key: score, "signature": f"{TOKENIZER_SIGNATURE}|n:{self.order}|per:ngrams"}


class LengthRatio(SummedMetric):
    """The number of words written over that of the references, the nearest in length if there are several.

    Words are separated by spaces. 1 means equal length; neither more nor less is better by itself. `compute` returns
    "length_ratio"; it is infinite if all references are empty and some output is not.
    """

    key = "length_ratio"
    description = "The words of the outputs over the words of the references."

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, own in zip(predictions, as_reference_lists(references), strict=True):
            written, lengths = len(text.split()), [len(reference.split()) for reference in own]
            rows.append((written, closest_length(written, lengths)))
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        written, expected = totals[..., 0], totals[..., 1]
        return np.where(expected > 0, safe_divide(written, expected), np.where(written > 0, np.inf, 1.0))
