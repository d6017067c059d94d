"""Questions about photographs of any source, opened alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from unrolled.config.answering_data import Data, PointingData
from unrolled.data import easy_vqa, scenes
from unrolled.data.asked import KINDS, Asked, Box, Question, ask, checked, joined, kind_of
from unrolled.data.caption_questions import caption_questions
from unrolled.data.photographs import Drawn
from unrolled.data.question_tables import question_table
from unrolled.data.scenes import SIZES, pointing, telling
from unrolled.data.sources import one_of
from unrolled.data.visual7w import visual7w
from unrolled.data.vqa_files import vqa
from unrolled.errors import UserError

__all__ = ["KINDS", "Asked", "Box", "Question", "kind_of", "open_asked"]

LEARNED = ("train", "validation")
"""Splits that folds are dealt from."""


def open_asked(data: Data, split: str) -> Asked:
    """Opens one split.

    Args:
        split: `train`, `validation`, `test`, or another split of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, questions, answers, candidates or boxes
            that cannot be, or no question with an answer.
    """
    splits = data.splits.model_dump()
    if data.folds is not None and split in LEARNED:
        asked = _fold(data, data.folds, [splits[name] for name in LEARNED], validates=split == "validation")
    else:
        asked = _whole(data, splits.get(split, split))
    return asked if data.limit is None else asked.part(range(min(data.limit, len(asked))))


def _fold(data: Data, folds: int, splits: Sequence[str], *, validates: bool) -> Asked:
    """Joins splits and returns the photographs of `data.fold`, or all others. Photographs of one name stay together."""
    parts = [_whole(data, split) for split in dict.fromkeys(splits)]
    names = [name for part in parts for name in part.names]
    dealt = sorted(set(names), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    chosen = set(dealt[data.fold :: data.folds])
    rows = [row for row, name in enumerate(names) if (name in chosen) == validates]
    if not rows:
        raise UserError(f"data.folds: {folds} is more than the {len(dealt)} photographs of {data.source}.")
    return checked(joined(parts), f"data.source: {data.source}").part(rows)


def _whole(data: Data, split: str) -> Asked:
    place = f"data.source: {data.source}, split {split!r}"
    if isinstance(data, PointingData) and data.captions:
        return checked(caption_questions(data, split), place)
    if data.source == scenes.NAME:
        return checked(_scenes(data, split), place)
    if Path(data.source).expanduser().is_dir() and (found := visual7w(data, split)):
        return checked(found, place)
    if data.pointing:
        raise UserError(f"{place}: has no dataset.json with boxes, from which a pointing task learns.")
    if data.source == easy_vqa.NAME:
        return checked(easy_vqa.easy_vqa(split), place)
    if Path(data.source).expanduser().is_dir() and (found := vqa(data, split)):
        return checked(found, place)
    return checked(question_table(data, split), place)


def _scenes(data: Data, split: str) -> Asked:
    one_of(SIZES, split, scenes.NAME)
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    for row, scene in enumerate(scenes.scenes()[split]):
        if data.pointing:
            for asked in pointing(scene):
                ids = {box: f"{split}-{len(boxes) + place}" for place, box in enumerate(asked.choices)}
                boxes |= {name: box for box, name in ids.items()}
                own = f"{split}-{len(questions)}"
                questions.append(ask(own, row, asked.question, [ids[asked.answer]], list(ids.values())))
        else:
            for told in telling(scene):
                questions.append(ask(f"{split}-{len(questions)}", row, told.question, [told.answer], told.choices))
    names = [f"{scenes.NAME}/{split}/{row}.png" for row in range(SIZES[split])]
    return Asked(Drawn(split), names, questions, boxes)
