"""Plots of attention: heatmaps of a report, and strips of shaded photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont

from unrolled.errors import UserError
from unrolled.files import explain_write_errors
from unrolled.reports.gallery import display_token
from unrolled.reports.page import Chart, add_heatmap, layout
from unrolled.reports.text import short_title, truncated
from unrolled.tasks import AttentionMap

CELL = 32
"""Size of a heatmap's cell in pixels."""
MAX_TOKENS = 60
"""Per axis."""
MAX_LETTERS = 18
"""Per token."""
NOTE = (
    "A row is a word of the output: the more colour a cell has, the more of its input word was looked at while the "
    "row’s word was written. Rows sum to 1. Attention is where the model looked, not why it chose."
)


def attention_charts(outputs: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Returns a heatmap for each example that has attention weights, with tokens on both axes."""
    charts = []
    for row in outputs:
        attention = row.get("attention") or {}
        weights = [line[:MAX_TOKENS] for line in (attention.get("weights") or [])[:MAX_TOKENS]]
        if not weights or not weights[0]:
            continue
        inputs, output = (attention[key][:MAX_TOKENS] for key in ("input", "output"))
        strategy = short_title(attention["strategy"])
        charts.append(
            Chart(
                f"attention-{row['index']}",
                f"#{row['index']} {truncated(str(row.get('input') or ' '.join(inputs)), 70)}",
                f"Heatmap: attention of {strategy} from {len(output)} output tokens to {len(inputs)} input tokens.",
                NOTE,
                _heatmap(inputs, output, weights),
            )
        )
    return charts


def _heatmap(inputs: Sequence[str], output: Sequence[str], weights: Sequence[Sequence[float]]) -> go.Figure:
    left, top = (12 + 8 * max(min(len(token), MAX_LETTERS) for token in tokens) for tokens in (output, inputs))
    size = {"width": left + 12 + CELL * len(inputs), "margin": {"l": left, "r": 12, "t": top, "b": 8}}
    figure = go.Figure(layout=layout(top + 8 + CELL * len(output), hovermode="closest", **size))
    # Plotly reads markup in labels, so tokens are escaped.
    across, down = (
        [escape(truncated(token, MAX_LETTERS)).strip() or "␣" for token in tokens] for tokens in (inputs, output)
    )
    values = {"z": [list(line) for line in weights], "zmin": 0, "zmax": 1}
    hover = "%{y} → %{x}<br>%{z:.2f}<extra></extra>"
    add_heatmap(figure, across, down, ("var(--surface)", "var(--series-beam)"), 1, **values, hovertemplate=hover)
    figure.update_xaxes(automargin=False, tickangle=-90)
    figure.update_yaxes(automargin=False)
    return figure


TILE, TILE_GAP, TILE_LINE = 180, 12, 26
"""Pixels: longer side of a tile, gap between tiles, height of the line with its word."""
TILES_PER_ROW = 6
MIN_BRIGHTNESS = 0.14
"""Brightness where the weight is 0."""
BACKGROUND, FOREGROUND, FONT_SIZE = "white", "black", 16
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def save_attention(path: Path, photos: Sequence[Image.Image], attention: Sequence[AttentionMap]) -> None:
    """Writes a picture of the `attention_strip` of each photograph, one below the other.

    Raises:
        UserError: the file cannot be written.
    """
    strips = [attention_strip(photo, one) for photo, one in zip(photos, attention, strict=True)]
    sheet = Image.new("RGB", (max(one.width for one in strips), sum(one.height for one in strips)), BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)


def check_picture_name(path: Path) -> None:
    """Raises `UserError` unless the name ends like that of a picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--attention {path}: a picture's name ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")


def attention_strip(photo: Image.Image, attention: AttentionMap) -> Image.Image:
    """Returns the photograph, followed by a copy per word that is bright where the model looked."""
    small = photo.copy()
    small.thumbnail((TILE, TILE))
    if max(small.size) < TILE:
        scale = TILE / max(small.size)
        small = small.resize((round(small.width * scale), round(small.height * scale)))
    words = zip(attention.output, attention.weights, strict=True)
    tiles = [("", small), *((display_token(token), shade(small, weights)) for token, weights in words)]
    width, height = small.width + TILE_GAP, small.height + TILE_LINE + TILE_GAP
    rows = -(-len(tiles) // TILES_PER_ROW)
    sheet = Image.new("RGB", (TILE_GAP + width * TILES_PER_ROW, TILE_GAP + height * rows), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (label, tile) in enumerate(tiles):
        left, top = TILE_GAP + width * (number % TILES_PER_ROW), TILE_GAP + height * (number // TILES_PER_ROW)
        sheet.paste(tile, (left, top))
        draw.text((left, top + small.height + 4), label, FOREGROUND, font)
    return sheet


def shade(photo: Image.Image, weights: Sequence[float]) -> Image.Image:
    """Returns a photograph darkened where the weights of a square grid, given row by row, are small."""
    grid = np.asarray(weights, dtype=np.float32).reshape(round(len(weights) ** 0.5), -1)
    light = Image.fromarray(grid / (grid.max() or 1.0)).resize(photo.size, Image.Resampling.BICUBIC)
    brightness = MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * np.asarray(light).clip(0, 1)
    return Image.fromarray((np.asarray(photo) * brightness[..., None]).round().astype(np.uint8))
