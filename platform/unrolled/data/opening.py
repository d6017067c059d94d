"""The photographs of a split, whatever a task learns about them."""

from __future__ import annotations

from unrolled.config import answering_data, captioning_data
from unrolled.data.captions import open_captioned
from unrolled.data.photographs import Photographs
from unrolled.data.questions import open_asked

PhotoData = captioning_data.Data | answering_data.Data
"""The section `data` of a task on photographs."""


def open_photographs(data: PhotoData, split: str) -> Photographs:
    """Opens one split; raises as `open_captioned` and `open_asked`."""
    return open_asked(data, split) if isinstance(data, answering_data.Data) else open_captioned(data, split)
