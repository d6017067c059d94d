"""Words of captions, their n-grams, and measures of word variety and length.

Words of captions, as the captioning convention counts them, and their n-grams.

Measures of the outputs' words themselves: how varied they are, and how many.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
"""What `tokenize_caption` is called in signatures."""

_CUT = (
    "can(?=not\\b)|(?:gon|wan)(?=na\\b)|got(?=ta\\b)|(?:lem|gim)(?=me\\b)"  # one word in writing, two to the Treebank
)
_CLITIC = r"n't\b|'(?:s|m|d|ll|re|ve)\b"
_TOKEN = re.compile(
    rf"""(?:[^\W\d_]\.){{2,}}           # u.s.
    |\b(?:{_CUT})
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

    The convention is that of the COCO caption evaluation (Chen et al. 2015): Penn Treebank tokens, which cut
    "isn't" into "is n't" and "dog's" into "dog 's", less quotation marks, full stops, commas, colons,
    semicolons, dashes, question and exclamation marks; brackets stay.
    """
    plain = unescape(text).lower().replace("’", "'")
    return tuple(token for token in _TOKEN.findall(plain) if not _DROPPED.fullmatch(token))


def ngrams(words: Sequence[str], longest: int) -> Ngrams:
    """Returns how often each run of 1 to `longest` words occurs."""
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    )


class Distinct(CorpusMetric):
    """Distinct-n: the percentage of a corpus's n-grams of words that are different ones (Li et al. 2016).

    Li et al. divide by the words; this is the later custom of dividing by the n-grams, so 100 can be reached
    for every n.  It falls as a corpus grows, so compare equally many outputs; it is no sum over sentences and
    has no bootstrap interval.  References are not read.  `compute` returns "distinct_1" or "distinct_2" (0 to
    100; 0 where no output has n words) and "signature".
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
        every = [words[start : start + self.order] for words in texts for start in range(len(words) - self.order + 1)]
        score = 100 * len(set(every)) / len(every) if every else 0.0
        return {self.key: score, "signature": f"{TOKENIZER_SIGNATURE}|n:{self.order}|per:ngrams"}


class LengthRatio(SummedMetric):
    """The words written over the words of the references, the nearest in length where there are several.

    Words stand between spaces.  1 is as long as the references; neither more nor less is better by itself.
    `compute` returns "length_ratio"; it is infinite where all references are empty and some output is not.
    """

    key = "length_ratio"
    description = "The words of the outputs over the words of the references."

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, truths in zip(predictions, as_reference_lists(references), strict=True):
            written, lengths = len(text.split()), [len(truth.split()) for truth in truths]
            rows.append((written, min((abs(length - written), length) for length in lengths)[1]))
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        written, expected = totals[..., 0], totals[..., 1]
        return np.where(expected > 0, safe_divide(written, expected), np.where(written > 0, np.inf, 1.0))
