"""Photographs as inputs of a task."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unrolled.config.captioning import CaptioningConfig
from unrolled.config.vqa import PointingConfig, QuestionAnsweringConfig
from unrolled.data.image_sets import open_photos, view_split
from unrolled.data.images import URL_PREFIXES, PhotoSet, UnreadableImage, random_view_index, read_image, to_pixels
from unrolled.errors import UserError
from unrolled.features import Features, Pixels, build_backbone, make_backbone, open_features, open_pixels
from unrolled.features.backbones import kind_of, weights_name
from unrolled.files import write_atomic

PhotoConfig = CaptioningConfig | QuestionAnsweringConfig | PointingConfig
"""Of a task on photographs."""
FILE = "features.json"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the files that are taken of a folder."""
_ADDRESS = re.compile(r"(\w+):(\d+)(?:$|\s)")


@dataclass(frozen=True)
class Shape:
    """Of the features: `channels` a position, `positions` of the grid; `size`: pixels of a photograph's side, if the
    encoder reads these."""

    channels: int
    positions: int
    size: int | None = None

    def save(self, folder: Path) -> None:
        """Writes `features.json`."""
        write_atomic(folder / FILE, json.dumps(vars(self)))

    @classmethod
    def load(cls, folder: Path) -> Shape:
        """Reads what `save` wrote; raises `UserError` where there is no such file."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; the run is not whole.")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def address(split: str, row: int, name: str) -> str:
    """Returns how an input names a photograph of the data."""
    return f"{split}:{row} {name}"


def files(names: Sequence[str]) -> list[str]:
    """Returns the names, in place of a folder the pictures in it, sorted; raises `UserError` where it has none."""
    found: list[str] = []
    for name in names:
        if not name.startswith(URL_PREFIXES) and Path(name).is_dir():
            inside = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{name}: the folder has no pictures ({', '.join(SUFFIXES)}).")
            found += map(str, inside)
        else:
            found.append(name)
    return found


class Pictures:
    """Args: `grid`, whether the encoder reads the positions of a photograph; else their mean alone."""

    def __init__(self, config: PhotoConfig, *, grid: bool) -> None:
        self._config, self._grid = config, grid
        self._views = config.model.features.views if isinstance(config, CaptioningConfig) else 1
        self._splits: dict[str, Features | Pixels] = {}
        self._stored: dict[str, PhotoSet] = {}

    def shape(self) -> Shape:
        """Returns that of the features that the decoder will see."""
        settings = self._config.model.features
        backbone = build_backbone(settings)
        return Shape(backbone.channels, backbone.positions, backbone.size if settings.fine_tune else None)

    def described(self) -> str:
        """Says what the encoder reads of a photograph, so that what reads the same is described alike."""
        settings = self._config.model.features
        size = kind_of(settings).size
        if settings.fine_tune:
            return f"{size} × {size} pixels"
        weights = "" if settings.weights is None else f" with the weights {weights_name(settings)}"
        seen = f"its {settings.grid} × {settings.grid} positions" if self._grid else "the mean of its positions"
        return f"{seen} as {settings.backbone}{weights} sees it at {size} × {size} pixels"

    def features(self, split: str) -> Features | Pixels:
        """Opens the features of a split, which are made where they are missing, or its pixels."""
        if split not in self._splits:
            opener = open_pixels if self._config.model.features.fine_tune else open_features
            self._splits[split] = opener(self._config, split)
        return self._splits[split]

    def of(self, split: str, rows: Sequence[int], epoch: int | None = None) -> Tensor:
        """Returns what the encoder reads: features `(photographs, positions, channels)`, or pixels `(photographs, 3,
        size, size)`, of random views where they are learned from in an `epoch`."""
        features = self.features(split)
        if isinstance(features, Pixels):
            return features.read(rows, epoch)
        wanted = torch.as_tensor(rows, dtype=torch.long)
        if epoch is None or self._views == 1:
            return self._kept(features, wanted)
        views = torch.tensor([random_view_index(self._config.seed, epoch, row, self._views) for row in rows])
        made = torch.empty(len(rows), features.positions if self._grid else 1, features.channels)
        for view in set(views.tolist()):
            made[views == view] = self._kept(self.features(view_split(split, view)), wanted[views == view])
        return made

    def _kept(self, features: Features | Pixels, wanted: Tensor) -> Tensor:
        assert isinstance(features, Features), "pixels are read"
        return features.grids(wanted) if self._grid else features.globals(wanted)[:, None]

    def named(self, inputs: Sequence[str]) -> Tensor:
        """Returns the same of photographs named by an `address`, their files or http addresses."""
        found: dict[int, Tensor] = {}
        rows: dict[str, list[tuple[int, int]]] = {}
        files: list[int] = []
        for place, name in enumerate(inputs):
            if (stored := _stored(name)) is not None:
                rows.setdefault(stored[0], []).append((place, stored[1]))
            else:
                files.append(place)
        for split, wanted in rows.items():
            there = len(self.features(split))
            for _, row in wanted:
                _check(split, row, there)
            places = [place for place, _ in wanted]
            found |= zip(places, self.of(split, [row for _, row in wanted]), strict=True)
        if files:
            found |= zip(files, self._computed([inputs[place] for place in files]), strict=True)
        return torch.stack([found[place] for place in range(len(inputs))])

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """Returns a photograph named by an `address`, its file or its http address, as RGB.

        Args:
            least: as in `read_image`.

        Raises:
            UserError: it cannot be read.
        """
        source: bytes | str | Path = name
        if (stored := _stored(name)) is not None:
            split, row = stored
            if split not in self._stored:
                self._stored[split] = open_photos(self._config.data, split)
            _check(split, row, len(self._stored[split]))
            source = self._stored[split].images[row]
        try:
            return read_image(source, least)
        except UnreadableImage as error:
            raise UserError(f"{name}: {error}.") from None

    @torch.inference_mode()
    def _computed(self, files: Sequence[str]) -> Tensor:
        features = self._config.model.features
        if features.fine_tune:
            size = kind_of(features).size
            return torch.stack([to_pixels(self.photo(file, size), size) for file in files]).permute(0, 3, 1, 2)
        backbone = make_backbone(features).eval()
        grids: Tensor = backbone(torch.stack([backbone.preprocess(self.photo(file)) for file in files]))
        return grids if self._grid else grids.mean(1, keepdim=True)


def _stored(name: str) -> tuple[str, int] | None:
    """Returns split and row of an `address`; None for what names a file."""
    match = _ADDRESS.match(name)
    return (match[1], int(match[2])) if match and not Path(name).exists() else None


def _check(split: str, row: int, there: int) -> None:
    if row >= there:
        raise UserError(f"{split}:{row}: the split has {there:,} photographs, counted from 0.")
