"""Feature files on disk, and photographs decoded on demand.

What a worker does: reads a block of photographs and computes their features.

Features on disk: written block by block, whole when the last is there, then memory-mapped by every worker.

A folder of the cache holds `features.safetensors` (`grids`, float16; `means`, float32) and `photographs.json` (how
many, and which cannot be read). While it is made, it has another name, and `blocks.jsonl` says which blocks are done.

Photographs for a network that is trained: decoded when a batch needs them, not kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from unrolled.config import Config
from unrolled.data.image_sets import open_photos
from unrolled.data.images import PhotoSet, UnreadableImage, random_view, read_image, required_side, to_pixels
from unrolled.errors import UserError
from unrolled.features.backbones import SMALL, backbone_spec
from unrolled.files import build_cached, write_atomic

BLOCK = 64
"""Photographs that are computed and stored at a time."""


@dataclass(frozen=True)
class Block:
    """Features of consecutive photographs.

    Attributes:
        grids: `(n, positions, channels)`, float16; zeros for a photograph that cannot be read.
        means: `(n, channels)`, float32: the mean over positions.
        unreadable: why, by place in the block.
    """

    grids: np.ndarray
    means: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)


FILE, DONE, PHOTOGRAPHS = "features.safetensors", "blocks.jsonl", "photographs.json"


class FeatureSet:
    """Features of a split's photographs, memory-mapped.

    Attributes:
        channels: of a position.
        positions: of a grid.
        unreadable: names of the photographs that could not be read, and why, by row.
        missing: their rows; their features are zeros.
    """

    def __init__(self, folder: Path) -> None:
        with safe_open(folder / FILE, framework="pt") as file:
            self._grids, self._means = file.get_tensor("grids"), file.get_tensor("means")
        _, self.positions, self.channels = self._grids.shape
        described = json.loads((folder / PHOTOGRAPHS).read_text(encoding="utf-8"))
        self.unreadable = {int(row): (name, reason) for row, (name, reason) in described["unreadable"].items()}
        self.missing = set(self.unreadable)

    def __len__(self) -> int:
        return len(self._grids)

    def grids(self, rows: Tensor) -> Tensor:
        """Returns `(n, positions, channels)` of rows `(n,)`."""
        grids: Tensor = self._grids[rows]
        return grids.float()

    def globals(self, rows: Tensor) -> Tensor:
        """Returns the means over all positions, `(n, channels)`, of rows `(n,)`."""
        means: Tensor = self._means[rows]
        return means


class FeatureWriter:
    """The folder of features that are being made. One process at a time may hold it.

    Args:
        folder: made unless it is there; what it has of earlier attempts counts.
        shape: photographs, positions, channels.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._blocks: dict[int, dict[str, str]] = {}
        header = _header(shape)
        self._begin = len(header)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        if not file.exists() or file.stat().st_size != self._begin + _bytes(shape):
            (folder / DONE).unlink(missing_ok=True)
            with file.open("wb") as stream:
                stream.write(header)
                stream.truncate(self._begin + _bytes(shape))
        elif (folder / DONE).exists():
            self._resume()

    @property
    def missing(self) -> list[int]:
        """Blocks that are not there yet."""
        return [number for number in range(math.ceil(self._shape[0] / BLOCK)) if number not in self._blocks]

    def add(self, number: int, block: Block) -> None:
        """Stores a block."""
        photographs, positions, channels = self._shape
        first = number * BLOCK
        with (self._folder / FILE).open("r+b", buffering=0) as stream:
            stream.seek(self._begin + first * positions * channels * 2)
            block.grids.tofile(stream)
            stream.seek(self._begin + photographs * positions * channels * 2 + first * channels * 4)
            block.means.tofile(stream)
        self._blocks[number] = {str(first + place): reason for place, reason in block.unreadable.items()}
        with (self._folder / DONE).open("a", encoding="utf-8") as done:
            done.write(json.dumps([number, self._blocks[number]]) + "\n")

    def finish(self, folder: Path, names: Sequence[str]) -> None:
        """Gives the folder its name, once no block is missing."""
        rows = {row: reason for number in sorted(self._blocks) for row, reason in self._blocks[number].items()}
        unreadable = {row: (names[int(row)], reason) for row, reason in rows.items()}
        described = json.dumps({"photographs": self._shape[0], "unreadable": unreadable}, indent=1)
        write_atomic(self._folder / PHOTOGRAPHS, described)
        (self._folder / DONE).unlink()
        self._folder.rename(folder)

    def _resume(self) -> None:
        for line in (self._folder / DONE).read_text(encoding="utf-8").splitlines():
            try:
                number, unreadable = json.loads(line)
            except ValueError:  # the line that a kill cut
                continue
            self._blocks[number] = unreadable
        text = "".join(json.dumps([number, unreadable]) + "\n" for number, unreadable in self._blocks.items())
        write_atomic(self._folder / DONE, text)


def _bytes(shape: tuple[int, int, int]) -> int:
    photographs, positions, channels = shape
    return photographs * channels * (positions * 2 + 4)


def _header(shape: tuple[int, int, int]) -> bytes:
    """Returns the beginning of a safetensors file: the length of a JSON text as 8 bytes, and that text, which says
    where each tensor lies behind it."""
    photographs, positions, channels = shape
    grids = photographs * positions * channels * 2
    described = {
        "grids": {"dtype": "F16", "shape": list(shape), "data_offsets": [0, grids]},
        "means": {"dtype": "F32", "shape": [photographs, channels], "data_offsets": [grids, _bytes(shape)]},
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


VERSION = 1
"""Raise when other photographs can be read, so that they are looked through again."""
UNREADABLE = "unreadable.json"


class PixelSet:
    """The photographs of a split.

    Args:
        photographs: the split.
        unreadable: photographs that cannot be read, and why, by row.
        size: pixels of a side, as the network wants them.
        seed: of the views of an epoch; `None`: all is seen of a photograph in every epoch.

    Attributes:
        missing: rows of the photographs that cannot be read.
    """

    def __init__(
        self, photographs: PhotoSet, unreadable: dict[int, tuple[str, str]], size: int, seed: int | None
    ) -> None:
        self._photographs, self._size, self._seed = photographs, size, seed
        self.unreadable, self.missing = unreadable, set(unreadable)

    def __len__(self) -> int:
        return len(self._photographs)

    def read(self, rows: Sequence[int], epoch: int | None) -> Tensor:
        """Returns pixels `(n, 3, size, size)`, 0 … 255 as bytes, channels last in memory.

        Args:
            epoch: in which they are learned from; `None`: all is seen of a photograph.

        Raises:
            UserError: one cannot be read.
        """
        pixels = torch.empty(len(rows), self._size, self._size, 3, dtype=torch.uint8)
        for place, row in enumerate(rows):
            view = None if epoch is None or self._seed is None else random_view(self._seed, epoch, row)
            try:
                image = read_image(self._photographs.images[row], required_side(self._size, view))
            except UnreadableImage as error:
                raise UserError(f"{self._photographs.names[row]}: {error}.") from None
            pixels[place] = to_pixels(image, self._size, view)
        return pixels.permute(0, 3, 1, 2)


def open_pixels(config: Config, split: str) -> PixelSet:
    """Opens the photographs of a split for the network of `config.model.features`. Which of them can be read is found
    out once and kept in the cache. Networks for photographs learn from random views; `small` sees all of a picture,
    since what it is for, drawn scenes, says what is left and right.

    Raises:
        UserError: as `open_photographs` and `backbone_spec`, or the cache cannot be written.
    """
    given: Any = config
    features = given.model.features
    photographs = open_photos(given.data, split)
    digest = hashlib.sha256(f"photographs {VERSION} {photographs.fingerprint}".encode()).hexdigest()[:20]
    folder = build_cached(digest, lambda folder: _look_through(photographs, folder))
    found = json.loads((folder / UNREADABLE).read_text(encoding="utf-8"))
    unreadable = {int(row): (photographs.names[int(row)], reason) for row, reason in found.items()}
    return PixelSet(
        photographs, unreadable, backbone_spec(features).size, None if features.backbone == SMALL else config.seed
    )


def _look_through(photographs: PhotoSet, folder: Path) -> None:
    unreadable = {}
    for row in range(len(photographs)):
        try:
            read_image(photographs.images[row], min_side=1)
        except UnreadableImage as error:
            unreadable[row] = str(error)
    write_atomic(folder / UNREADABLE, json.dumps(unreadable))
