"""METEOR without word lists: matches of words and of their stems."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import snowballstemmer

from unrolled.metrics.base import References, Statistics, SummedMetric, Texts, divided, grouped, own_signature
from unrolled.metrics.tokens import WORDS, caption_words

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
        for text, truths in zip(predictions, grouped(references), strict=True):
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
        mean = divided(matches, ALPHA * expected + (1 - ALPHA) * written)
        return 100 * mean * (1 - GAMMA * divided(chunks, matches) ** BETA)

    def signature(self, references: References) -> str:
        parameters = f"alpha:{ALPHA}|beta:{BETA:g}|gamma:{GAMMA}"
        return own_signature(
            f"variant:banerjee-lavie-2005|modules:exact,stem|stemmer:snowball-english|{parameters}|chunks:fewest|{WORDS}",
            references,
        )


def _stems(text: str) -> tuple[str, ...]:
    return tuple(_stem(word) for word in caption_words(text))


def _compared(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, int, int, int]:
    """Returns matches, chunks, and the words of both."""
    matches = (Counter(ours) & Counter(theirs)).total()
    return matches, fewest_chunks(ours, theirs), len(ours), len(theirs)


def fewest_chunks(ours: Sequence[str], theirs: Sequence[str]) -> int:
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
