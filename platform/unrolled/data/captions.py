"""Captioned photographs of any source: the photographs as they are stored, and what is written about each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from unrolled.config.captioning_data import Data
from unrolled.data.captioned_files import READERS, Photos
from unrolled.data.captioned_tables import Table, open_table
from unrolled.data.scenes import SIZES, scenes
from unrolled.data.sources import one_of
from unrolled.errors import UserError

SCENES = "scenes"
NAMED = 3
"""Examples that a sentence on left out photographs names."""


@dataclass(frozen=True)
class Captioned:
    """One split. Photographs stay encoded, and are read when they are asked for.

    Attributes:
        images: `[i]` gives the encoded bytes, or the path of a file, which need not exist.
        names: of the photographs, such as a file's, one each.
        captions: of each photograph one or more, none of them empty.
        dropped: what was left out, a sentence each.
        identity: what tells the photographs from others, in order, for a fingerprint.
    """

    images: Sequence[bytes | Path]
    names: Sequence[str]
    captions: list[list[str]]
    dropped: list[str] = field(default_factory=list)
    identity: Callable[[], Iterable[bytes]] = lambda: ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Names the photographs: by their bytes where these are in a table, else by name, size and date."""
        digest = hashlib.sha256(f"{len(self)}\n".encode())
        for part in self.identity():
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()[:20]


class _Drawn(Sequence[bytes]):
    """The pictures of scenes, drawn when they are asked for."""

    def __init__(self, split: str, count: int) -> None:
        self._scenes = scenes()[split][:count]

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        return self._scenes[place].png()


class _Chosen(Sequence[bytes | Path]):
    """Some of the photographs of a table."""

    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> bytes | Path:  # type: ignore[override]
        return self._table.image(self._rows[place])


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
    if data.source == SCENES:
        return _scenes(name, data.limit)
    folder = Path(data.source).expanduser()
    if folder.is_dir():
        for reader in READERS:
            if (photos := reader(data, name)) is not None:
                return _files(photos, data, name)
    return _table(data, name)


def _scenes(split: str, limit: int | None) -> Captioned:
    one_of(SIZES, split, SCENES)
    drawn = scenes()[split][:limit]
    names = [f"{SCENES}/{split}/{number}.png" for number in range(len(drawn))]
    captions = [[scene.caption] for scene in drawn]
    images = _Drawn(split, len(drawn))
    return Captioned(images, names, captions, identity=lambda: (images[row] for row in range(len(images))))


def _files(photos: Photos, data: Data, split: str) -> Captioned:
    kept = _keep(photos.names, photos.captions, data, split)
    paths = [photos.paths[row] for row in kept.rows]
    names = [photos.names[row] for row in kept.rows]

    def identity() -> Iterable[bytes]:
        for name, path in zip(names, paths, strict=True):
            stat = path.stat() if path.is_file() else None
            yield f"{name}\n{stat and (stat.st_size, stat.st_mtime_ns)}".encode("utf-8", "surrogatepass")

    return Captioned(paths, names, kept.captions, kept.dropped, identity)


def _table(data: Data, split: str) -> Captioned:
    table = open_table(data, split)
    kept = _keep(table.names, table.captions, data, split)
    images = _Chosen(table, kept.rows)
    names = [table.names[row] for row in kept.rows]

    def identity() -> Iterable[bytes]:
        for image in images:
            yield image if isinstance(image, bytes) else str(image).encode("utf-8", "surrogatepass")

    return Captioned(images, names, kept.captions, kept.dropped, identity)


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
        f"split {split!r}: {_number(found, 'photograph')} {what} ({_examples(found)})"
        for found, what in ((without, "without caption left out"), (empty, "with empty captions, which are left out"))
        if found
    ]
    return _Kept(rows, kept, dropped)


def _number(found: Sequence[str], noun: str) -> str:
    return f"{len(found):,} {noun}{'s' if len(found) > 1 else ''}"


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
