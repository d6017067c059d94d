"""Caption metrics of the COCO evaluation (Chen et al. 2015): BLEU, ROUGE-L, METEOR and CIDEr-D.

All compare lower-case words without punctuation (`tokenize_caption`) and accept several references.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import unescape

import numpy as np
import snowballstemmer

from unrolled.metrics.base import (
    MeanMetric,
    MeanTextMetric,
    References,
    Statistics,
    SummedMetric,
    Texts,
    as_reference_lists,
    safe_divide,
)
from unrolled.metrics.translation import brevity_penalty

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


class CaptionBleu(SummedMetric):
    """BLEU-n of a corpus of captions, n from 1 to 4: unsmoothed, with the reference length closest to each caption.

    Papineni et al. 2002; of two equally close references the shorter counts. `compute` returns the score, 0 to 100,
    under "bleu_1" to "bleu_4", and "signature".
    """

    citation = "Papineni et al., BLEU, 2002, https://aclanthology.org/P02-1040"
    settings = f"{TOKENIZER_SIGNATURE}|length:closest|smooth:none"

    def __init__(self, order: int) -> None:
        self.order, self.key = order, f"bleu_{order}"
        self.description = f"BLEU-{order} of captions: the geometric mean of the precisions of 1- to {order}-grams."
        super().__init__()

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        pairs = zip(predictions, as_reference_lists(references), strict=True)
        return np.array([self._statistics(text, own) for text, own in pairs], dtype=np.float64)

    def _statistics(self, prediction: str, references: list[str]) -> list[int]:
        """Returns the numbers of words predicted and expected, of correct n-grams of each order, and of all n-grams."""
        words, reference_words = tokenize_caption(prediction), [tokenize_caption(text) for text in references]
        expected = closest_length(len(words), map(len, reference_words))
        available: Ngrams = Counter()
        for reference in reference_words:
            available |= ngrams(reference, self.order)
        correct = [0] * self.order
        for ngram, count in (ngrams(words, self.order) & available).items():
            correct[len(ngram) - 1] += count
        return [len(words), expected, *correct, *(max(0, len(words) - n) for n in range(self.order))]

    def from_statistics(self, totals: Statistics) -> Statistics:
        correct, written = totals[..., 2 : 2 + self.order], totals[..., 2 + self.order :]
        precision: Statistics = np.prod(safe_divide(correct, written), axis=-1) ** (1 / self.order)
        return 100 * brevity_penalty(totals[..., 0], totals[..., 1]) * precision


class RougeL(MeanTextMetric):
    """ROUGE-L of captions: the F-score, β = 1.2, of the longest common subsequence, averaged over captions.

    Lin 2004; as in the COCO caption evaluation, precision and recall are each the best over the references. An empty
    caption scores 100 if a reference is empty too, else 0. `compute` returns "rouge_l", 0 to 100, and "signature".
    """

    key = "rouge_l"
    description = "ROUGE-L of captions: the F-score of the longest common subsequence of words."
    citation = "Lin, ROUGE, 2004, https://aclanthology.org/W04-1013"
    BETA = 1.2
    settings = f"{TOKENIZER_SIGNATURE}|beta:{BETA}|refs:best-precision-best-recall"

    def score_text(self, text: str, references: Sequence[str]) -> float:
        words, reference_words = tokenize_caption(text), [tokenize_caption(reference) for reference in references]
        if words in reference_words:
            return 100.0
        lengths = [lcs_length(words, reference) for reference in reference_words]
        if not any(lengths):
            return 0.0
        precision = max(lengths) / len(words)
        recall = max(
            length / len(reference) for length, reference in zip(lengths, reference_words, strict=True) if reference
        )
        weight = self.BETA**2
        return 100 * (1 + weight) * precision * recall / (recall + weight * precision)


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, with one bit per cell of a table row (Hyyrö 2004)."""
    positions: dict[str, int] = defaultdict(int)
    for position, word in enumerate(one):
        positions[word] |= 1 << position
    mask = (1 << len(one)) - 1
    row = mask
    for word in other:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & mask
    return len(one) - row.bit_count()


MAX_ORDER, SIGMA = 4, 6.0
"""Longest n-grams of CIDEr-D, and the standard deviation of its penalty for different lengths."""
END = "</s>"
"""Appended to the words of a complete caption in `CiderReward`; `tokenize_caption` never returns it."""


class CiderD(MeanMetric):
    """CIDEr-D: cosine similarity of a caption and its references as vectors of tf-idf weighted 1- to 4-grams.

    Vedantam, Zitnick and Parikh 2015, equation 7, with σ = 6. Document frequencies are those of the references: n-grams
    that many images share count little, and with a single image everything scores 0. Words are not stemmed, as in the
    COCO caption evaluation. `compute` returns "cider_d" as printed in papers, 100 times the output of the COCO program:
    0 to 1000; and "signature".
    """

    key = "cider_d"
    description = "CIDEr-D: the likeness of captions to their references, rare words weighing most."
    citation = "Vedantam et al., CIDEr, 2015, https://arxiv.org/abs/1411.5726"
    settings = f"{TOKENIZER_SIGNATURE}|n:{MAX_ORDER}|sigma:{SIGMA:g}|df:references|stem:no"

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        counts = [[_caption_ngrams(text) for text in own] for own in as_reference_lists(references)]
        idf = IdfWeights(counts)
        return [
            1000 * cider_similarity(idf.vector(_caption_ngrams(text)), [idf.vector(each) for each in own])
            for text, own in zip(predictions, counts, strict=True)
        ]


class CiderReward:
    """CIDEr-D of captions as printed by the COCO program, 0 to 10, with the document frequencies of a whole corpus.

    The end of a caption counts as its last word, in references too: otherwise the reward favours captions without the
    end of a sentence that references complete in many ways ("a dog runs through a"; Hu et al. 2023, "A request for
    clarity over the end of sequence token in the self-critical sequence training").

    Args:
        references: texts for every image.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._references = references
        self._idf = IdfWeights([_caption_ngrams(text, END) for text in own] for own in references)

    def __call__(self, image: int, captions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """Returns the rewards of captions of one image.

        Args:
            image: its index in the references.
            ended: False for a caption that was cut off at its maximum length.
        """
        references = [self._idf.vector(_caption_ngrams(text, END)) for text in self._references[image]]
        counts = (_caption_ngrams(text, *[END] * end) for text, end in zip(captions, ended, strict=True))
        return [10 * cider_similarity(self._idf.vector(each), references) for each in counts]


def _caption_ngrams(text: str, *end: str) -> Ngrams:
    return ngrams((*tokenize_caption(text), *end), MAX_ORDER)


class IdfWeights:
    """Inverse document frequencies of n-grams; a document is the set of references of one image.

    Args:
        counts: the n-gram counts of every image's references, iterated over once.
    """

    def __init__(self, counts: Iterable[Sequence[Ngrams]]) -> None:
        frequencies: Counter[tuple[str, ...]] = Counter()
        images = 0
        for references in counts:
            frequencies.update(set().union(*references))
            images += 1
        self._unseen = math.log(images)
        # N-grams of one image, most of all, have the weight of unseen ones and are not stored.
        self._weights = {ngram: self._unseen - math.log(count) for ngram, count in frequencies.items() if count > 1}

    def vector(self, counts: Ngrams) -> TfIdfVector:
        """Returns the vector of a caption with these n-gram counts."""
        return TfIdfVector(counts, self._weights, self._unseen)


class TfIdfVector:
    """A caption as a vector: the weight of every n-gram, the norm of the vector for each order, and the word count."""

    def __init__(self, counts: Ngrams, weights: dict[tuple[str, ...], float], unseen: float) -> None:
        self.weights = {ngram: count * weights.get(ngram, unseen) for ngram, count in counts.items()}
        squares = [0.0] * MAX_ORDER
        self.words = 0
        for ngram, value in self.weights.items():
            squares[len(ngram) - 1] += value * value
            if len(ngram) == 1:
                self.words += counts[ngram]
        self.norms = [math.sqrt(square) for square in squares]


def cider_similarity(caption: TfIdfVector, references: Sequence[TfIdfVector]) -> float:
    """Returns the similarity of a caption to its references, averaged over these, 0 to 1."""
    return sum(_pair_similarity(caption, reference) for reference in references) / len(references)


def _pair_similarity(caption: TfIdfVector, reference: TfIdfVector) -> float:
    """Returns the clipped cosine averaged over n-gram orders, times the penalty for different lengths, 0 to 1."""
    products = [0.0] * MAX_ORDER
    # In the order of the caption, not of a set, so that rounding is the same in every process.
    for ngram, weight in caption.weights.items():
        if other := reference.weights.get(ngram):
            products[len(ngram) - 1] += min(weight, other) * other
    norms = zip(products, caption.norms, reference.norms, strict=True)
    cosines = sum(product / (norm * other_norm) for product, norm, other_norm in norms if norm and other_norm)
    return cosines / MAX_ORDER * math.exp(-((caption.words - reference.words) ** 2) / (2 * SIGMA**2))


ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
"""Parameters of METEOR."""
BEAM_SIZE = 40
"""Alignments kept by `min_chunks`."""

_stem = lru_cache(maxsize=100_000)(snowballstemmer.stemmer("english").stemWord)


class Meteor(SummedMetric):
    """METEOR of English texts with two of its modules, equal words and equal stems.

    Banerjee and Lavie 2005, with their parameters: F = P R / (α P + (1 − α) R), α = 0.9, which is their
    10 P R / (R + 9 P), and the score F (1 − γ (chunks / matches)^β), β = 3, γ = 0.5. Synonyms are not matched, as they
    require WordNet, so scores are lower than those of the full program and comparable only among themselves. The
    stemmer is Snowball's for English ("Porter 2"), as in METEOR 1.0 to 1.5.

    As many words as possible are matched, each once, in as few chunks as possible (Denkowski and Lavie 2011; the 2005
    paper minimised crossings). The reference with the best score counts, and a corpus is scored from the sums of
    matches, chunks and words over its sentences. `compute` returns "meteor", 0 to 100, and "signature".
    """

    key = "meteor"
    description = "METEOR with exact and stem matches: words found, recall first, in as few pieces as possible."
    citation = "Banerjee and Lavie, METEOR, 2005, https://aclanthology.org/W05-0909"
    settings = (
        "variant:banerjee-lavie-2005|modules:exact,stem|stemmer:snowball-english|"
        f"alpha:{ALPHA}|beta:{BETA:g}|gamma:{GAMMA}|chunks:fewest|{TOKENIZER_SIGNATURE}"
    )

    def sentence_statistics(self, predictions: Texts, references: References) -> Statistics:
        rows = []
        for text, own in zip(predictions, as_reference_lists(references), strict=True):
            stems = _stems(text)
            each = [
                ((Counter(stems) & Counter(other)).total(), min_chunks(stems, other), len(stems), len(other))
                for other in map(_stems, own)
            ]
            scores = self.from_statistics(np.array(each, dtype=np.float64))
            # Among equal scores the shortest reference, so that the order of references makes no difference.
            best = max(range(len(own)), key=lambda index: (scores[index], -each[index][3], each[index]))
            rows.append(each[best])
        return np.array(rows, dtype=np.float64)

    def from_statistics(self, totals: Statistics) -> Statistics:
        matches, chunks, written, expected = (totals[..., column] for column in range(4))
        # F in numbers of words: P = matches / written, R = matches / expected.
        mean = safe_divide(matches, ALPHA * expected + (1 - ALPHA) * written)
        return 100 * mean * (1 - GAMMA * safe_divide(chunks, matches) ** BETA)


def _stems(text: str) -> tuple[str, ...]:
    return tuple(_stem(word) for word in tokenize_caption(text))


def min_chunks(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the smallest number of chunks, runs of words consecutive on both sides, that match all words possible.

    A beam search over the words of `one` from left to right keeps the `BEAM_SIZE` best alignments, which are all there
    are unless several words occur often on both sides.
    """
    positions: dict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(other):
        positions[word].append(position)
    remaining = Counter(one)
    beam = {(-2, frozenset[int]()): 0}  # (position matched last, -2 for none; all positions taken): chunks so far
    for word in one:
        remaining[word] -= 1
        extended: dict[tuple[int, frozenset[int]], int] = {}
        for (last, taken), chunks in beam.items():
            free = [position for position in positions[word] if position not in taken]
            options = [((position, taken | {position}), chunks + (position != last + 1)) for position in free]
            if len(free) <= remaining[word]:  # enough occurrences of this word follow to match them all
                options.append(((-2, taken), chunks))
            for state, cost in options:
                extended[state] = min(cost, extended.get(state, cost))
        beam = dict(sorted(extended.items(), key=lambda item: item[1])[:BEAM_SIZE])
    return min(beam.values())
