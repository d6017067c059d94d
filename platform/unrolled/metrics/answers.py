"""Metrics of short answers: exact match, VQA accuracy, WUPS.

Scores of short answers: exact match, and agreement with several people (VQA).

The nouns of WordNet, read from its own files (`index.noun`, `data.noun`, `noun.exc`), and how near two are.

Debian's package `wordnet-base` puts them where they are looked for; elsewhere the variable WNSEARCHDIR, WordNet's own,
names their folder. Fellbaum, WordNet: An Electronic Lexical Database, 1998.

WUPS: accuracy of answers that lists nearly right ones as nearly right, by their place in WordNet.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from unrolled.errors import UserError
from unrolled.metrics.base import MeanMetric, References, Texts, as_reference_lists, format_signature

MIN_ANSWERS = 4
"""With one answer left out, three people must still be there to agree."""


class ExactMatch(MeanMetric):
    """The percentage of predictions equal to a reference; `compute` returns it as "exact_match"."""

    key = "exact_match"
    description = "The percentage of predictions that equal a reference in every character."

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [
            100.0 * (text in truths) for text, truths in zip(predictions, as_reference_lists(references), strict=True)
        ]


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
            for text, truths in zip(predictions, as_reference_lists(references), strict=True)
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
        pairs = enumerate(zip(predictions, as_reference_lists(references), strict=True), start=1)
        return [self._score(number, answer, people) for number, (answer, people) in pairs]

    def _score(self, number: int, answer: str, people: list[str]) -> float:
        if len(people) < MIN_ANSWERS:
            raise UserError(
                f"vqa_accuracy compares with what several people answered, {MIN_ANSWERS} at least (VQA has ten): "
                f"question {number} has {len(people)}."
            )
        answer, people = _one_line(answer), [_one_line(each) for each in people]
        if len(set(people)) > 1:
            answer, people = normalize_vqa_answer(answer), [normalize_vqa_answer(each) for each in people]
        others = [people.count(answer) - (each == answer) for each in people]
        return 100 * sum(min(agreeing / 3, 1.0) for agreeing in others) / len(people)

    def signature(self, references: References) -> str:
        return format_signature("answers:vqa-normalised|leave-one-out:yes", references)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=100_000)
def normalize_vqa_answer(answer: str) -> str:
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


WORDNET_VARIABLE = "WNSEARCHDIR"
FILES = ("index.noun", "data.noun", "noun.exc")
FOLDERS = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "~/nltk_data/corpora/wordnet")
ENDINGS = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
    *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
)
"""How plurals end, and their singulars (WordNet's morphology of nouns)."""
HYPERNYMS = ("@", "@i")


def wordnet_folder() -> Path | None:
    """Returns the folder that has WordNet's nouns, `None` where there is none."""
    named = os.environ.get(WORDNET_VARIABLE)
    folders = [Path(folder).expanduser() for folder in ((named,) if named else FOLDERS)]
    return next((folder for folder in folders if all((folder / name).is_file() for name in FILES)), None)


def wordnet_nouns() -> WordNetNouns:
    """Returns WordNet's nouns, read once a process; raises `UserError` where there is no WordNet."""
    folder = wordnet_folder()
    if folder is None:
        raise UserError(
            f"WUPS needs WordNet, which is not here: `apt-get install wordnet-base`, or name the folder of its files "
            f"in {WORDNET_VARIABLE}."
        )
    return _nouns(folder)


class WordNetNouns:
    """Synsets are told by the place of their line in `data.noun`."""

    def __init__(self, folder: Path) -> None:
        self._synsets: dict[str, tuple[int, ...]] = {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, count, *rest = line.split()
                self._synsets[lemma] = tuple(int(place) for place in rest[-int(count) :])
        lines = (folder / "noun.exc").read_text(encoding="utf-8").splitlines()
        self._exceptions = {plural: singulars for plural, *singulars in map(str.split, lines) if singulars}
        with (folder / "data.noun").open("rb") as data:
            self._data = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ)
        self._known: dict[int, tuple[int, ...]] = {}
        self._above: dict[int, dict[int, int]] = {}
        self._depth: dict[int, tuple[int, int]] = {}

    def synsets(self, noun: str) -> tuple[int, ...]:
        """Returns the synsets of a noun, singular or plural, words joined by spaces or `_`; () for what is none."""
        form = "_".join(noun.lower().split())
        base = self._exceptions.get(form) or [form[: -len(old)] + new for old, new in ENDINGS if form.endswith(old)]
        return tuple(dict.fromkeys(place for each in (form, *base) for place in self._synsets.get(each, ())))

    def wup(self, one: int, other: int) -> float:
        """Returns how near two synsets are, 0 to 1: 2 d / (l₁ + l₂), with the depth d of what both are kinds of, and
        the lengths l of the ways from each over it to the root (Wu and Palmer 1994; details as in NLTK)."""
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

    def _ancestors(self, place: int) -> dict[int, int]:
        """Returns how far up each synset is that this one is a kind of, itself at 0."""
        if place not in self._above:
            found = {place: 0}
            for parent in self._hypernyms(place):
                for each, distance in self._ancestors(parent).items():
                    found[each] = min(distance + 1, found.get(each, distance + 1))
            self._above[place] = found
        return self._above[place]

    def _depths(self, place: int) -> tuple[int, int]:
        """Returns the lengths of the shortest and the longest way to the root."""
        if place not in self._depth:
            above = [self._depths(parent) for parent in self._hypernyms(place)]
            least, most = (1 + min(low for low, _ in above), 1 + max(high for _, high in above)) if above else (0, 0)
            self._depth[place] = least, most
        return self._depth[place]

    def _hypernyms(self, place: int) -> tuple[int, ...]:
        if place not in self._known:
            fields = self._data[place : self._data.find(b" | ", place)].decode().split()
            first = 5 + 2 * int(fields[3], 16)  # after the synset's words, each with a number, and the pointers' count
            pointers = zip(fields[first::4], fields[first + 1 :: 4], strict=False)
            self._known[place] = tuple(int(to) for symbol, to in pointers if symbol in HYPERNYMS)
        return self._known[place]


_nouns = lru_cache(maxsize=2)(WordNetNouns)


@lru_cache(maxsize=100_000)
def word_similarity(one: str, other: str) -> float:
    """Returns the `wup` of the nearest two senses of two words, 0 where either is no noun, 1 for equal words."""
    if one == other:
        return 1.0
    known = wordnet_nouns()
    pairs = [(a, b) for a in known.synsets(one) for b in known.synsets(other)]
    return max((known.wup(a, b) for a, b in pairs), default=0.0)


FAR = 0.1
"""What is left of the nearness of two words that are not near enough."""


class Wups(MeanMetric):
    """Wu–Palmer similarity of answers that list things, such as "book, lamp".

    Malinowski and Fritz 2014: of both lists the product over its things of their nearness to the nearest thing in the
    other one, and of these two the less. Things less near than a threshold, 0.9 or 0, count a tenth of their nearness:
    WUPS@0.9 asks for the same thing, WUPS@0.0 for the same sort of thing. Of several references the best counts.
    `compute` returns the score under its key, 0 to 100, and "signature". It needs WordNet (see `wordnet.nouns`).
    """

    description = "Wu-Palmer similarity of the things that an answer and its reference list."
    citation = "Malinowski and Fritz, A Multi-World Approach to Question Answering, 2014, arXiv:1410.0210"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.key = f"wups@{threshold:.1f}"
        self._threshold = threshold

    def example_scores(self, predictions: Texts, references: References) -> list[float]:
        return [
            100 * max(self._score(_things(text), _things(truth)) for truth in truths)
            for text, truths in zip(predictions, as_reference_lists(references), strict=True)
        ]

    def signature(self, references: References) -> str:
        return format_signature(f"threshold:{self._threshold:.1f}|below:{FAR}|senses:nouns,nearest", references)

    def _score(self, ours: list[str], theirs: list[str]) -> float:
        return min(self._covered(ours, theirs), self._covered(theirs, ours))

    def _covered(self, things: list[str], by: list[str]) -> float:
        return math.prod(max(self._near(thing, other) for other in by) for thing in things)

    def _near(self, one: str, other: str) -> float:
        found = word_similarity(one, other)
        return found if found >= self._threshold else FAR * found


def _things(answer: str) -> list[str]:
    """Returns the things that an answer lists, each once."""
    return list(dict.fromkeys(" ".join(thing.lower().split()) for thing in answer.split(",")))
