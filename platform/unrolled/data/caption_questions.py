"""Pointing questions made of captions, from which a model learns words before it learns from questions.

"Which region shows the dog?": the right answer is a photograph one of whose captions has the word, or the two words
behind each other; three other photographs are the wrong ones.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from unrolled.config import captioning_data
from unrolled.config.answering_data import PointingData
from unrolled.data.asked import Asked, ask
from unrolled.data.captions import open_captioned
from unrolled.errors import UserError

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


def caption_questions(data: PointingData, split: str) -> Asked:
    """Makes the questions of one split; the candidates are names of photographs. Raises `UserError` as
    `open_captioned`, or where captions have no words in common that could be asked for."""
    return _made(data.source, data.images, split, data.limit)


@lru_cache(maxsize=2)
def _made(source: str, images: str | None, split: str, limit: int | None) -> Asked:
    """A task opens its data several times: for the questions, the photographs and the candidates."""
    captioned = open_captioned(captioning_data.Data(source=source, images=images, limit=limit), split)
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
            questions.append(ask(f"{split}-{row}-{number}", row, text, [names[row]], wrong, "which"))
    return Asked(captioned.images, names, questions, dropped=captioned.dropped)


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
