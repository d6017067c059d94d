"""What a worker does: reads a block of photographs and computes their features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from unrolled.config.captioning_data import Data, Features
from unrolled.data.captions import Captioned, open_captioned
from unrolled.data.images import UnreadableImage, read_image
from unrolled.features.backbones import make_backbone

BLOCK = 64
"""Photographs that are computed and stored at a time."""
BATCH = 16
"""Of these, how many go through the network together; always the same, so that results are."""
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

    def __init__(self, data: Data, features: Features, split: str, captioned: Captioned | None = None) -> None:
        self.captioned = captioned or open_captioned(data, split)
        self.backbone = make_backbone(features).folded()

    def block(self, number: int) -> Block:
        """Computes one block."""
        rows = range(number * BLOCK, min((number + 1) * BLOCK, len(self.captioned)))
        pixels = torch.zeros(len(rows), self.backbone.size, self.backbone.size, 3, dtype=torch.uint8)
        unreadable = {}
        for place, row in enumerate(rows):
            try:
                self._read(self.captioned.images[row], pixels[place])
            except UnreadableImage as error:
                unreadable[place] = str(error)
        with torch.inference_mode():
            # Channels stand last in memory already, as the folded network wants them.
            made = [self.backbone(part.permute(0, 3, 1, 2)) for part in torch.split(pixels, BATCH)]
        grids = torch.cat(made).clamp(-MOST, MOST)
        grids[list(unreadable)] = 0.0
        return Block(grids.half().numpy(), grids.mean(1).numpy(), unreadable)

    def _read(self, source: bytes | Path, pixels: torch.Tensor) -> None:
        image = read_image(source, least=self.backbone.size)
        pixels.copy_(self.backbone.preprocess(image).permute(1, 2, 0))
