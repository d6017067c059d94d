"""Questions about photographs of any source, opened alike."""

from __future__ import annotations

from pathlib import Path

from unrolled.config.answering_data import Data
from unrolled.data.asked import KINDS, Asked, Box, Question, ask, checked, kind_of
from unrolled.data.photographs import Drawn
from unrolled.data.scenes import NAME, SIZES, pointing, scenes, telling
from unrolled.data.sources import one_of
from unrolled.data.visual7w import visual7w
from unrolled.errors import UserError

__all__ = ["KINDS", "Asked", "Box", "Question", "kind_of", "open_asked"]


def open_asked(data: Data, split: str) -> Asked:
    """Opens one split.

    Args:
        split: `train`, `validation`, `test`, or another split of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, questions, answers, candidates or boxes
            that cannot be, or no question with an answer.
    """
    asked = _whole(data, data.splits.model_dump().get(split, split))
    return asked if data.limit is None else asked.part(range(min(data.limit, len(asked))))


def _whole(data: Data, split: str) -> Asked:
    place = f"data.source: {data.source}, split {split!r}"
    if data.source == NAME:
        return checked(_scenes(data, split), place)
    if Path(data.source).expanduser().is_dir() and (found := visual7w(data, split)):
        return checked(found, place)
    raise UserError(f"data.source: {data.source} is none of the known forms.")


def _scenes(data: Data, split: str) -> Asked:
    one_of(SIZES, split, NAME)
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    for row, scene in enumerate(scenes()[split]):
        if data.pointing:
            for asked in pointing(scene):
                ids = {box: f"{split}-{len(boxes) + place}" for place, box in enumerate(asked.choices)}
                boxes |= {name: box for box, name in ids.items()}
                own = f"{split}-{len(questions)}"
                questions.append(ask(own, row, asked.question, [ids[asked.answer]], list(ids.values())))
        else:
            for told in telling(scene):
                questions.append(ask(f"{split}-{len(questions)}", row, told.question, [told.answer], told.choices))
    names = [f"{NAME}/{split}/{row}.png" for row in range(SIZES[split])]
    return Asked(Drawn(split), names, questions, boxes)
