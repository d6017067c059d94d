"""Where a captioner looked, word by word, as a picture: a strip of small copies of the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unrolled.errors import UserError
from unrolled.evaluation.gallery import word
from unrolled.files import writing
from unrolled.tasks import Attended

SIDE, GAP, LINE = 180, 12, 26
"""Pixels of a copy's longer side, between copies, and of the line with its word."""
ACROSS = 6
"""Copies in a row."""
DARKEST = 0.14
"""What is left of the light where it did not look."""
PAPER, INK, FONT_SIZE = "white", "black", 16
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def save_strips(path: Path, photos: Sequence[Image.Image], attended: Sequence[Attended]) -> None:
    """Writes the strips of photographs below one another.

    Raises:
        UserError: the file cannot be written, or its name is that of no picture.
    """
    strips = [strip(photo, one) for photo, one in zip(photos, attended, strict=True)]
    whole = Image.new("RGB", (max(one.width for one in strips), sum(one.height for one in strips)), PAPER)
    top = 0
    for one in strips:
        whole.paste(one, (0, top))
        top += one.height
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.save(path)


def check_name(path: Path) -> None:
    """Raises `UserError` if pictures are not written under such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--attention {path}: a picture's name ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")


def strip(photo: Image.Image, attended: Attended) -> Image.Image:
    """Returns the photograph, and for every word a copy that is bright where the model looked: light falls with the
    weight, that of the most looked at position is whole."""
    small = photo.copy()
    small.thumbnail((SIDE, SIDE))
    if max(small.size) < SIDE:
        scale = SIDE / max(small.size)
        small = small.resize((round(small.width * scale), round(small.height * scale)))
    copies = [("", small)]
    copies += [(word(token), lit(small, seen)) for token, seen in zip(attended.output, attended.weights, strict=True)]
    cell = small.width + GAP, small.height + LINE + GAP
    rows = -(-len(copies) // ACROSS)
    sheet = Image.new("RGB", (GAP + cell[0] * ACROSS, GAP + cell[1] * rows), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (label, copy) in enumerate(copies):
        left, top = GAP + cell[0] * (number % ACROSS), GAP + cell[1] * (number // ACROSS)
        sheet.paste(copy, (left, top))
        draw.text((left, top + small.height + 4), label, INK, font)
    return sheet


def lit(photo: Image.Image, weights: Sequence[float]) -> Image.Image:
    """Returns a photograph in the light of the weights of a square grid, row by row."""
    grid = np.asarray(weights, dtype=np.float32).reshape(round(len(weights) ** 0.5), -1)
    light = Image.fromarray(grid / (grid.max() or 1.0)).resize(photo.size, Image.Resampling.BICUBIC)
    shares = DARKEST + (1 - DARKEST) * np.asarray(light).clip(0, 1)
    return Image.fromarray((np.asarray(photo) * shares[..., None]).round().astype(np.uint8))
