"""Result files and boxes in the forms of the Visual7W toolkit.

Result files of Visual7W's toolkit: what was answered, written so that its `evaluate.py` takes them, and read.

    [{"qa_id": 1, "question": "What is this?", "candidates": [{"answer": "dog"}, …]}]

The first candidate is the choice. Of answers in words several may be given, the best first, of which the toolkit
looks at as many as its `--topk` says. https://github.com/yukezhu/visual7w-toolkit

Boxes that a person gives in a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.data.images import read_json
from unrolled.data.questions import Box, Question
from unrolled.errors import UserError
from unrolled.files import write_atomic


def format_results(asked: Sequence[Question], answers: Sequence[Sequence[str]], *, boxes: bool) -> str:
    """Returns the text of a result file.

    Args:
        answers: to each question one or more, the best first.
        boxes: whether they are ids of boxes.
    """
    rows = [
        {
            "qa_id": _plain(each.id),
            "question": each.question,
            "candidates": [{"answer": _plain(answer) if boxes else answer} for answer in given],
        }
        for each, given in zip(asked, answers, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False, indent=1)


def write_results(path: Path, asked: Sequence[Question], answers: Sequence[Sequence[str]], *, boxes: bool) -> None:
    """Writes a result file; arguments as of `results`."""
    write_atomic(path, format_results(asked, answers, boxes=boxes))


def read_results(path: Path, asked: Sequence[Question], split: str) -> list[list[str]]:
    """Reads a result file.

    Args:
        asked: the questions of a split.
        split: its name.

    Returns:
        The answers to each question, the best first.

    Raises:
        UserError: it is not such a file, or the questions in it are not those of the split.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "qa_id" in row for row in rows):
        raise UserError(f"{path}: is not a result file of Visual7W's toolkit, a list of objects with qa_id.")
    known = {each.id for each in asked}
    found: dict[str, list[str]] = {}
    for row in rows:
        id = str(row["qa_id"])
        if id not in known:
            raise UserError(f"{path}: qa_id {id} is not in split {split!r}; the results are those of another split.")
        if id in found:
            raise UserError(f"{path}: qa_id {id} stands there twice.")
        found[id] = _answers(row, f"{path}, qa_id {id}")
    if lacking := [each.id for each in asked if each.id not in found]:
        raise UserError(
            f"{path}: answers {len(found):,} of the {len(asked):,} questions of split {split!r}; "
            f"the first without an answer is qa_id {lacking[0]}."
        )
    return [found[each.id] for each in asked]


def _answers(row: dict[str, Any], place: str) -> list[str]:
    candidates = row.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        raise UserError(f"{place}: has no candidates.")
    answers = [each.get("answer") if isinstance(each, dict) else None for each in candidates]
    if None in answers:
        raise UserError(f"{place}: has a candidate without answer.")
    return [str(answer) for answer in answers]


def _plain(id: str) -> int | str:
    """The toolkit compares ids as they stand in `dataset.json`: numbers."""
    return int(id) if id.isdecimal() else id


SIDES = ("x", "y", "width", "height")


def read_boxes(file: Path) -> list[Box]:
    """Reads a list of boxes: each ``[x, y, width, height]``, or an object with these keys as in Visual7W's files; the
    list alone or under the key ``boxes``.

    Raises:
        UserError: there is no such file, or something in it is no box.
    """
    if not file.is_file():
        raise UserError(f"--boxes {file}: no such file.")
    content = read_json(file)
    rows = content.get("boxes") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f"--boxes {file}: holds no list of boxes, such as [[10, 20, 64, 48], [90, 20, 50, 50]].")
    return [_box(row, f"--boxes {file}, box {number}") for number, row in enumerate(rows, start=1)]


def _box(row: Any, place: str) -> Box:
    sides = [row.get(side) for side in SIDES] if isinstance(row, dict) else row
    numbers = isinstance(sides, list) and len(sides) == 4
    if not numbers or not all(isinstance(side, int | float) and math.isfinite(side) for side in sides):
        raise UserError(f"{place}: {row!r} is not x, y, width and height in pixels.")
    x, y, width, height = map(float, sides)
    if width <= 0 or height <= 0:
        raise UserError(f"{place}: {width:g} × {height:g} holds no pixel.")
    return x, y, width, height
