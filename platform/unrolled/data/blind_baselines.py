"""Baselines that never look at the photograph.

A model that answers questions about photographs has learned to look only as far as it does better than these.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from unrolled.data.questions import Box, Question

ADDED = 0.01
"""Counts that every word has with every answer: few, for most answers have few words."""


def chance_accuracy(asked: Sequence[Question]) -> float:
    """Returns the share of questions, all with candidates, that drawing one of these gets right on average."""
    return sum(1 / len(each.choices) for each in asked) / len(asked)


def most_common_answer(train: Sequence[Question]) -> str:
    """Returns the answer that most questions have: the best that is said to all of them."""
    return Counter(each.answer for each in train).most_common(1)[0][0]


def most_frequent(train: Sequence[Question], asked: Sequence[Question]) -> list[int]:
    """Returns for each question the candidate, by its place, that is the answer to most questions in `train`."""
    counts = Counter(each.answer for each in train)
    return [_highest([counts[choice] for choice in each.choices]) for each in asked]


def naive_bayes(train: Sequence[Question], asked: Sequence[Question]) -> list[int]:
    """Returns for each question the candidate, by its place, under which its words are likeliest: naive Bayes on the
    question alone, all answers alike before it is read.

    An answer that no question in `train` has is not chosen, though it is often right where wrong candidates were drawn
    from the answers of `train`: that would be known of how the data were made, not of the question.
    """
    words: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in train:
        words[each.answer].update(_words(each.question))
    totals = {answer: counts.total() for answer, counts in words.items()}
    known = {word for counts in words.values() for word in counts}

    def likelihood(answer: str, said: Sequence[str]) -> float:
        if answer not in totals:
            return -math.inf
        least = math.log(totals[answer] + ADDED * len(known))
        return sum(math.log(words[answer][word] + ADDED) - least for word in said)

    chosen = []
    for each in asked:
        said = [word for word in _words(each.question) if word in known]
        chosen.append(_highest([likelihood(choice, said) for choice in each.choices]))
    return chosen


def largest_region(questions: Sequence[Question], boxes: Mapping[str, Box]) -> list[int]:
    """Returns the index of the candidate whose box has the most pixels, for each question.

    Args:
        boxes: of the candidates by id.
    """

    def area(choice: str) -> float:
        _, _, width, height = boxes[choice]
        return width * height

    return [_highest([area(choice) for choice in question.choices]) for question in questions]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _highest(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
