"""Metrics of captions: BLEU, ROUGE-L, METEOR, CIDEr-D.

Scores of captions by the conventions of the COCO caption evaluation (Chen et al. 2015); CIDEr-D is in `cider`.

All compare lower-case words without punctuation (`unrolled.metrics.words`) and take several references.

CIDEr-D (Vedantam, Zitnick and Parikh 2015): as a metric, and as the reward of training.

METEOR without word lists: matches of words and of their stems.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import snowballstemmer

from unrolled.metrics.base import (
    MeanMetric,
    References,
    Statistics,
    SummedMetric,
    Texts,
    as_reference_lists,
    format_signature,
    safe_divide,
)
from unrolled.metrics.translation import brevity_penalty
from unrolled.metrics.words import TOKENIZER_SIGNATURE, Ngrams, ngrams, tokenize_caption


class CaptionBleu(SummedMetric):
    """BLEU-n of a corpus of captions, n from 1 to 4: unsmoothed, against the reference of the nearest length.

    Papineni et al. 2002; where two references are equally near, the shorter counts.  `compute` returns the
    score, 0 to 100, under "bleu_1" to "bleu_4", and "signature".
    """

    citation = "Papineni et al., BLEU, 2002, https://aclanthology.org/P02-1040"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"bleu_{order}"
        self.description = f"BLEU-{order} of captions: the geometric mean of the precisions of 1- to {order}-grams."
        super().__init__()

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = [
            self._compared(text, truths)
            for text, truths in zip(predictions, as_reference_lists(references), strict=True)
        ]
        return np.array(rows, dtype=np.float64)

    def _compared(self, prediction: str, references: list[str]) -> list[int]:
        """Returns the words predicted and expected, the n-grams of each length that are right, and all of them."""
        words, truths = tokenize_caption(prediction), [tokenize_caption(text) for text in references]
        expected = min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
        most: Ngrams = Counter()
        for truth in truths:
            most |= ngrams(truth, self.order)
        right = [0] * self.order
        for ngram, count in (ngrams(words, self.order) & most).items():
            right[len(ngram) - 1] += count
        return [len(words), expected, *right, *(max(0, len(words) - length) for length in range(self.order))]

    def from_statistics(self, totals: Statistics) -> Statistics:
        right, written = totals[..., 2 : 2 + self.order], totals[..., 2 + self.order :]
        precision: Statistics = np.prod(safe_divide(right, written), axis=-1) ** (1 / self.order)
        return 100 * brevity_penalty(totals[..., 0], totals[..., 1]) * precision

    def signature(self, references: References) -> str:
        return format_signature(f"{TOKENIZER_SIGNATURE}|length:closest|smooth:none", references)


class RougeL(MeanMetric):
    """ROUGE-L of captions: the F-score, β = 1.2, of the longest common subsequence, mean over the captions.

    Lin 2004; as in the COCO caption evaluation, precision and recall are each the best over the references.
    An empty caption scores 100 where a reference is empty too, else 0.  `compute` returns "rouge_l", 0 to 100,
    and "signature".
    """

    key = "rouge_l"
    description = "ROUGE-L of captions: the F-score of the longest common subsequence of words."
    citation = "Lin, ROUGE, 2004, https://aclanthology.org/W04-1013"
    BETA = 1.2

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [
            self._score(text, truths) for text, truths in zip(predictions, as_reference_lists(references), strict=True)
        ]

    def _score(self, prediction: str, references: list[str]) -> float:
        words, truths = tokenize_caption(prediction), [tokenize_caption(text) for text in references]
        if words in truths:
            return 100.0
        common = [lcs_length(words, truth) for truth in truths]
        if not any(common):
            return 0.0
        precision = max(common) / len(words)
        recall = max(length / len(truth) for length, truth in zip(common, truths, strict=True) if truth)
        weight = self.BETA**2
        return 100 * (1 + weight) * precision * recall / (recall + weight * precision)

    def signature(self, references: References) -> str:
        return format_signature(f"{TOKENIZER_SIGNATURE}|beta:{self.BETA}|refs:best-precision-best-recall", references)


def lcs_length(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, a row of the table in one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(ours):
        places[word] |= 1 << place
    every = (1 << len(ours)) - 1
    row = every
    for word in theirs:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(ours) - row.bit_count()


LONGEST, SIGMA = 4, 6.0
"""Words of the longest n-grams, and the standard deviation of the penalty for another length."""
END = "</s>"
"""Stands behind the words of a caption that is rewarded for ending; `tokenize_caption` never gives it."""


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
        counted = [
            [ngrams(tokenize_caption(text), LONGEST) for text in texts] for texts in as_reference_lists(references)
        ]
        rarity = IdfWeights(counted)
        return [
            1000
            * cider_similarity(
                rarity.weigh(ngrams(tokenize_caption(text), LONGEST)), [rarity.weigh(each) for each in truths]
            )
            for text, truths in zip(predictions, counted, strict=True)
        ]

    def signature(self, references: References) -> str:
        return format_signature(f"{TOKENIZER_SIGNATURE}|n:{LONGEST}|sigma:{SIGMA:g}|df:references|stem:no", references)


class CiderReward:
    """CIDEr-D of captions as the COCO program prints it, 0 to 10, the weights coming from all references of a corpus.

    The end of a caption counts as its last word, in references, too: else it would pay to leave off the end of a
    sentence that the references put in many ways ("a dog runs through a"; Hu et al. 2023, "A request for clarity over
    the end of sequence token in the self-critical sequence training").

    Args:
        references: of every picture, as `tokenize_caption` takes them.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._references = references
        self._rarity = IdfWeights([_ended(text) for text in texts] for texts in references)

    def __call__(self, picture: int, captions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """Rewards captions of one picture.

        Args:
            ended: False for a caption that was cut off at its greatest length.
        """
        truths = [self._rarity.weigh(_ended(text)) for text in self._references[picture]]
        written = (_ended(text, end) for text, end in zip(captions, ended, strict=True))
        return [10 * cider_similarity(self._rarity.weigh(counts), truths) for counts in written]


def _ended(text: str, end: bool = True) -> Ngrams:
    return ngrams((*tokenize_caption(text), END) if end else tokenize_caption(text), LONGEST)


class TfIdfVector:
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


class IdfWeights:
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

    def weigh(self, counts: Ngrams) -> TfIdfVector:
        """Returns a caption, given by its n-grams, as a vector."""
        return TfIdfVector(counts, self._weights, self._rarest)


def cider_similarity(ours: TfIdfVector, truths: Sequence[TfIdfVector]) -> float:
    """Returns the mean over the references of how like a caption is to them, 0 to 1."""
    return sum(_likeness(ours, truth) for truth in truths) / len(truths)


def _likeness(ours: TfIdfVector, theirs: TfIdfVector) -> float:
    """Returns the mean over n of the clipped cosine of two captions, less for different lengths, 0 to 1."""
    products = [0.0] * LONGEST
    for ngram in ours.vector.keys() & theirs.vector.keys():
        products[len(ngram) - 1] += min(ours.vector[ngram], theirs.vector[ngram]) * theirs.vector[ngram]
    sizes = zip(products, ours.norms, theirs.norms, strict=True)
    cosines = sum(product / (our * their) for product, our, their in sizes if our and their)
    return cosines / LONGEST * math.exp(-((ours.words - theirs.words) ** 2) / (2 * SIGMA**2))


ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
BEAM = 40

_english = snowballstemmer.stemmer("english")
_stem = lru_cache(maxsize=100_000)(_english.stemWord)


class Meteor(SummedMetric):
    """METEOR of English texts with two of its modules, equal words and equal stems.

    Banerjee and Lavie 2005, with their parameters: F = P R / (α P + (1 − α) R), α = 0.9, which is their
    10 P R / (R + 9 P), and the score F (1 − γ (chunks / matches)^β), β = 3, γ = 0.5.  Synonyms are not matched:
    they need WordNet, which is no part of an offline program, so scores are below those of the full program
    and comparable among themselves alone.  The stemmer is Porter's English one of Snowball ("Porter 2"), as in
    METEOR 1.0 to 1.5.

    As many words as possible are matched, each once, in as few chunks as possible (Denkowski and Lavie 2011; the
    2005 paper asked for the fewest crossings).  Of several references the one with the best score counts, and
    a corpus is scored from the sums of matches, chunks and words over its sentences.  `compute` returns "meteor",
    0 to 100, and "signature".
    """

    key = "meteor"
    description = "METEOR with exact and stem matches: words found, recall first, in as few pieces as possible."
    citation = "Banerjee and Lavie, METEOR, 2005, https://aclanthology.org/W05-0909"

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, truths in zip(predictions, as_reference_lists(references), strict=True):
            stems = _stems(text)
            against = [_compared(stems, _stems(truth)) for truth in truths]
            scores = self.from_statistics(np.array(against, dtype=np.float64))
            # Among equal scores the shortest reference, so that the order of references makes no difference.
            best = max(range(len(truths)), key=lambda place: (scores[place], -against[place][3], against[place]))
            rows.append(against[best])
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        matches, chunks, written, expected = (totals[..., column] for column in range(4))
        # F in numbers of words: P = matches / written, R = matches / expected.
        mean = safe_divide(matches, ALPHA * expected + (1 - ALPHA) * written)
        return 100 * mean * (1 - GAMMA * safe_divide(chunks, matches) ** BETA)

    def signature(self, references: References) -> str:
        parameters = f"alpha:{ALPHA}|beta:{BETA:g}|gamma:{GAMMA}"
        return format_signature(
            f"variant:banerjee-lavie-2005|modules:exact,stem|stemmer:snowball-english|{parameters}|chunks:fewest|{TOKENIZER_SIGNATURE}",
            references,
        )


def _stems(text: str) -> tuple[str, ...]:
    return tuple(_stem(word) for word in tokenize_caption(text))


def _compared(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, int, int, int]:
    """Returns matches, chunks, and the words of both."""
    matches = (Counter(ours) & Counter(theirs)).total()
    return matches, min_chunks(ours, theirs), len(ours), len(theirs)


def min_chunks(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Returns in how many runs, consecutive on both sides, all words that can be matched are matched at best.

    A beam search over our words from left to right: the `BEAM` best matchings so far are kept, which is all
    there are unless several words occur often on both sides.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(theirs):
        places[word].append(place)
    left = Counter(ours)
    beam = {(-2, frozenset[int]()): 0}  # the place matched last, -2 for none; all places taken: chunks so far
    for word in ours:
        left[word] -= 1
        grown: dict[tuple[int, frozenset[int]], int] = {}
        for (last, taken), chunks in beam.items():
            free = [place for place in places[word] if place not in taken]
            options = [((place, taken | {place}), chunks + (place != last + 1)) for place in free]
            if len(free) <= left[word]:  # enough of this word follow to match them all
                options.append(((-2, taken), chunks))
            for state, cost in options:
                grown[state] = min(cost, grown.get(state, cost))
        beam = dict(sorted(grown.items(), key=lambda item: item[1])[:BEAM])
    return min(beam.values())
