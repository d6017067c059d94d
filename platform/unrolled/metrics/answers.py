"""Metrics of short answers: exact match, VQA accuracy, and WUPS with its WordNet reader."""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from unrolled.errors import UserError
from unrolled.metrics.base import MeanMetric, MeanTextMetric, References, Texts, as_reference_lists

MIN_ANSWERS = 4
"""Fewest answers per question: with one of them left out, three remain."""


class ExactMatch(MeanTextMetric):
    """The percentage of predictions equal to one of their references; `compute` returns "exact_match"."""

    key = "exact_match"
    description = "The percentage of predictions that equal a reference in every character."

    def score_text(self, text: str, references: Sequence[str]) -> float:
        return 100.0 * (text in references)


class AnswerAccuracy(MeanTextMetric):
    """The percentage of correct answers, ignoring case, as in Visual7W's evaluation.

    With several people's answers, every most frequent one is correct. `compute` returns "accuracy".
    """

    key = "accuracy"
    description = "The percentage of answers that equal the one most people gave, case aside."
    citation = "Zhu et al., Visual7W: Grounded Question Answering in Images, 2016, arXiv:1511.03416"

    def score_text(self, text: str, references: Sequence[str]) -> float:
        prediction, answers = _one_line(text).lower(), [_one_line(answer).lower() for answer in references]
        return 100.0 * (prediction in answers and answers.count(prediction) == max(map(answers.count, answers)))


class VqaAccuracy(MeanMetric):
    """VQA accuracy: min(people who gave the answer / 3, 1), averaged over leaving out one of the (ten) people.

    Antol et al. 2015. Answers are normalised as in the official evaluation: lower case, punctuation, articles, number
    words and the apostrophes of contractions; if all people give the same string, it must be matched exactly.
    `compute` returns "vqa_accuracy", 0 to 100, and "signature".

    Raises:
        UserError: a question has fewer than `MIN_ANSWERS` answers, so that no answer could score 100.
    """

    key = "vqa_accuracy"
    description = "VQA accuracy: min(people who gave the answer / 3, 1), averaged with each person left out."
    citation = "Antol et al., VQA: Visual Question Answering, 2015, https://arxiv.org/abs/1505.00468"
    settings = "answers:vqa-normalised|leave-one-out:yes"

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        pairs = enumerate(zip(predictions, as_reference_lists(references), strict=True), start=1)
        return [self._score(number, prediction, answers) for number, (prediction, answers) in pairs]

    def _score(self, number: int, prediction: str, answers: list[str]) -> float:
        if len(answers) < MIN_ANSWERS:
            raise UserError(
                f"vqa_accuracy compares with what several people answered, {MIN_ANSWERS} at least (VQA has ten): "
                f"question {number} has {len(answers)}."
            )
        prediction, answers = _one_line(prediction), [_one_line(each) for each in answers]
        if len(set(answers)) > 1:
            prediction, answers = normalize_vqa_answer(prediction), [normalize_vqa_answer(each) for each in answers]
        agreeing = [answers.count(prediction) - (each == prediction) for each in answers]
        return 100 * sum(min(count / 3, 1.0) for count in agreeing) / len(answers)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=100_000)
def normalize_vqa_answer(answer: str) -> str:
    """Returns an answer as normalised by the VQA evaluation: ``"The 2 dogs, dont"`` becomes ``"2 dogs don't"``."""
    words = [NUMBERS.get(word, word) for word in _without_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    """Removes a punctuation mark that occurs next to a space, and replaces any other by a space.

    In an answer with a comma between digits (``1,000``) all marks are removed. Full stops are removed unless a digit
    follows.
    """
    result, has_number = answer, re.search(r"\d,\d", answer)
    for mark in PUNCTUATION:
        next_to_space = f"{mark} " in answer or f" {mark}" in answer
        result = result.replace(mark, "" if next_to_space or has_number else " ")
    return re.sub(r"\.(?!\d)", "", result)


def _missing_apostrophes(words: str, ending: str = "") -> Iterator[tuple[str, str]]:
    """Yields (the word and ending without one of its apostrophes, the correct spelling) for each apostrophe."""
    for word in words.split():
        correct = word + ending
        for match in re.finditer("'", correct):
            yield correct[: match.start()] + correct[match.end() :], correct


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
NEGATABLE = "ai are ca could did do does had has have is might must need ought sha should was were wo would"
CONTRACTIONS = {
    **dict(_missing_apostrophes(NEGATABLE, "n't")),
    **dict(_missing_apostrophes("could had might should would", "n't've")),
    **dict(_missing_apostrophes("he it she somebody someone something there they we who y'all you", "'d've")),
    **dict(_missing_apostrophes("he how it someone something there they where who you", "'d")),
    **dict(_missing_apostrophes("how it somebody someone something they what who why y'all you", "'ll")),
    **dict(_missing_apostrophes("there they what why you", "'re")),
    **dict(_missing_apostrophes("he how somebody someone that there what when where who why", "'s")),
    **dict(_missing_apostrophes("could might must not should they we what where who would you", "'ve")),
    **dict(_missing_apostrophes("ma'am o'clock 'ow's'at 'twas y'all")),
    "somebody'd": "somebodyd",  # as in the official table
}


WORDNET_VARIABLE = "WNSEARCHDIR"
"""WordNet's own environment variable for the folder of its files."""
FILES = ("index.noun", "data.noun", "noun.exc")
FOLDERS = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "~/nltk_data/corpora/wordnet")
ENDINGS = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
    *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
)
"""Plural endings and their singulars (WordNet's morphology of nouns)."""
HYPERNYMS = ("@", "@i")


def wordnet_folder() -> Path | None:
    """Returns the folder of WordNet's nouns, `None` if there is none.

    Debian's package `wordnet-base` installs to one of the folders searched.
    """
    given = os.environ.get(WORDNET_VARIABLE)
    folders = [Path(folder).expanduser() for folder in ((given,) if given else FOLDERS)]
    return next((folder for folder in folders if all((folder / name).is_file() for name in FILES)), None)


def wordnet_nouns() -> WordNetNouns:
    """Returns WordNet's nouns, read once per process; raises `UserError` if there is no WordNet."""
    folder = wordnet_folder()
    if folder is None:
        raise UserError(
            f"WUPS needs WordNet, which is not here: `apt-get install wordnet-base`, or name the folder of its files "
            f"in {WORDNET_VARIABLE}."
        )
    return _nouns(folder)


class WordNetNouns:
    """WordNet's noun synsets (Fellbaum 1998), read from `index.noun`, `data.noun` and `noun.exc`.

    A synset is identified by the offset of its line in `data.noun`.
    """

    def __init__(self, folder: Path) -> None:
        self._synsets: dict[str, tuple[int, ...]] = {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, count, *rest = line.split()
                self._synsets[lemma] = tuple(int(offset) for offset in rest[-int(count) :])
        lines = (folder / "noun.exc").read_text(encoding="utf-8").splitlines()
        self._exceptions = {plural: singulars for plural, *singulars in map(str.split, lines) if singulars}
        with (folder / "data.noun").open("rb") as data:
            self._data = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ)
        self._hypernyms = cache(self._read_hypernyms)
        self._ancestors = cache(self._find_ancestors)
        self._depths = cache(self._find_depths)

    def synsets(self, noun: str) -> tuple[int, ...]:
        """Returns the synsets of a noun, singular or plural, with words joined by spaces or `_`; () for a non-noun."""
        form = "_".join(noun.lower().split())
        base = self._exceptions.get(form) or [form[: -len(old)] + new for old, new in ENDINGS if form.endswith(old)]
        return tuple(dict.fromkeys(offset for each in (form, *base) for offset in self._synsets.get(each, ())))

    def wup(self, one: int, other: int) -> float:
        """Returns the Wu-Palmer similarity of two synsets, 0 to 1: 2 d / (l₁ + l₂), with the depth d of their lowest
        common hypernym and the lengths l of the paths from each through it to the root (Wu and Palmer 1994; details as
        in NLTK)."""
        shared = self._ancestors(one).keys() & self._ancestors(other).keys()
        if not shared:
            return 0.0
        deepest = max(self._depths(each)[0] for each in shared)
        lowest = [each for each in shared if self._depths(each)[0] == deepest]
        common = one if one in lowest else min(lowest)
        depth = self._depths(common)[1] + 1
        return 2 * depth / (self._distance(one, common) + self._distance(other, common) + 2 * depth)

    def _distance(self, one: int, other: int) -> int:
        ours, theirs = self._ancestors(one), self._ancestors(other)
        return min(ours[each] + theirs[each] for each in ours.keys() & theirs.keys())

    def _find_ancestors(self, offset: int) -> dict[int, int]:
        """Returns the distance to each hypernym, direct or indirect; to the synset itself 0."""
        found = {offset: 0}
        for parent in self._hypernyms(offset):
            for each, distance in self._ancestors(parent).items():
                found[each] = min(distance + 1, found.get(each, distance + 1))
        return found

    def _find_depths(self, offset: int) -> tuple[int, int]:
        """Returns the lengths of the shortest and the longest path to the root."""
        parents = [self._depths(parent) for parent in self._hypernyms(offset)]
        shortest = 1 + min((low for low, _ in parents), default=-1)
        longest = 1 + max((high for _, high in parents), default=-1)
        return shortest, longest

    def _read_hypernyms(self, offset: int) -> tuple[int, ...]:
        fields = self._data[offset : self._data.find(b" | ", offset)].decode().split()
        first = 5 + 2 * int(fields[3], 16)  # after the synset's words, each with a number, and the pointer count
        pointers = zip(fields[first::4], fields[first + 1 :: 4], strict=False)
        return tuple(int(to) for symbol, to in pointers if symbol in HYPERNYMS)


_nouns = lru_cache(maxsize=2)(WordNetNouns)


@lru_cache(maxsize=100_000)
def word_similarity(one: str, other: str) -> float:
    """Returns the `wup` of the two most similar senses of two words; 1 for equal words, 0 if either is not a noun."""
    if one == other:
        return 1.0
    nouns = wordnet_nouns()
    pairs = [(a, b) for a in nouns.synsets(one) for b in nouns.synsets(other)]
    return max((nouns.wup(a, b) for a, b in pairs), default=0.0)


DOWN_WEIGHT = 0.1
"""Factor of similarities below the threshold."""


class Wups(MeanTextMetric):
    """Wu–Palmer similarity of answers that list things, such as "book, lamp".

    Malinowski and Fritz 2014: for each of two lists the product over its things of the similarity to the most similar
    thing of the other list; the smaller of both products. Similarities below a threshold, 0.9 or 0, are multiplied by
    0.1: WUPS@0.9 requires the same thing, WUPS@0.0 the same kind of thing. The best of several references counts.
    `compute` returns the score under its key, 0 to 100, and "signature". Requires WordNet (see `wordnet_folder`).
    """

    description = "Wu-Palmer similarity of the things that an answer and its reference list."
    citation = "Malinowski and Fritz, A Multi-World Approach to Question Answering, 2014, arXiv:1410.0210"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.key = f"wups@{threshold:.1f}"
        self.settings = f"threshold:{threshold:.1f}|below:{DOWN_WEIGHT}|senses:nouns,nearest"
        self._threshold = threshold

    def score_text(self, text: str, references: Sequence[str]) -> float:
        return 100 * max(self._score(_things(text), _things(reference)) for reference in references)

    def _score(self, predicted: list[str], expected: list[str]) -> float:
        return min(self._coverage(predicted, expected), self._coverage(expected, predicted))

    def _coverage(self, things: list[str], by: list[str]) -> float:
        return math.prod(max(self._similarity(thing, other) for other in by) for thing in things)

    def _similarity(self, one: str, other: str) -> float:
        similarity = word_similarity(one, other)
        return similarity if similarity >= self._threshold else DOWN_WEIGHT * similarity


def _things(answer: str) -> list[str]:
    return list(dict.fromkeys(" ".join(thing.lower().split()) for thing in answer.split(",")))
