"""Photographs of a split as they are stored, whatever is known about them: captions, or questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unrolled.data.scenes import scenes

NAMED = 3
"""Examples that a sentence on what is left out names."""
Stored = bytes | Path
"""An encoded photograph, or the path of its file, which need not exist."""


@dataclass(frozen=True)
class Photographs:
    """Those of one split, each once. They stay encoded, and are read when they are asked for.

    Attributes:
        images: `[i]` gives the encoded bytes, or the path of a file, which need not exist.
        names: of the photographs, such as a file's, one each.
        dropped: what was left out, a sentence each.
    """

    images: Sequence[Stored]
    names: Sequence[str]
    dropped: list[str] = field(default_factory=list, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Names the photographs, in order: by their bytes where they are in a table, else by name, size and date."""
        digest = hashlib.sha256(f"{len(self)}\n".encode())
        for part in self._identity():
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()[:20]

    def _identity(self) -> Iterator[bytes]:
        for name, image in zip(self.names, self.images, strict=True):
            if isinstance(image, bytes):
                yield image
            else:
                stat = image.stat() if image.is_file() else None
                yield f"{name}\n{stat and (stat.st_size, stat.st_mtime_ns)}".encode("utf-8", "surrogatepass")


class Chosen(Sequence[Stored]):
    """Some of the photographs of another sequence, by their rows."""

    def __init__(self, images: Sequence[Stored], rows: Sequence[int]) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Stored:  # type: ignore[override]
        return self._images[self._rows[place]]


class Joined(Sequence[Stored]):
    """The photographs of several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Stored]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, place: int) -> Stored:  # type: ignore[override]
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(place)


class Drawn(Sequence[bytes]):
    """The pictures of a split of `scenes`, drawn when they are asked for."""

    def __init__(self, split: str) -> None:
        self._scenes = scenes()[split]

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        return self._scenes[place].png()


def number(found: Sequence[str], noun: str) -> str:
    """Returns how many, such as "2 photographs"."""
    return f"{len(found):,} {noun}{'s' if len(found) > 1 else ''}"


def examples(names: Sequence[str]) -> str:
    """Returns the first names, such as "a.jpg, b.jpg, c.jpg, …"."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
