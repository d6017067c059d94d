"""A little CNN for scenes and tests: no pretrained weights, but the same first ones everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 56
MEAN, DEVIATION = 127.5, 127.5
WIDTHS = (32, 64, 128)
"""Channels of each halving: the last map is `(n, 128, 7, 7)`."""
VERSION = 2
"""Raise when the first weights, or what is made with them, change."""


class Small(nn.Module):
    """Convolutions that halve the picture three times.

    A position of the map sees 22 × 22 pixels and nothing else: there is no normalisation, since one over the whole
    picture would tell every position of all the others.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blocks = [_block(before, width) for before, width in zip((3, *WIDTHS), WIDTHS, strict=False)]
            self.blocks = nn.Sequential(*blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.blocks(pixels)
        return features


def _block(before: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU())
