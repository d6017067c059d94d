"""How well words are found, by how often the training split has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

BINS = (("never", 0), ("1–9 times", 9), ("10–99 times", 99), ("100–999 times", 999), ("1,000 times or more", None))
"""What each bin is called, and the largest count in it."""


def words(text: str) -> list[str]:
    """Returns the words of a text as BLEU counts them."""
    return str(Tokenizer13a()(text)).split()


def f1_by_frequency(
    training: Iterable[str], outputs: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Returns for every system a row a bin: `label`, the `words` of the references in it, and `f1`, 0 to 1: the
    harmonic mean of the shares of its written words that the reference has and of the reference's that are written, a
    word counting as often as both have it. Bins without words of the references are left out.

    Args:
        training: target texts of the training split.
        outputs: by the names of the systems.
    """
    counts = Counter(word for text in training for word in words(text))
    expected = [Counter(words(text)) for text in references]
    wanted = _binned(counts, expected)
    rows = {}
    for name, texts in outputs.items():
        written = [Counter(words(text)) for text in texts]
        right = _binned(counts, [one & other for one, other in zip(written, expected, strict=True)])
        emitted = _binned(counts, written)
        rows[name] = [
            {"label": label, "words": wanted[place], "f1": 2 * right[place] / (wanted[place] + emitted[place])}
            for place, (label, _) in enumerate(BINS)
            if wanted[place]
        ]
    return rows


def _binned(counts: Mapping[str, int], sentences: Iterable[Counter[str]]) -> Counter[int]:
    """Returns how many words are in every bin."""
    total: Counter[int] = Counter()
    for sentence in sentences:
        for word, times in sentence.items():
            total[_bin(counts.get(word, 0))] += times
    return total


def _bin(count: int) -> int:
    return next(place for place, (_, most) in enumerate(BINS) if most is None or count <= most)
