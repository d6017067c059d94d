"""Boxes that a person gives in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unrolled.data.asked import Box
from unrolled.data.photo_files import read_json
from unrolled.errors import UserError

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
