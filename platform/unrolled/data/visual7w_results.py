"""Result files and boxes in the forms of the Visual7W toolkit.

A result file, as the toolkit's `evaluate.py` reads it:

    [{"qa_id": 1, "question": "What is this?", "candidates": [{"answer": "dog"}, …]}]

The first candidate is the answer. Of answers in words several may be given, the best first, of which the toolkit reads
`--topk`. https://github.com/yukezhu/visual7w-toolkit
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.data.questions import SIDES, Box, Question
from unrolled.data.sources import read_json
from unrolled.errors import UserError
from unrolled.files import write_atomic


def format_results(questions: Sequence[Question], answers: Sequence[Sequence[str]], *, boxes: bool) -> str:
    """Returns the text of a result file.

    Args:
        answers: one or more per question, the best first.
        boxes: whether answers are ids of boxes.
    """
    rows = [
        {
            "qa_id": _integer_id(each.id),
            "question": each.question,
            "candidates": [{"answer": _integer_id(answer) if boxes else answer} for answer in given],
        }
        for each, given in zip(questions, answers, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False, indent=1)


def write_results(path: Path, questions: Sequence[Question], answers: Sequence[Sequence[str]], *, boxes: bool) -> None:
    """Writes a result file; arguments as of `format_results`."""
    write_atomic(path, format_results(questions, answers, boxes=boxes))


def read_results(path: Path, questions: Sequence[Question], split: str) -> list[list[str]]:
    """Reads a result file on the questions of a split; returns the answers to each of them, the best first. Raises
    `UserError` if it is not such a file, or the questions in it are not those of the split."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "qa_id" in row for row in rows):
        raise UserError(f"{path}: is not a result file of Visual7W's toolkit, a list of objects with qa_id.")
    known = {each.id for each in questions}
    answers: dict[str, list[str]] = {}
    for row in rows:
        id = str(row["qa_id"])
        if id not in known:
            raise UserError(f"{path}: qa_id {id} is not in split {split!r}; the results are those of another split.")
        if id in answers:
            raise UserError(f"{path}: qa_id {id} stands there twice.")
        answers[id] = _read_answers(row, f"{path}, qa_id {id}")
    if missing := [each.id for each in questions if each.id not in answers]:
        raise UserError(
            f"{path}: answers {len(answers):,} of the {len(questions):,} questions of split {split!r}; "
            f"the first without an answer is qa_id {missing[0]}."
        )
    return [answers[each.id] for each in questions]


def _read_answers(row: dict[str, Any], place: str) -> list[str]:
    candidates = row.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        raise UserError(f"{place}: has no candidates.")
    answers = [each.get("answer") if isinstance(each, dict) else None for each in candidates]
    if None in answers:
        raise UserError(f"{place}: has a candidate without answer.")
    return [str(answer) for answer in answers]


def _integer_id(id: str) -> int | str:
    """Returns an id as in `dataset.json`, with which the toolkit compares: a number."""
    return int(id) if id.isdecimal() else id


def read_boxes(file: Path) -> list[Box]:
    """Reads the boxes of `--boxes`: a list, or an object with a list under ``boxes``; each box is ``[x, y, width,
    height]``, or an object with these keys as in Visual7W's files. Raises `UserError` if there is no such file, or an
    item is not a box."""
    if not file.is_file():
        raise UserError(f"--boxes {file}: no such file.")
    content = read_json(file)
    rows = content.get("boxes") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f"--boxes {file}: holds no list of boxes, such as [[10, 20, 64, 48], [90, 20, 50, 50]].")
    return [_box(row, f"--boxes {file}, box {number}") for number, row in enumerate(rows, 1)]


def _box(row: Any, place: str) -> Box:
    sides = [row.get(side) for side in SIDES] if isinstance(row, dict) else row
    is_list = isinstance(sides, list) and len(sides) == 4
    if not is_list or not all(isinstance(side, int | float) and math.isfinite(side) for side in sides):
        raise UserError(f"{place}: {row!r} is not x, y, width and height in pixels.")
    x, y, width, height = map(float, sides)
    if width <= 0 or height <= 0:
        raise UserError(f"{place}: {width:g} × {height:g} holds no pixel.")
    return x, y, width, height
