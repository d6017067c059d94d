"""What a captioner's encoder reads of photographs: of a split, or of any file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unrolled.config.captioning import CaptioningConfig
from unrolled.data.images import read_image
from unrolled.errors import UserError
from unrolled.features import Features, make_backbone, open_features
from unrolled.files import write_whole

FILE = "features.json"
_ADDRESS = re.compile(r"(\w+):(\d+)(?:$|\s)")


@dataclass(frozen=True)
class Shape:
    """Of the features: `channels` a position, `positions` of the grid."""

    channels: int
    positions: int

    def save(self, folder: Path) -> None:
        """Writes `features.json`."""
        write_whole(folder / FILE, json.dumps(vars(self)))

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


class Pictures:
    """Args: `grid`, whether the encoder reads the positions of a photograph; else their mean alone."""

    def __init__(self, config: CaptioningConfig, *, grid: bool) -> None:
        self._config, self._grid = config, grid
        self._splits: dict[str, Features] = {}

    def features(self, split: str) -> Features:
        """Opens the features of a split; makes them where they are missing."""
        if split not in self._splits:
            self._splits[split] = open_features(self._config, split)
        return self._splits[split]

    def of(self, split: str, rows: Sequence[int]) -> Tensor:
        """Returns what the encoder reads, `(photographs, positions, channels)`."""
        features, wanted = self.features(split), torch.as_tensor(rows, dtype=torch.long)
        return features.grids(wanted) if self._grid else features.globals(wanted)[:, None]

    def named(self, inputs: Sequence[str]) -> Tensor:
        """Returns the same of photographs named by an `address` or by their files."""
        found: dict[int, Tensor] = {}
        rows: dict[str, list[tuple[int, int]]] = {}
        files: list[int] = []
        for place, name in enumerate(inputs):
            if (match := _ADDRESS.match(name)) and not Path(name).exists():
                rows.setdefault(match[1], []).append((place, int(match[2])))
            else:
                files.append(place)
        for split, wanted in rows.items():
            there = len(self.features(split))
            for _, row in wanted:
                if row >= there:
                    raise UserError(f"{split}:{row}: the split has {there:,} photographs, counted from 0.")
            places = [place for place, _ in wanted]
            found |= zip(places, self.of(split, [row for _, row in wanted]), strict=True)
        if files:
            found |= zip(files, self._computed([inputs[place] for place in files]), strict=True)
        return torch.stack([found[place] for place in range(len(inputs))])

    @torch.inference_mode()
    def _computed(self, files: Sequence[str]) -> Tensor:
        backbone = make_backbone(self._config.model.features).eval()
        pixels = []
        for file in files:
            try:
                pixels.append(backbone.preprocess(read_image(Path(file))))
            except (OSError, ValueError) as error:
                raise UserError(f"{file}: {error}") from None
        grids: Tensor = backbone(torch.stack(pixels))
        return grids if self._grid else grids.mean(1, keepdim=True)
