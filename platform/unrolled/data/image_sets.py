"""Photographs, views and regions of a split of any image task."""

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

PhotoData = captioning.CaptionData | vqa.QuestionData
"""The section `data` of an image task."""
REGIONS_PREFIX = "regions of "
"""Before the name of a split: its regions, cut out, in place of its photographs."""
_VIEW = re.compile(r"view (\d+) of ")


def open_photos(data: PhotoData, split: str) -> PhotoSet:
    """Opens the photographs of a split, or of any view of it, or its regions; raises as `open_captions` and
    `open_questions`."""
    split, _ = parse_view_split(split)
    if not isinstance(data, vqa.QuestionData):
        return open_captions(data, split)
    if not split.startswith(REGIONS_PREFIX):
        return open_questions(data, split)
    assert isinstance(data, vqa.PointingData)
    return region_crops(open_questions(without_folds(data), split.removeprefix(REGIONS_PREFIX)), data.margin)


def without_folds(data: vqa.PointingData) -> vqa.PointingData:
    """Returns the same data without folds, so that features of regions serve all folds."""
    return data if data.folds is None else data.model_copy(update={"folds": None, "fold": 0, "limit": None})


def view_split(split: str, view: int) -> str:
    """Returns the name of a view of a split; view 0 is the whole photographs."""
    return f"view {view} of {split}" if view else split


def parse_view_split(name: str) -> tuple[str, int]:
    """Returns split and view of a name by `view_split`."""
    match = _VIEW.match(name)
    return (name[match.end() :], int(match[1])) if match else (name, 0)


class Region(NamedTuple):
    """A region of a photograph: the photograph's row, and the region's edges as fractions of its sides."""

    photo: int
    left: float
    top: float
    right: float
    bottom: float


def candidate_regions(questions: QuestionSet) -> dict[str, Region]:
    """Returns the candidates of all questions by id, in the order of the questions. Where a split has no boxes,
    candidates are names of photographs, each of which is one region."""
    if not questions.boxes:
        return {" ".join(name.split()): Region(row, 0.0, 0.0, 1.0, 1.0) for row, name in enumerate(questions.names)}
    regions: dict[str, Region] = {}

    @cache
    def size(photo: int) -> tuple[int, int]:
        try:
            return image_size(questions.images[photo])
        except UnreadableImage:  # its questions are left out
            return 1, 1

    for question in questions.questions:
        for choice in question.choices:
            if choice not in regions:
                (x, y, w, h), (width, height) = questions.boxes[choice], size(question.photo)
                edges = x / width, y / height, (x + w) / width, (y + h) / height
                regions[choice] = Region(question.photo, *(min(max(edge, 0.0), 1.0) for edge in edges))
    return regions


@dataclass(frozen=True)
class RegionCrops(PhotoSet):
    """The regions of a split as photographs; names are their ids, `origin` identifies photographs, regions, margin."""

    origin: str = field(default="", kw_only=True)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.origin.encode()).hexdigest()[:20]


def region_crops(questions: QuestionSet, margin: float) -> RegionCrops:
    """Cuts out every region of a split; `margin` is as of `crop_region`."""
    regions = candidate_regions(questions)
    images = _Crops(questions, list(regions.values()), margin)
    origin = f"{questions.fingerprint} {margin} {list(regions.values())}"
    return RegionCrops(images, list(regions), dropped=questions.dropped, origin=origin)


def crop_region(photo: Image.Image, region: Region, margin: float) -> Image.Image:
    """Cuts out a region, one pixel at least; the fraction `margin` of its longer side is added on each side, as far as
    the photograph reaches."""
    left, right = region.left * photo.width, region.right * photo.width
    top, bottom = region.top * photo.height, region.bottom * photo.height
    pixels = margin * max(right - left, bottom - top)
    x, y = max(0, int(left - pixels)), max(0, int(top - pixels))
    x, y = min(x, photo.width - 1), min(y, photo.height - 1)
    x_end, y_end = min(photo.width, round(right + pixels)), min(photo.height, round(bottom + pixels))
    return photo.crop((x, y, max(x + 1, x_end), max(y + 1, y_end)))


class _Crops(Sequence[EncodedPhoto]):
    """Regions, cut out on access; keeps the photograph of the last one for the next."""

    def __init__(self, questions: QuestionSet, regions: Sequence[Region], margin: float) -> None:
        self._images, self._regions, self._margin = questions.images, regions, margin
        self._row, self._photo = -1, Image.new("RGB", (1, 1))

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, index: int) -> EncodedPhoto:  # type: ignore[override]
        region = self._regions[index]
        if region.photo != self._row:
            try:
                self._photo, self._row = read_image(self._images[region.photo]), region.photo
            except UnreadableImage:
                return self._images[region.photo]  # reading it raises the same error again
        stream = io.BytesIO()
        crop_region(self._photo, region, self._margin).save(stream, "BMP")
        return stream.getvalue()
