"""Questions about photographs: their records, and those made of captions.

What every source of questions about photographs gives: the photographs as they are stored, and what is asked.

Pointing questions made of captions, from which a model learns words before it learns from questions.

"Which region shows the dog?": the right answer is a photograph one of whose captions has the word, or the two words
behind each other; three other photographs are the wrong ones.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from unrolled.config import captioning
from unrolled.config.vqa import PointingData
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import Concatenated, PhotoSet, Selected, examples, quantity
from unrolled.errors import UserError

KINDS = ("what", "where", "when", "who", "why", "how", "which")
"""Visual7W's types of questions."""
Box = tuple[float, float, float, float]
"""x and y of the upper left corner, width and height, in pixels of the stored photograph."""


@dataclass(frozen=True)
class Question:
    """One question about a photograph.

    Attributes:
        id: unique in the split, as text.
        photo: row of the photograph in `QuestionSet.names`.
        kind: its type, such as "what" or "which"; "" where there is no telling.
        answer: the right one in words; of a pointing question the right box's id.
        answers: what every person answered who was asked: ten in VQA, else the one answer.
        choices: all candidates, each once, the right one among them, in an order that does not tell; () without.
        answer_index: place of the answer among `choices`, -1 without.
    """

    id: str
    photo: int
    kind: str
    question: str
    answer: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    answer_index: int = -1


@dataclass(frozen=True)
class QuestionSet(PhotoSet):
    """One split.

    Attributes:
        questions: in the order of the source, each photograph's together; every photograph has one at least.
        boxes: of a pointing split by id; else {}.
    """

    questions: list[Question]
    boxes: dict[str, Box] = field(default_factory=dict)

    def part(self, rows: Sequence[int]) -> QuestionSet:
        """Returns the questions of some photographs, given by rising rows."""
        new = {row: place for place, row in enumerate(rows)}
        names = [self.names[row] for row in rows]
        questions = [replace(each, photo=new[each.photo]) for each in self.questions if each.photo in new]
        return QuestionSet(Selected(self.images, rows), names, questions, self.boxes, dropped=self.dropped)


def make_question(
    id: str, photo: int, question: str, answers: Sequence[str], wrong: Sequence[str] = (), kind: str | None = None
) -> Question:
    """Returns a question with its answers and candidates in order.

    Args:
        answers: one or more; the right answer is the one that most gave, the first of several.
        wrong: the wrong candidates, or all; the right one is added, and one that stands there twice counts once.
        kind: its type; None: its question word.
    """
    question, people = _one_line(question), tuple(map(_one_line, answers))
    answer = max(people, key=people.count)
    choices = sorted({answer, *map(_one_line, wrong)}) if wrong else []
    random.Random(f"candidates of {id}").shuffle(choices)
    right = choices.index(answer) if choices else -1
    return Question(
        id, photo, kind_of(question) if kind is None else kind, question, answer, people, tuple(choices), right
    )


def kind_of(question: str) -> str:
    """Returns the first of `KINDS` in a question, "" without."""
    found = (word for word in re.findall(r"[a-z]+", question.lower()) if word in KINDS)
    return next(found, "")


def join_question_sets(parts: Sequence[QuestionSet]) -> QuestionSet:
    """Returns splits of one source as one, their photographs one after the other."""
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    before = 0
    for part in parts:
        questions += [replace(each, photo=each.photo + before) for each in part.questions]
        boxes |= part.boxes
        before += len(part)
    names = [name for part in parts for name in part.names]
    dropped = [sentence for part in parts for sentence in part.dropped]
    return QuestionSet(Concatenated([part.images for part in parts]), names, questions, boxes, dropped=dropped)


def drop_empty(asked: QuestionSet, place: str) -> QuestionSet:
    """Returns a split as its reader found it without the questions that cannot be learned from (no question or no
    answer), and then without the photographs that have none.

    Raises:
        UserError: two questions with one id, or none is left.
    """
    seen: set[str] = set()
    for each in asked.questions:
        if each.id in seen:
            raise UserError(f"{place}: qa_id {each.id} stands there twice; every question needs its own.")
        seen.add(each.id)
    kept = [each for each in asked.questions if each.question and each.answer]
    if not kept:
        raise UserError(f"{place}: has no question with an answer.")
    dropped = list(asked.dropped)
    if len(kept) < len(asked.questions):
        there = {each.id for each in kept}
        empty = [each.id for each in asked.questions if each.id not in there]
        dropped.append(f"{place}: {quantity(empty, 'question')} without text or answer left out ({examples(empty)})")
    whole = replace(asked, questions=kept, dropped=dropped)
    rows = sorted({each.photo for each in kept})
    return whole if len(rows) == len(asked) else whole.part(rows)


def _one_line(text: str) -> str:
    return " ".join(text.split())


EACH = 8
"""Questions on a photograph, at most."""
WRONG = 3
OFTEN = 3
"""In captions of so many photographs stands a word that is asked for."""
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a above across along an and another are around as at be behind below beside between by down for from "
        "front has he her him his in into is it its near of off on one other out over she some that the their them "
        "there they this three through to two under up while who with",
    )
)
"""Words that stand for nothing that could be seen."""


def caption_questions(data: PointingData, split: str) -> QuestionSet:
    """Makes the questions of one split; the candidates are names of photographs. Raises `UserError` as
    `open_captions`, or where captions have no words in common that could be asked for."""
    return _made(data.source, data.images, split, data.limit)


@lru_cache(maxsize=2)
def _made(source: str, images: str | None, split: str, limit: int | None) -> QuestionSet:
    """A task opens its data several times: for the questions, the photographs and the candidates."""
    captioned = open_captions(captioning.CaptionData(source=source, images=images, limit=limit), split)
    phrases = [sorted(set(_phrases(captions))) for captions in captioned.captions]
    counted = Counter(word for own in phrases for word in own)
    often = {row: [phrase for phrase in own if counted[phrase] >= OFTEN] for row, own in enumerate(phrases)}
    often = {row: own for row, own in often.items() if own}
    if len(often) < 2:
        raise UserError(f"data.captions: {source}, split {split!r} has too few captions to ask for their words.")
    names, rows, questions = captioned.names, list(often), []
    for row, own in often.items():
        generator = random.Random(f"{split} {row}")
        for number, phrase in enumerate(generator.sample(own, min(EACH, len(own)))):
            drawn = generator.sample(rows, min(WRONG + 1, len(rows)))
            wrong = [names[other] for other in drawn if other != row][:WRONG]
            text = f"which region shows the {phrase}?"
            questions.append(make_question(f"{split}-{row}-{number}", row, text, [names[row]], wrong, "which"))
    return QuestionSet(captioned.images, names, questions, dropped=captioned.dropped)


def _phrases(captions: Sequence[str]) -> Iterator[str]:
    """Yields words of content, and pairs of them that stand behind each other."""
    for caption in captions:
        before = ""
        for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[^\w\s]", caption.lower()):
            content = word[0].isalpha() and len(word) > 1 and word not in FUNCTION_WORDS
            if content:
                yield word
                if before:
                    yield f"{before} {word}"
            before = word if content else ""
