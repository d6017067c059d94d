"""Photographs for a network that is trained: decoded when a batch needs them, not kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unrolled.cache import made_once
from unrolled.config import Config
from unrolled.data.images import UnreadableImage, read_image
from unrolled.data.opening import open_photographs
from unrolled.data.photographs import Photographs
from unrolled.data.views import drawn_view, least, seen
from unrolled.errors import UserError
from unrolled.features.backbones import SMALL, kind_of
from unrolled.files import write_whole

VERSION = 1
"""Raise when other photographs can be read, so that they are looked through again."""
UNREADABLE = "unreadable.json"


class Pixels:
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
        self, photographs: Photographs, unreadable: dict[int, tuple[str, str]], size: int, seed: int | None
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
            view = None if epoch is None or self._seed is None else drawn_view(self._seed, epoch, row)
            try:
                image = read_image(self._photographs.images[row], least(self._size, view))
            except UnreadableImage as error:
                raise UserError(f"{self._photographs.names[row]}: {error}.") from None
            pixels[place] = seen(image, self._size, view)
        return pixels.permute(0, 3, 1, 2)


def open_pixels(config: Config, split: str) -> Pixels:
    """Opens the photographs of a split for the network of `config.model.features`. Which of them can be read is found
    out once and kept in the cache. Networks for photographs learn from random views; `small` sees all of a picture,
    since what it is for, drawn scenes, says what is left and right.

    Raises:
        UserError: as `open_photographs` and `kind_of`, or the cache cannot be written.
    """
    given: Any = config
    features = given.model.features
    photographs = open_photographs(given.data, split)
    digest = hashlib.sha256(f"photographs {VERSION} {photographs.fingerprint}".encode()).hexdigest()[:20]
    folder = made_once(digest, lambda folder: _look_through(photographs, folder))
    found = json.loads((folder / UNREADABLE).read_text(encoding="utf-8"))
    unreadable = {int(row): (photographs.names[int(row)], reason) for row, reason in found.items()}
    return Pixels(photographs, unreadable, kind_of(features).size, None if features.backbone == SMALL else config.seed)


def _look_through(photographs: Photographs, folder: Path) -> None:
    unreadable = {}
    for row in range(len(photographs)):
        try:
            read_image(photographs.images[row], least=1)
        except UnreadableImage as error:
            unreadable[row] = str(error)
    write_whole(folder / UNREADABLE, json.dumps(unreadable))
