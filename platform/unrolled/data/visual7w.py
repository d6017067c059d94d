"""Visual7W's files as they are published: `dataset.json`, of questions answered in words or by boxes.

    {"dataset": "v7w_telling", "images": [{"image_id", "filename", "split", "qa_pairs": [
        {"qa_id", "image_id", "type", "question", "answer", "multiple_choices": [three wrong ones]}]}]}

The file for pointing has box ids in place of words, and lists `"boxes": [{"box_id", "image_id", "name", "x", "y",
"width", "height"}]` beside `images`. Photographs lie in the folder `images`.

Zhu, Groth, Bernstein and Fei-Fei, Visual7W: Grounded Question Answering in Images, CVPR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.config.answering_data import Data
from unrolled.data.asked import KINDS, Asked, Box, Question, ask
from unrolled.data.images import UnreadableImage, image_size
from unrolled.data.photo_files import photo_paths, read_json
from unrolled.data.sources import names_of
from unrolled.errors import UserError, listing, nearest

EDGE = 2.0
"""Pixels by which a box may reach beyond its photograph: published boxes are rounded."""
SIDES = ("x", "y", "width", "height")


def visual7w(data: Data, split: str) -> Asked | None:
    """Reads one split; `None` if the folder has no such file."""
    folder = Path(data.source).expanduser()
    contents = {file: read_json(file) for file in sorted(folder.glob("dataset*.json"))}
    contents = {file: content for file, content in contents.items() if _is_visual7w(content)}
    if not contents:
        return None
    fitting = [file for file, content in contents.items() if ("boxes" in content) == data.pointing]
    if len(fitting) != 1:
        names = listing(file.name for file in fitting or contents)
        if fitting:
            raise UserError(f"data.source: {folder} has {names}; keep one of them.")
        asks, wants = ("in words", "boxes") if data.pointing else ("by boxes", "words")
        raise UserError(f"{folder / names}: is answered {asks}, and the task wants {wants}.")
    return _File(fitting[0], contents[fitting[0]]).split(data, split)


class _File:
    """A file that was read, and the checks of what stands in it."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self._file, self._images = file, content["images"]
        self._boxes = self._read_boxes(content.get("boxes", []))
        self._pointing = "boxes" in content

    def split(self, data: Data, split: str) -> Asked:
        """Returns the questions of one split."""
        chosen = [image for image in self._images if image.get("split") in names_of(split)]
        if not chosen:
            there = sorted({str(image.get("split")) for image in self._images})
            raise UserError(f"data.splits: {self._file} has no split {split!r}; it has {listing(there)}.")
        self._check_ids()
        names = [str(self._value(image, "filename", str, "an image")) for image in chosen]
        paths = photo_paths(data.source, data.images, names)
        rows = {str(image.get("image_id")): row for row, image in enumerate(chosen)}
        questions = [
            self._question(pair, row, str(image.get("image_id")))
            for row, image in enumerate(chosen)
            for pair in image.get("qa_pairs", [])
        ]
        boxes = {box: at for box, (owner, at) in self._boxes.items() if owner in rows}
        self._check_inside(boxes, rows, paths)
        return Asked(paths, names, questions, boxes)

    def _question(self, pair: dict[str, Any], row: int, image: str) -> Question:
        id = str(self._value(pair, "qa_id", int | str, "a question"))
        place = f"qa_id {id}"
        text = self._value(pair, "question", str, place)
        answer, wrong = pair.get("answer"), pair.get("multiple_choices")
        if answer is None:
            raise UserError(f"{self._file}, {place}: has no answer.")
        if not isinstance(wrong, list) or not wrong:
            raise UserError(f"{self._file}, {place}: has no candidates (multiple_choices) besides the answer.")
        kind = pair.get("type")
        if kind not in KINDS:
            close = nearest(str(kind), KINDS)
            raise UserError(f"{self._file}, {place}: type {kind!r} is not known; accepted is {listing(KINDS)}.{close}")
        for candidate in [answer, *wrong]:
            self._check_candidate(candidate, image, place)
        return ask(id, row, text, [str(answer)], [str(candidate) for candidate in wrong], kind)

    def _check_candidate(self, candidate: object, image: str, place: str) -> None:
        if not isinstance(candidate, str | int) or isinstance(candidate, bool):
            raise UserError(f"{self._file}, {place}: {candidate!r} is neither words nor the id of a box.")
        if not self._pointing:
            return
        if str(candidate) not in self._boxes:
            raise UserError(f"{self._file}, {place}: candidate {candidate} is not among the boxes.")
        owner, _ = self._boxes[str(candidate)]
        if owner != image:
            raise UserError(f"{self._file}, {place}: box {candidate} is of image {owner}, not of {image}.")

    def _read_boxes(self, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, Box]]:
        """Returns each box's image and place, by id."""
        boxes: dict[str, tuple[str, Box]] = {}
        for row in rows:
            id = str(self._value(row, "box_id", int | str, "a box"))
            x, y, width, height = (float(self._value(row, side, int | float, f"box {id}")) for side in SIDES)
            if id in boxes:
                raise UserError(f"{self._file}: box_id {id} stands there twice; every box needs its own.")
            if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
                raise UserError(f"{self._file}, box {id}: {_shown((x, y, width, height))} holds no pixel.")
            boxes[id] = str(row.get("image_id")), (x, y, width, height)
        return boxes

    def _check_ids(self) -> None:
        """Over all splits, so that a result file tells them apart."""
        seen: set[str] = set()
        for image in self._images:
            for pair in image.get("qa_pairs", []):
                if (id := str(pair.get("qa_id"))) in seen:
                    raise UserError(f"{self._file}: qa_id {id} stands there twice; every question needs its own.")
                seen.add(id)

    def _check_inside(self, boxes: dict[str, Box], rows: dict[str, int], paths: Sequence[Path]) -> None:
        sizes: dict[int, tuple[int, int] | None] = {}
        for id, (x, y, width, height) in boxes.items():
            row = rows[self._boxes[id][0]]
            if row not in sizes:
                sizes[row] = _size(paths[row])
            if (size := sizes[row]) is None:
                continue
            if min(x, y) < -EDGE or x + width > size[0] + EDGE or y + height > size[1] + EDGE:
                raise UserError(
                    f"{self._file}, box {id}: {_shown((x, y, width, height))} reaches beyond {paths[row].name}, "
                    f"{size[0]} × {size[1]}; boxes are in pixels of the stored photograph."
                )

    def _value(self, row: dict[str, Any], key: str, kind: Any, place: str) -> Any:
        value = row.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            has = "nothing" if value is None else repr(value)
            raise UserError(f"{self._file}, {place}: {key} holds {has}, not {_wanted(kind)}.")
        return value


def _is_visual7w(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "qa_pairs" in images[0]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UnreadableImage:  # which is reported when photographs are read
        return None


def _shown(box: Box) -> str:
    x, y, width, height = box
    return f"x {x:g}, y {y:g}, {width:g} × {height:g}"


def _wanted(kind: Any) -> str:
    return {str: "text", int | float: "a number"}.get(kind, "a number or text")
