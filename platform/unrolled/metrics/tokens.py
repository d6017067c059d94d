"""Words of captions, as the captioning convention counts them, and their n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from html import unescape

Ngrams = Counter[tuple[str, ...]]

WORDS = "tok:ptb-lower-nopunct"
"""What `caption_words` is called in signatures."""

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
def caption_words(text: str) -> tuple[str, ...]:
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
