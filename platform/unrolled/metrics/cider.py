"""CIDEr-D (Vedantam, Zitnick and Parikh 2015): as a metric, and as the reward of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from unrolled.metrics.base import MeanMetric, References, Texts, grouped, own_signature
from unrolled.metrics.tokens import WORDS, Ngrams, caption_words, ngrams

LONGEST, SIGMA = 4, 6.0
"""Words of the longest n-grams, and the standard deviation of the penalty for another length."""
END = "</s>"
"""Stands behind the words of a caption that is rewarded for ending; `caption_words` never gives it."""


class CiderD(MeanMetric):
    """CIDEr-D: how near a caption is to its references in the space of tf-idf weighted 1- to 4-grams.

    Vedantam, Zitnick and Parikh 2015, equation 7, with σ = 6.  The weights come from the references scored
    against: what many pictures share counts little, and with a single picture everything scores 0.  Words are
    not stemmed, as in the COCO caption evaluation.  `compute` returns "cider_d" as papers print it, 100 times
    what the COCO program prints: 0 to 1000; and "signature".
    """

    key = "cider_d"
    description = "CIDEr-D: the likeness of captions to their references, rare words weighing most."
    citation = "Vedantam et al., CIDEr, 2015, https://arxiv.org/abs/1411.5726"

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        counted = [[ngrams(caption_words(text), LONGEST) for text in texts] for texts in grouped(references)]
        rarity = Rarity(counted)
        return [
            1000 * likeness(rarity.weigh(ngrams(caption_words(text), LONGEST)), [rarity.weigh(each) for each in truths])
            for text, truths in zip(predictions, counted, strict=True)
        ]

    def signature(self, references: References) -> str:
        return own_signature(f"{WORDS}|n:{LONGEST}|sigma:{SIGMA:g}|df:references|stem:no", references)


class CiderReward:
    """CIDEr-D of captions as the COCO program prints it, 0 to 10, the weights coming from all references of a corpus.

    The end of a caption counts as its last word, in references, too: else it would pay to leave off the end of a
    sentence that the references put in many ways ("a dog runs through a"; Hu et al. 2023, "A request for clarity over
    the end of sequence token in the self-critical sequence training").

    Args:
        references: of every picture, as `caption_words` takes them.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._references = references
        self._rarity = Rarity([_ended(text) for text in texts] for texts in references)

    def __call__(self, picture: int, captions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """Rewards captions of one picture.

        Args:
            ended: False for a caption that was cut off at its greatest length.
        """
        truths = [self._rarity.weigh(_ended(text)) for text in self._references[picture]]
        written = (_ended(text, end) for text, end in zip(captions, ended, strict=True))
        return [10 * likeness(self._rarity.weigh(counts), truths) for counts in written]


def _ended(text: str, end: bool = True) -> Ngrams:
    return ngrams((*caption_words(text), END) if end else caption_words(text), LONGEST)


class Weighted:
    """A caption as a vector: the weight of every n-gram, the vector's norm for each n, and its words."""

    def __init__(self, counts: Ngrams, weights: dict[tuple[str, ...], float], unknown: float) -> None:
        self.vector = {ngram: count * weights.get(ngram, unknown) for ngram, count in counts.items()}
        squares = [0.0] * LONGEST
        self.words = 0
        for ngram, value in self.vector.items():
            squares[len(ngram) - 1] += value * value
            if len(ngram) == 1:
                self.words += counts[ngram]
        self.norms = [math.sqrt(square) for square in squares]


class Rarity:
    """What n-grams weigh: the logarithm of one over the share of pictures in whose references they stand.

    Args:
        counted: the n-grams of every picture's references, read once.
    """

    def __init__(self, counted: Iterable[Sequence[Ngrams]]) -> None:
        pictures: Counter[tuple[str, ...]] = Counter()
        total = 0
        for truths in counted:
            pictures.update(set().union(*truths))
            total += 1
        self._rarest = math.log(total)
        # Those of one picture, most of them, weigh as much as those of none.
        self._weights = {ngram: self._rarest - math.log(count) for ngram, count in pictures.items() if count > 1}

    def weigh(self, counts: Ngrams) -> Weighted:
        """Returns a caption, given by its n-grams, as a vector."""
        return Weighted(counts, self._weights, self._rarest)


def likeness(ours: Weighted, truths: Sequence[Weighted]) -> float:
    """Returns the mean over the references of how like a caption is to them, 0 to 1."""
    return sum(_likeness(ours, truth) for truth in truths) / len(truths)


def _likeness(ours: Weighted, theirs: Weighted) -> float:
    """Returns the mean over n of the clipped cosine of two captions, less for different lengths, 0 to 1."""
    products = [0.0] * LONGEST
    for ngram in ours.vector.keys() & theirs.vector.keys():
        products[len(ngram) - 1] += min(ours.vector[ngram], theirs.vector[ngram]) * theirs.vector[ngram]
    sizes = zip(products, ours.norms, theirs.norms, strict=True)
    cosines = sum(product / (our * their) for product, our, their in sizes if our and their)
    return cosines / LONGEST * math.exp(-((ours.words - theirs.words) ** 2) / (2 * SIGMA**2))
