"""What a network sees of a photograph: all of it, or a part that is drawn at random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CROP = 7 / 8
"""Sides of a random part, as a share of the photograph's: 224 of 256 pixels (Krizhevsky et al. 2012)."""


class View(NamedTuple):
    """A part of a photograph.

    Attributes:
        left, top: where it begins, as shares of what is left over, 0 … 1.
        mirrored: left and right change places.
    """

    left: float
    top: float
    mirrored: bool


def drawn_view(seed: int, epoch: int, row: int) -> View:
    """Draws what is seen of photograph `row` in an epoch; nothing else decides it, so that any number of workers and a
    resumed run see the same."""
    left, top, side = np.random.default_rng([seed, epoch, row]).random(3)
    return View(float(left), float(top), side < 0.5)


def drawn(seed: int, epoch: int, row: int, views: int) -> int:
    """Draws which of the views that are kept of photograph `row` is seen in an epoch, as `drawn_view` does."""
    return int(np.random.default_rng([seed, epoch, row]).integers(views))


def least(size: int, view: View | None) -> int:
    """Returns how many pixels a side a photograph needs for a view of `size`."""
    return size if view is None else int(size / CROP)


def seen(image: Image.Image, size: int, view: View | None = None) -> Tensor:
    """Returns the pixels of a picture or of a view of it, `(size, size, 3)`, 0 … 255 as bytes, squeezed to a square:
    nothing at the border is lost, and a position of a grid is the same share of every picture."""
    if view is None:
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))
    width, height = CROP * image.width, CROP * image.height
    left, top = view.left * (image.width - width), view.top * (image.height - height)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))
