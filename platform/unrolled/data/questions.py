"""Questions about photographs: records of a split, and pointing questions made of captions."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from unrolled.config import captioning
from unrolled.config.vqa import PointingData
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import LazyPhotos, PhotoSet, examples, quantity, select_photos
from unrolled.errors import UserError

KINDS = ("what", "where", "when", "who", "why", "how", "which")
"""Visual7W's types of questions."""
Box = tuple[float, float, float, float]
"""x and y of the upper left corner, width and height, in pixels of the stored photograph."""
SIDES = ("x", "y", "width", "height")
BOX_TOLERANCE = 2.0
"""Pixels by which a box may reach beyond its photograph: published boxes are rounded."""


def format_box(box: Box) -> str:
    """Returns a box as text, such as "x 10, y 20, 64 × 48"."""
    x, y, width, height = box
    return f"x {x:g}, y {y:g}, {width:g} × {height:g}"


def is_inside(box: Box, photo_size: tuple[int, int]) -> bool:
    """Returns whether a box is inside a photograph of that width and height, within `BOX_TOLERANCE`."""
    x, y, width, height = box
    right, bottom = photo_size[0] + BOX_TOLERANCE, photo_size[1] + BOX_TOLERANCE
    return min(x, y) >= -BOX_TOLERANCE and x + width <= right and y + height <= bottom


@dataclass(frozen=True)
class Question:
    """One question about a photograph.

    Attributes:
        id: unique in the split, as text.
        photo: row of the photograph in `QuestionSet.names`.
        kind: type, such as "what" or "which"; "" where it is unknown.
        answer: the right answer as text; of a pointing question the right box's id.
        answers: the answers of all annotators: ten in VQA, else the one answer.
        choices: all candidates, each once, the right one among them, in random order; () without.
        answer_index: index of the answer in `choices`, -1 without.
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
        questions: in the order of the source, those of each photograph together; at least one per photograph.
        boxes: of a pointing split by id; else {}.
    """

    questions: list[Question]
    boxes: dict[str, Box] = field(default_factory=dict)

    def select_photos(self, rows: Sequence[int]) -> QuestionSet:
        """Returns the questions about some photographs, given by ascending rows."""
        index = {row: i for i, row in enumerate(rows)}
        names = [self.names[row] for row in rows]
        questions = [replace(each, photo=index[each.photo]) for each in self.questions if each.photo in index]
        return QuestionSet(select_photos(self.images, rows), names, questions, self.boxes, dropped=self.dropped)


def make_question(
    id: str, photo: int, question: str, answers: Sequence[str], choices: Sequence[str] = (), kind: str | None = None
) -> Question:
    """Returns a question with normalised spaces and shuffled candidates.

    Args:
        answers: one or more; the right answer is the most frequent one, the first of several.
        choices: candidates; the right one is added, and duplicates are dropped.
        kind: type; None: the first of `KINDS` in the question, "" without.
    """
    question, answers = _one_line(question), tuple(map(_one_line, answers))
    answer = max(answers, key=answers.count)
    candidates = sorted({answer, *map(_one_line, choices)}) if choices else []
    random.Random(f"candidates of {id}").shuffle(candidates)
    answer_index = candidates.index(answer) if candidates else -1
    if kind is None:
        kind = next((word for word in re.findall(r"[a-z]+", question.lower()) if word in KINDS), "")
    return Question(id, photo, kind, question, answer, answers, tuple(candidates), answer_index)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def join_question_sets(parts: Sequence[QuestionSet]) -> QuestionSet:
    """Returns splits of one source as one, their photographs one after the other."""
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    num_photos = 0
    for part in parts:
        questions += [replace(each, photo=each.photo + num_photos) for each in part.questions]
        boxes |= part.boxes
        num_photos += len(part)
    names = [name for part in parts for name in part.names]
    dropped = [sentence for part in parts for sentence in part.dropped]
    images = LazyPhotos([(part, row) for part in parts for row in range(len(part))], lambda at: at[0].images[at[1]])
    return QuestionSet(images, names, questions, boxes, dropped=dropped)


def drop_empty(questions: QuestionSet, place: str) -> QuestionSet:
    """Leaves out questions without text or answer, and then photographs without questions.

    Args:
        place: names the split in sentences.

    Raises:
        UserError: two questions with one id, or none is left.
    """
    check_unique((each.id for each in questions.questions), place)
    complete = [each for each in questions.questions if each.question and each.answer]
    if not complete:
        raise UserError(f"{place}: has no question with an answer.")
    dropped = list(questions.dropped)
    if empty := [each.id for each in questions.questions if not (each.question and each.answer)]:
        dropped.append(f"{place}: {quantity(empty, 'question')} without text or answer left out ({examples(empty)})")
    rows = sorted({each.photo for each in complete})
    result = replace(questions, questions=complete, dropped=dropped)
    return result if len(rows) == len(result) else result.select_photos(rows)


def check_unique(ids: Iterable[str], place: str) -> None:
    """Raises `UserError` where two questions have one id."""
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise UserError(f"{place}: qa_id {id} stands there twice; every question needs its own.")
        seen.add(id)


MAX_QUESTIONS = 8
"""Questions about one photograph, at most."""
WRONG_CHOICES = 3
MIN_PHOTOS = 3
"""Photographs whose captions have a phrase, at least, for questions about it."""
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a above across along an and another are around as at be behind below beside between by down for from "
        "front has he her him his in into is it its near of off on one other out over she some that the their them "
        "there they this three through to two under up while who with",
    )
)
"""Words that name nothing visible."""


def caption_questions(data: PointingData, split: str) -> QuestionSet:
    """Makes pointing questions of the captions of one split, from which a model learns words before it learns from
    questions.

    "which region shows the dog?": the right answer is a photograph with the word or the two adjacent words in one of
    its captions; three other photographs are wrong. Candidates are names of photographs.
    Raises `UserError` as `open_captions`, or if captions have no phrases in common.
    """
    return _caption_questions(data.source, data.images, split, data.limit)


@lru_cache(maxsize=2)  # a task opens its data several times: for questions, photographs and candidates
def _caption_questions(source: str, images: str | None, split: str, limit: int | None) -> QuestionSet:
    captioned = open_captions(captioning.CaptionData(source=source, images=images, limit=limit), split)
    phrases = [sorted(set(_phrases(captions))) for captions in captioned.captions]
    counts = Counter(phrase for own in phrases for phrase in own)
    frequent = {row: [phrase for phrase in own if counts[phrase] >= MIN_PHOTOS] for row, own in enumerate(phrases)}
    frequent = {row: own for row, own in frequent.items() if own}
    if len(frequent) < 2:
        raise UserError(f"data.captions: {source}, split {split!r} has too few captions to ask for their words.")
    names, rows, questions = captioned.names, list(frequent), []
    for row, own in frequent.items():
        generator = random.Random(f"{split} {row}")
        for number, phrase in enumerate(generator.sample(own, min(MAX_QUESTIONS, len(own)))):
            others = generator.sample(rows, min(WRONG_CHOICES + 1, len(rows)))
            wrong = [names[other] for other in others if other != row][:WRONG_CHOICES]
            text = f"which region shows the {phrase}?"
            questions.append(make_question(f"{split}-{row}-{number}", row, text, [names[row]], wrong, "which"))
    return QuestionSet(captioned.images, names, questions, dropped=captioned.dropped)


def _phrases(captions: Sequence[str]) -> Iterator[str]:
    """Yields content words and pairs of adjacent ones."""
    for caption in captions:
        previous = ""
        for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[^\w\s]", caption.lower()):
            is_content = word[0].isalpha() and len(word) > 1 and word not in FUNCTION_WORDS
            if is_content:
                yield word
                if previous:
                    yield f"{previous} {word}"
            previous = word if is_content else ""
