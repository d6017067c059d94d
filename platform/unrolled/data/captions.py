"""Captioned photographs of any source: the photographs as they are stored, and what is written about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unrolled.config.captioning_data import Data
from unrolled.data.captioned_files import READERS
from unrolled.data.captioned_tables import open_table
from unrolled.data.photographs import Chosen, Drawn, Photographs, Stored, examples, number
from unrolled.data.scenes import NAME, SIZES, scenes
from unrolled.data.sources import one_of
from unrolled.errors import UserError


@dataclass(frozen=True)
class Captioned(Photographs):
    """One split. `captions`: of each photograph one or more, none of them empty."""

    captions: list[list[str]]


class _Kept(NamedTuple):
    """What is left of a split, with the row of each photograph."""

    rows: list[int]
    captions: list[list[str]]
    dropped: list[str]


def open_captioned(data: Data, split: str) -> Captioned:
    """Opens one split.

    Args:
        split: `train`, `validation`, `test`, or another split of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, or no photograph with a caption.
    """
    name = data.splits.model_dump().get(split, split)
    if data.source == NAME:
        return _scenes(name, data.limit)
    folder = Path(data.source).expanduser()
    if folder.is_dir():
        for reader in READERS:
            if (photos := reader(data, name)) is not None:
                return _captioned(photos.paths, photos.names, photos.captions, data, name)
    table, captions = open_table(data, name)
    return _captioned(table, table.names, captions, data, name)


def _scenes(split: str, limit: int | None) -> Captioned:
    one_of(SIZES, split, NAME)
    captions = [[scene.caption] for scene in scenes()[split][:limit]]
    names = [f"{NAME}/{split}/{row}.png" for row in range(len(captions))]
    return Captioned(Chosen(Drawn(split), range(len(captions))), names, captions)


def _captioned(
    images: Sequence[Stored], names: Sequence[str], captions: Sequence[Sequence[str]], data: Data, split: str
) -> Captioned:
    kept = _keep(names, captions, data, split)
    return Captioned(Chosen(images, kept.rows), [names[row] for row in kept.rows], kept.captions, dropped=kept.dropped)


def _keep(names: Sequence[str], captions: Sequence[Sequence[str]], data: Data, split: str) -> _Kept:
    """Leaves out empty captions and the photographs that then have none, and keeps the first `data.limit`."""
    rows: list[int] = []
    kept: list[list[str]] = []
    empty, without = [], []
    for row, texts in enumerate(captions):
        if data.limit is not None and len(rows) == data.limit:
            break
        whole = [" ".join(text.split()) for text in texts]
        written = [text for text in whole if text]
        if len(written) < len(texts) and written:
            empty.append(names[row])
        if written:
            rows.append(row)
            kept.append(written)
        else:
            without.append(names[row])
    if not rows:
        raise UserError(f"data.source: {data.source}, split {split!r} has no photograph with a caption.")
    dropped = [
        f"split {split!r}: {number(found, 'photograph')} {what} ({examples(found)})"
        for found, what in ((without, "without caption left out"), (empty, "with empty captions, which are left out"))
        if found
    ]
    return _Kept(rows, kept, dropped)
