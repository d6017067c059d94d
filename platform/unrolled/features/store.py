"""Feature files on disk, and photographs decoded on demand.

A folder of the cache holds `features.safetensors` (`grids`, float16; `means`, float32) and `photographs.json` (their
number, and those that cannot be read). Until the last block is written it has another name, and `blocks.jsonl` lists
the blocks that are done.
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
from unrolled.data.images import PhotoSet, UnreadableImage, random_view, read_image, read_pixels
from unrolled.errors import UserError
from unrolled.features.backbones import SMALL, backbone_spec
from unrolled.files import build_cached, iterate_json_lines, write_atomic

BLOCK = 64
"""Photographs that are extracted and stored at a time."""
FILE, DONE, PHOTOGRAPHS = "features.safetensors", "blocks.jsonl", "photographs.json"
VERSION = 1
"""Raise when other photographs can be read, so that all are checked again."""
UNREADABLE = "unreadable.json"


class FeatureSet:
    """Memory-mapped features of a split's photographs.

    Attributes:
        channels: per position.
        positions: of a grid.
        unreadable: name and reason of the photographs that could not be read, by row; their features are zeros.
    """

    def __init__(self, folder: Path) -> None:
        with safe_open(folder / FILE, framework="pt") as file:
            self._grids, self._means = file.get_tensor("grids"), file.get_tensor("means")
        _, self.positions, self.channels = self._grids.shape
        described = json.loads((folder / PHOTOGRAPHS).read_text(encoding="utf-8"))
        self.unreadable = {int(row): (name, reason) for row, (name, reason) in described["unreadable"].items()}

    def __len__(self) -> int:
        return len(self._grids)

    def grids(self, rows: Tensor) -> Tensor:
        """Returns the grids of rows `(n,)`: `(n, positions, channels)`."""
        grids: Tensor = self._grids[rows]
        return grids.float()

    def globals(self, rows: Tensor) -> Tensor:
        """Returns the means over all positions of rows `(n,)`: `(n, channels)`."""
        means: Tensor = self._means[rows]
        return means


@dataclass(frozen=True)
class Block:
    """Features of consecutive photographs.

    Attributes:
        grids: `(n, positions, channels)`, float16; zeros for a photograph that cannot be read.
        means: `(n, channels)`, float32: the mean over positions.
        unreadable: reasons, by index in the block.
    """

    grids: np.ndarray
    means: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)


class FeatureWriter:
    """The folder of a feature set of `shape` (photographs, positions, channels) that is being extracted. It is
    created unless it exists, and blocks of earlier attempts are kept. One process at a time may use it."""

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._blocks: dict[int, dict[str, str]] = {}
        header = _header(shape)
        self._offset = len(header)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        if not file.exists() or file.stat().st_size != self._offset + _data_size(shape):
            (folder / DONE).unlink(missing_ok=True)
            with file.open("wb") as stream:
                stream.write(header)
                stream.truncate(self._offset + _data_size(shape))
        elif (folder / DONE).exists():
            self._resume()

    def _resume(self) -> None:
        """Reads which blocks are done, and drops a line that was cut off."""
        self._blocks = dict(row for row in iterate_json_lines(self._folder / DONE) if row is not None)
        text = "".join(json.dumps([number, unreadable]) + "\n" for number, unreadable in self._blocks.items())
        write_atomic(self._folder / DONE, text)

    @property
    def missing(self) -> list[int]:
        """Numbers of the blocks that are not stored yet."""
        return [number for number in range(math.ceil(self._shape[0] / BLOCK)) if number not in self._blocks]

    def add(self, number: int, block: Block) -> None:
        """Stores a block."""
        photographs, positions, channels = self._shape
        first = number * BLOCK
        with (self._folder / FILE).open("r+b", buffering=0) as stream:
            stream.seek(self._offset + first * positions * channels * 2)
            block.grids.tofile(stream)
            stream.seek(self._offset + photographs * positions * channels * 2 + first * channels * 4)
            block.means.tofile(stream)
        self._blocks[number] = {str(first + i): reason for i, reason in block.unreadable.items()}
        with (self._folder / DONE).open("a", encoding="utf-8") as done:
            done.write(json.dumps([number, self._blocks[number]]) + "\n")

    def finish(self, folder: Path, names: Sequence[str]) -> None:
        """Renames the folder to its final name, once no block is missing."""
        rows = {row: reason for number in sorted(self._blocks) for row, reason in self._blocks[number].items()}
        unreadable = {row: (names[int(row)], reason) for row, reason in rows.items()}
        described = json.dumps({"photographs": self._shape[0], "unreadable": unreadable}, indent=1)
        write_atomic(self._folder / PHOTOGRAPHS, described)
        (self._folder / DONE).unlink()
        self._folder.rename(folder)


def _data_size(shape: tuple[int, int, int]) -> int:
    """Returns the number of bytes of both tensors."""
    photographs, positions, channels = shape
    return photographs * channels * (positions * 2 + 4)


def _header(shape: tuple[int, int, int]) -> bytes:
    """Returns the header of a safetensors file: the length of a JSON text as 8 bytes, and that text, which gives the
    offsets of the tensors after it."""
    photographs, positions, channels = shape
    grids = photographs * positions * channels * 2
    described = {
        "grids": {"dtype": "F16", "shape": list(shape), "data_offsets": [0, grids]},
        "means": {"dtype": "F32", "shape": [photographs, channels], "data_offsets": [grids, _data_size(shape)]},
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class PixelSet:
    """Photographs of a split, decoded on demand for a backbone that is fine-tuned.

    Args:
        photographs: of the split.
        unreadable: name and reason of the photographs that cannot be read, by row.
        size: pixels per side.
        seed: of the random views of an epoch; `None`: every epoch reads whole photographs.
    """

    def __init__(
        self, photographs: PhotoSet, unreadable: dict[int, tuple[str, str]], size: int, seed: int | None
    ) -> None:
        self._photographs, self._size, self._seed = photographs, size, seed
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self._photographs)

    def read(self, rows: Sequence[int], epoch: int | None) -> Tensor:
        """Returns pixels `(n, 3, size, size)`, 0 … 255 as bytes, channels last in memory.

        Args:
            epoch: of training; `None`: whole photographs.

        Raises:
            UserError: a photograph cannot be read.
        """
        pixels = torch.empty(len(rows), self._size, self._size, 3, dtype=torch.uint8)
        for i, row in enumerate(rows):
            view = None if epoch is None or self._seed is None else random_view(self._seed, epoch, row)
            try:
                pixels[i] = read_pixels(self._photographs.images[row], self._size, view)
            except UnreadableImage as error:
                raise UserError(f"{self._photographs.names[row]}: {error}.") from None
        return pixels.permute(0, 3, 1, 2)


def open_pixels(config: Config, split: str) -> PixelSet:
    """Opens the photographs of a split for the backbone of `config.model.features`. Which of them can be read is
    checked once and cached. Backbones for photographs are trained on random views; `small` reads whole pictures, since
    its drawn scenes say what is left and right.

    Raises:
        UserError: as `open_photos` and `backbone_spec`, or the cache cannot be written.
    """
    given: Any = config
    features = given.model.features
    photographs = open_photos(given.data, split)
    digest = hashlib.sha256(f"photographs {VERSION} {photographs.fingerprint}".encode()).hexdigest()[:20]
    folder = build_cached(digest, lambda folder: _check_photos(photographs, folder))
    reasons = json.loads((folder / UNREADABLE).read_text(encoding="utf-8"))
    unreadable = {int(row): (photographs.names[int(row)], reason) for row, reason in reasons.items()}
    seed = None if features.backbone == SMALL else config.seed
    return PixelSet(photographs, unreadable, backbone_spec(features).size, seed)


def _check_photos(photographs: PhotoSet, folder: Path) -> None:
    """Decodes every photograph and writes the reasons of those that cannot be read."""
    unreadable = {}
    for row in range(len(photographs)):
        try:
            read_image(photographs.images[row], min_side=1)
        except UnreadableImage as error:
            unreadable[row] = str(error)
    write_atomic(folder / UNREADABLE, json.dumps(unreadable))
