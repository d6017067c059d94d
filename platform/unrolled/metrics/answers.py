"""Scores of short answers: exact match, and agreement with several people (VQA)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from unrolled.errors import UserError
from unrolled.metrics.base import MeanMetric, References, Texts, grouped, own_signature

FEWEST_ANSWERS = 4
"""With one answer left out, three people must still be there to agree."""


class ExactMatch(MeanMetric):
    """The percentage of predictions equal to a reference; `compute` returns it as "exact_match"."""

    key = "exact_match"
    description = "The percentage of predictions that equal a reference in every character."

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [100.0 * (text in truths) for text, truths in zip(predictions, grouped(references), strict=True)]


class AnswerAccuracy(MeanMetric):
    """The percentage of right answers, case aside, as the evaluator of Visual7W counts them.

    Of several people's answers each counts that no other was given more often. `compute` returns it as "accuracy".
    """

    key = "accuracy"
    description = "The percentage of answers that equal the one most people gave, case aside."
    citation = "Zhu et al., Visual7W: Grounded Question Answering in Images, 2016, arXiv:1511.03416"

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [
            100.0 * self._right(_one_line(text).lower(), [_one_line(truth).lower() for truth in truths])
            for text, truths in zip(predictions, grouped(references), strict=True)
        ]

    def _right(self, answer: str, people: list[str]) -> bool:
        return answer in people and people.count(answer) == max(map(people.count, people))


class VqaAccuracy(MeanMetric):
    """VQA accuracy: an answer is as right as people gave it, wholly where three of the others did.

    Antol et al. 2015: min(people who said so / 3, 1), averaged over the ways to leave one of the (ten) people
    out.  Answers are compared as the official evaluation normalises them: lower case, punctuation, articles,
    number words and the apostrophes of contractions; where all people agree to the letter, so must the answer.
    `compute` returns "vqa_accuracy", 0 to 100, and "signature".

    Raises:
        UserError: a question has less than `FEWEST_ANSWERS` answers, so that no answer could be wholly right.
    """

    key = "vqa_accuracy"
    description = "VQA accuracy: min(people who gave the answer / 3, 1), averaged with each person left out."
    citation = "Antol et al., VQA: Visual Question Answering, 2015, https://arxiv.org/abs/1505.00468"

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        pairs = enumerate(zip(predictions, grouped(references), strict=True), start=1)
        return [self._score(number, answer, people) for number, (answer, people) in pairs]

    def _score(self, number: int, answer: str, people: list[str]) -> float:
        if len(people) < FEWEST_ANSWERS:
            raise UserError(
                f"vqa_accuracy compares with what several people answered, {FEWEST_ANSWERS} at least (VQA has ten): "
                f"question {number} has {len(people)}."
            )
        answer, people = _one_line(answer), [_one_line(each) for each in people]
        if len(set(people)) > 1:
            answer, people = normalised_answer(answer), [normalised_answer(each) for each in people]
        others = [people.count(answer) - (each == answer) for each in people]
        return 100 * sum(min(agreeing / 3, 1.0) for agreeing in others) / len(people)

    def signature(self, references: References) -> str:
        return own_signature("answers:vqa-normalised|leave-one-out:yes", references)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=100_000)
def normalised_answer(answer: str) -> str:
    """Returns an answer as the VQA evaluation compares it: ``"The 2 dogs, dont"`` is ``"2 dogs don't"``."""
    words = [NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    """Returns the answer with each sign taken out where it stands next to a space, else replaced by a space.

    An answer with a comma between digits (``1,000``) loses every sign without a space.  Full stops go unless a
    digit follows.
    """
    plain, has_number = answer, re.search(r"\d,\d", answer)
    for sign in PUNCTUATION:
        apart = f"{sign} " in answer or f" {sign}" in answer
        plain = plain.replace(sign, "" if apart or has_number else " ")
    return re.sub(r"\.(?!\d)", "", plain)


def _lacking_an_apostrophe(words: str, ending: str = "") -> Iterator[tuple[str, str]]:
    """Yields the words with their ending, each once without each of its apostrophes, and how they are written."""
    for word in words.split():
        whole = word + ending
        for place in re.finditer("'", whole):
            yield whole[: place.start()] + whole[place.end() :], whole


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(COUNTED)}
NEGATED = "ai are ca could did do does had has have is might must need ought sha should was were wo would"
CONTRACTIONS = {
    **dict(_lacking_an_apostrophe(NEGATED, "n't")),
    **dict(_lacking_an_apostrophe("could had might should would", "n't've")),
    **dict(_lacking_an_apostrophe("he it she somebody someone something there they we who y'all you", "'d've")),
    **dict(_lacking_an_apostrophe("he how it someone something there they where who you", "'d")),
    **dict(_lacking_an_apostrophe("how it somebody someone something they what who why y'all you", "'ll")),
    **dict(_lacking_an_apostrophe("there they what why you", "'re")),
    **dict(_lacking_an_apostrophe("he how somebody someone that there what when where who why", "'s")),
    **dict(_lacking_an_apostrophe("could might must not should they we what where who would you", "'ve")),
    **dict(_lacking_an_apostrophe("ma'am o'clock 'ow's'at 'twas y'all")),
    "somebody'd": "somebodyd",  # as in the official table
}
