"""Photographs and regions of a split of any image task.

Regions of photographs: where the candidates of pointing questions lie, and how they are cut out.

The photographs of a split, whatever a task learns about them.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from PIL import Image

from unrolled.config import captioning, vqa
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import EncodedPhoto, PhotoSet, UnreadableImage, image_size, read_image
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import QuestionSet


class Region(NamedTuple):
    """Where a region lies: the row of its photograph; left, top, right and bottom edge as shares of its sides."""

    photo: int
    left: float
    top: float
    right: float
    bottom: float


def candidate_regions(asked: QuestionSet) -> dict[str, Region]:
    """Returns the candidates of all questions by their ids, in the order of the questions. Where a split has no boxes,
    candidates are names of photographs, and mean all of these."""
    if not asked.boxes:
        return {" ".join(name.split()): Region(row, 0.0, 0.0, 1.0, 1.0) for row, name in enumerate(asked.names)}
    found: dict[str, Region] = {}

    @cache
    def size(photo: int) -> tuple[int, int]:
        try:
            return image_size(asked.images[photo])
        except UnreadableImage:  # its questions are left out
            return 1, 1

    for question in asked.questions:
        for choice in question.choices:
            if choice not in found:
                (x, y, w, h), (width, height) = asked.boxes[choice], size(question.photo)
                edges = x / width, y / height, (x + w) / width, (y + h) / height
                found[choice] = Region(question.photo, *(min(max(edge, 0.0), 1.0) for edge in edges))
    return found


@dataclass(frozen=True)
class RegionCrops(PhotoSet):
    """The regions of a split as photographs of their own.

    Attributes:
        made_of: names photographs, places and margin.
    """

    made_of: str = field(default="", kw_only=True)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.made_of.encode()).hexdigest()[:20]


def region_crops(asked: QuestionSet, margin: float) -> RegionCrops:
    """Cuts out every region of a split; `margin` is the share of its longer side that is added on each side, as far as
    the photograph reaches. The names are the regions' ids."""
    found = candidate_regions(asked)
    made_of = f"{asked.fingerprint} {margin} {list(found.values())}"
    return RegionCrops(_Cut(asked, list(found.values()), margin), list(found), dropped=asked.dropped, made_of=made_of)


def crop_region(photo: Image.Image, region: Region, margin: float) -> Image.Image:
    """Returns what a photograph shows in a region, a pixel at least."""
    left, right = region.left * photo.width, region.right * photo.width
    top, bottom = region.top * photo.height, region.bottom * photo.height
    more = margin * max(right - left, bottom - top)
    x, y = max(0, int(left - more)), max(0, int(top - more))
    x, y = min(x, photo.width - 1), min(y, photo.height - 1)
    return photo.crop(
        (x, y, max(x + 1, min(photo.width, round(right + more))), max(y + 1, min(photo.height, round(bottom + more))))
    )


class _Cut(Sequence[EncodedPhoto]):
    """Pictures of regions, cut out when they are asked for; the photograph of the last one is kept for the next."""

    def __init__(self, asked: QuestionSet, regions: Sequence[Region], margin: float) -> None:
        self._asked, self._regions, self._margin = asked, regions, margin
        self._row, self._photo = -1, Image.new("RGB", (1, 1))

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, place: int) -> EncodedPhoto:  # type: ignore[override]
        region = self._regions[place]
        if region.photo != self._row:
            try:
                self._photo, self._row = read_image(self._asked.images[region.photo]), region.photo
            except UnreadableImage:
                return self._asked.images[region.photo]  # which says once more why
        stream = io.BytesIO()
        crop_region(self._photo, region, self._margin).save(stream, "BMP")
        return stream.getvalue()


PhotoData = captioning.CaptionData | vqa.QuestionData
"""The section `data` of a task on photographs."""


REGIONS_PREFIX = "regions of "
"""Before the name of a split: its regions, cut out, in place of its photographs."""


_VIEW = re.compile(r"view (\d+) of ")


def view_split(split: str, view: int) -> str:
    """Returns the name of a split whose photographs are seen in another way: all of each for view 0."""
    return f"view {view} of {split}" if view else split


def parse_view_split(split: str) -> tuple[str, int]:
    """Returns split and view of what `view_of` names."""
    found = _VIEW.match(split)
    return (split[found.end() :], int(found[1])) if found else (split, 0)


def open_photos(data: PhotoData, split: str) -> PhotoSet:
    """Opens one split, whatever the view of it, or its regions; raises as `open_captions` and `open_questions`."""
    split, _ = parse_view_split(split)
    if not isinstance(data, vqa.QuestionData):
        return open_captions(data, split)
    if not split.startswith(REGIONS_PREFIX):
        return open_questions(data, split)
    assert isinstance(data, vqa.PointingData)
    return region_crops(open_questions(without_folds(data), split.removeprefix(REGIONS_PREFIX)), data.margin)


def without_folds(data: vqa.PointingData) -> vqa.PointingData:
    """Returns the same data without folds, so that what is made of a region serves all folds."""
    return data if data.folds is None else data.model_copy(update={"folds": None, "fold": 0, "limit": None})
