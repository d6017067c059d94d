"""What a worker does: reads a block of photographs and computes their features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from unrolled.config.captioning_data import Features
from unrolled.data.images import UnreadableImage, read_image
from unrolled.data.opening import PhotoData, open_photographs, seen_split
from unrolled.data.photographs import Photographs
from unrolled.data.views import drawn_view, least, seen
from unrolled.features.backbones import make_backbone

BLOCK = 64
"""Photographs that are computed and stored at a time."""
BATCH = 4
"""Of these, how many go through the network together: few, so that what its layers hand on stays in a core's cache; and
always as many, so that results are the same."""
MOST = float(np.finfo(np.float16).max)


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


class Extractor:
    """A network and the photographs of a split, opened once."""

    def __init__(self, data: PhotoData, features: Features, split: str, photographs: Photographs | None = None) -> None:
        self.photographs = photographs or open_photographs(data, split)
        self.backbone = make_backbone(features).folded()
        self._view = seen_split(split)[1]

    def block(self, number: int) -> Block:
        """Computes one block."""
        rows = range(number * BLOCK, min((number + 1) * BLOCK, len(self.photographs)))
        pixels = torch.zeros(len(rows), self.backbone.size, self.backbone.size, 3, dtype=torch.uint8)
        unreadable = {}
        for place, row in enumerate(rows):
            try:
                self._read(row, pixels[place])
            except UnreadableImage as error:
                unreadable[place] = str(error)
        with torch.inference_mode():
            # Channels stand last in memory already, as the folded network wants them.
            made = [self.backbone(part.permute(0, 3, 1, 2)) for part in torch.split(pixels, BATCH)]
        grids = torch.cat(made).clamp(-MOST, MOST)
        grids[list(unreadable)] = 0.0
        return Block(grids.half().numpy(), grids.mean(1).numpy(), unreadable)

    def _read(self, row: int, pixels: torch.Tensor) -> None:
        view = drawn_view(0, self._view, row) if self._view else None
        image = read_image(self.photographs.images[row], least=least(self.backbone.size, view))
        pixels.copy_(seen(image, self.backbone.size, view))
