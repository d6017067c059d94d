"""The photographs of a split, whatever a task learns about them."""

from __future__ import annotations

from unrolled.config import answering_data, captioning_data
from unrolled.data.captions import open_captioned
from unrolled.data.photographs import Photographs
from unrolled.data.questions import open_asked
from unrolled.data.regions import crops

PhotoData = captioning_data.Data | answering_data.Data
"""The section `data` of a task on photographs."""


REGIONS = "regions of "
"""Before the name of a split: its regions, cut out, in place of its photographs."""


def open_photographs(data: PhotoData, split: str) -> Photographs:
    """Opens one split, or its regions; raises as `open_captioned` and `open_asked`."""
    if not isinstance(data, answering_data.Data):
        return open_captioned(data, split)
    if not split.startswith(REGIONS):
        return open_asked(data, split)
    assert isinstance(data, answering_data.PointingData)
    return crops(open_asked(as_split(data), split.removeprefix(REGIONS)), data.margin)


def as_split(data: answering_data.PointingData) -> answering_data.PointingData:
    """Returns the same data without folds, so that what is made of a region serves all folds."""
    return data if data.folds is None else data.model_copy(update={"folds": None, "fold": 0, "limit": None})
