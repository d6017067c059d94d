"""The photographs of a split, whatever a task learns about them."""

from __future__ import annotations

import re

from unrolled.config import answering_data, captioning_data
from unrolled.data.captions import open_captioned
from unrolled.data.photographs import Photographs
from unrolled.data.questions import open_asked
from unrolled.data.regions import crops

PhotoData = captioning_data.Data | answering_data.Data
"""The section `data` of a task on photographs."""


REGIONS = "regions of "
"""Before the name of a split: its regions, cut out, in place of its photographs."""


_VIEW = re.compile(r"view (\d+) of ")


def view_of(split: str, view: int) -> str:
    """Returns the name of a split whose photographs are seen in another way: all of each for view 0."""
    return f"view {view} of {split}" if view else split


def seen_split(split: str) -> tuple[str, int]:
    """Returns split and view of what `view_of` names."""
    found = _VIEW.match(split)
    return (split[found.end() :], int(found[1])) if found else (split, 0)


def open_photographs(data: PhotoData, split: str) -> Photographs:
    """Opens one split, whatever the view of it, or its regions; raises as `open_captioned` and `open_asked`."""
    split, _ = seen_split(split)
    if not isinstance(data, answering_data.Data):
        return open_captioned(data, split)
    if not split.startswith(REGIONS):
        return open_asked(data, split)
    assert isinstance(data, answering_data.PointingData)
    return crops(open_asked(as_split(data), split.removeprefix(REGIONS)), data.margin)


def as_split(data: answering_data.PointingData) -> answering_data.PointingData:
    """Returns the same data without folds, so that what is made of a region serves all folds."""
    return data if data.folds is None else data.model_copy(update={"folds": None, "fold": 0, "limit": None})
