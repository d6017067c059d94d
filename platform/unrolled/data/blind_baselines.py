"""Baselines that answer questions without the photograph.

A model that answers questions about photographs uses them only as far as it is better than these.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from unrolled.data.questions import Box, Question

SMOOTHING = 0.01
"""Added to the count of every word under every answer: small, for most answers have few words."""


def chance_accuracy(questions: Sequence[Question]) -> float:
    """Returns the expected accuracy of drawing one of the candidates of each question."""
    return sum(1 / len(each.choices) for each in questions) / len(questions)


def most_common_answer(train: Sequence[Question]) -> str:
    """Returns the answer of most questions, the best one that ignores the question."""
    return Counter(each.answer for each in train).most_common(1)[0][0]


def most_frequent(train: Sequence[Question], questions: Sequence[Question]) -> list[int]:
    """Returns for each question the index of the candidate that is the answer to most questions in `train`."""
    counts = Counter(each.answer for each in train)
    return [_argmax([counts[choice] for choice in each.choices]) for each in questions]


def naive_bayes(train: Sequence[Question], questions: Sequence[Question]) -> list[int]:
    """Returns for each question the index of the candidate under which its words are most probable: naive Bayes on the
    question alone, with a uniform prior over answers.

    An answer of no question in `train` is never chosen, though it is often right where wrong candidates were drawn
    from the answers of `train`: that is a property of the data's construction, not of the question.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in train:
        counts[each.answer].update(_words(each.question))
    totals = {answer: words.total() for answer, words in counts.items()}
    known = {word for words in counts.values() for word in words}

    def log_likelihood(answer: str, words: Sequence[str]) -> float:
        if answer not in totals:
            return -math.inf
        total = math.log(totals[answer] + SMOOTHING * len(known))
        return sum(math.log(counts[answer][word] + SMOOTHING) - total for word in words)

    chosen = []
    for each in questions:
        words = [word for word in _words(each.question) if word in known]
        chosen.append(_argmax([log_likelihood(choice, words) for choice in each.choices]))
    return chosen


def largest_region(questions: Sequence[Question], boxes: Mapping[str, Box]) -> list[int]:
    """Returns for each question the index of the candidate whose box, given by id, has the most pixels."""
    areas = {id: width * height for id, (_, _, width, height) in boxes.items()}
    return [_argmax([areas[choice] for choice in question.choices]) for question in questions]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _argmax(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
