"""Galleries of a report: photographs with captions, questions about photographs, and attention weights as pictures."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw, ImageFont

from unrolled.errors import UserError
from unrolled.files import explain_write_errors
from unrolled.metrics import METRICS, ChrF, References, SummedMetric, metric_info
from unrolled.reports.page import Chart, layout, strategy_colour
from unrolled.reports.text import finite, short_title, strategy_title, truncated
from unrolled.tasks import AttentionMap, GalleryItem

PHOTOS_PER_KIND = 12
KINDS = {"best": "The best", "worst": "The worst", "random": "Drawn at random"}
PHOTO_SIZE = 224
"""Longer side of an embedded photograph in pixels."""
QUALITIES = (80, 65, 50, 35, 20)
"""Compression qualities; the first with which all photographs together stay within `MAX_PHOTO_BYTES` is used."""
MAX_PHOTO_BYTES = 400_000
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")


def choose_examples(
    name: str, outputs: Mapping[str, Sequence[str]], references: References, leader: str
) -> dict[int, dict[str, Any]]:
    """Returns the examples to show: the best and the worst outputs of the strategy `leader` by metric `name`, and
    random others, up to `PHOTOS_PER_KIND` of each kind. Sentence-level chrF decides between equal scores.

    Returns:
        By the number of the example, ``as``, one of `KINDS`, ``place`` among these, and ``scores`` by strategy.
    """
    scores = {strategy: _scores(name, texts, references) for strategy, texts in outputs.items()}
    chrf = ChrF().sentence_scores(outputs[leader], references).tolist()
    sign = 1 if metric_info(name).higher_is_better else -1
    order = sorted(range(len(chrf)), key=lambda index: (-sign * scores[leader][index], -chrf[index]))
    count = min(PHOTOS_PER_KIND, len(order) // 3)
    best, worst, rest = order[:count], order[len(order) - count :][::-1], order[count : len(order) - count]
    sampled = sorted(random.Random(1).sample(rest, min(PHOTOS_PER_KIND, len(rest))))
    return {
        example: {
            "as": kind,
            "place": place,
            "scores": {strategy: round(each[example], 2) for strategy, each in scores.items()},
        }
        for kind, examples in zip(KINDS, (best, worst, sampled), strict=True)
        for place, example in enumerate(examples)
    }


def _scores(name: str, outputs: Sequence[str], references: References) -> list[float]:
    measure = METRICS[name]()
    assert isinstance(measure, SummedMetric), f"{name} has no scores of single examples"
    scores: list[float] = measure.sentence_scores(outputs, references).tolist()
    return scores


@dataclass(frozen=True)
class Picture:
    """A photograph embedded in a page: a data URI, and its size in pixels."""

    source: str
    width: int
    height: int


def embed_photos(photos: Mapping[int, Image.Image]) -> dict[int, Picture]:
    """Returns the photographs, scaled and compressed so that all of them fit into a page."""
    small = {key: photo.copy() for key, photo in photos.items()}
    for photo in small.values():
        photo.thumbnail((PHOTO_SIZE, PHOTO_SIZE))
    for quality in QUALITIES:
        pictures = {key: Picture(_data_uri(one, quality), one.width, one.height) for key, one in small.items()}
        if sum(len(picture.source) for picture in pictures.values()) <= MAX_PHOTO_BYTES:
            break
    return pictures


def _data_uri(photo: Image.Image, quality: int) -> str:
    file = BytesIO()
    photo.save(file, "WEBP", quality=quality)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()


def caption_gallery(
    rows: Sequence[Mapping[str, Any]], pictures: Mapping[int, Picture], name: str, strategies: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns a group per kind of examples, each with a ``title`` and ``cards``.

    Args:
        rows: rows of outputs.jsonl; those with ``shown`` and a picture become cards.
        pictures: photographs by ``index`` of the row.
        name: metric of the scores in ``shown``.
        strategies: in the order of the card.
    """
    groups: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for row in rows:
        if "shown" in row and row["index"] in pictures:
            groups[row["shown"]["as"]].append(_caption_card(row, pictures[row["index"]], name, strategies))
    for cards in groups.values():
        cards.sort(key=lambda card: card["place"])
    return [{"title": KINDS[kind], "cards": cards} for kind, cards in groups.items() if cards]


def _caption_card(row: Mapping[str, Any], picture: Picture, name: str, strategies: Sequence[str]) -> dict[str, Any]:
    captions: dict[str, list[str]] = {}
    for strategy in strategies:
        captions.setdefault(row["outputs"][strategy], []).append(strategy)
    scores, references = row["shown"]["scores"], row.get("references") or [row["reference"]]
    return {
        "index": row["index"],
        "name": row["input"],
        "alt": f"The photograph that people describe so: {references[0]}",
        "picture": picture,
        "captions": [
            {
                "by": [{"title": strategy_title(one), "colour": strategy_colour(one)} for one in by],
                "text": text,
                "score": metric_info(name).format(finite(scores.get(by[0]))),
            }
            for text, by in captions.items()
        ],
        "references": references,
        "attention": _word_attention(row.get("attention")),
        "place": row["shown"]["place"],
    }


def _word_attention(attention: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the attention of each output word for `gallery.js`."""
    if not attention:
        return None
    words = []
    for token, weights in zip(attention["output"], attention["weights"], strict=True):
        word = display_token(token)
        words.append(_attention_word(word, f"“{word}”: {describe_position(weights)}", weights))
    return {"words": words, "by": short_title(attention["strategy"]), "side": round(len(attention["input"]) ** 0.5)}


def _attention_word(word: str, description: str, weights: Sequence[float]) -> dict[str, Any]:
    """Returns a word with its attention in percent of the largest weight, row by row."""
    largest = max(weights) or 1.0
    return {"text": word, "description": description, "percent": [round(100 * one / largest) for one in weights]}


def attention_data(groups: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
    """Returns the attention of all cards of a gallery by their index, as the page embeds it for `gallery.js`."""
    return {card["index"]: card["attention"] for group in groups for card in group["cards"] if card["attention"]}


def display_token(token: str) -> str:
    """Returns a token without the mark of a word's beginning; the end of the sentence is ``(end)``."""
    return "(end)" if token == "</s>" else token.replace("▁", "") or "␣"


def describe_position(weights: Sequence[float]) -> str:
    """Returns where the weights of a square grid are: ``mostly upper left, 18 % in one of 49 fields``."""
    side = round(len(weights) ** 0.5)
    top = max(range(len(weights)), key=weights.__getitem__)
    row, column = (ROWS[top // side * 3 // side], COLUMNS[top % side * 3 // side])
    position = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    return f"mostly {position}, {100 * weights[top]:.0f} % in one of {len(weights)} fields"


DISPLAY_SIZE = 280
"""Longer side of a displayed photograph in pixels."""
LABEL_SIZE = 0.12
"""Fraction of a photograph's height or width that the number of a box needs."""


def question_gallery(
    items: Sequence[GalleryItem], load_photo: Callable[[str, int], Image.Image], size: int
) -> list[dict[str, Any]]:
    """Returns a group per heading, each with a ``title`` and ``cards``.

    Args:
        load_photo: returns a photograph by its name, with at least `size` pixels on the shorter side.
    """
    names = list(dict.fromkeys(one.photo for one in items))
    pictures = embed_photos({index: load_photo(name, size) for index, name in enumerate(names)})
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, one in enumerate(items):
        groups.setdefault(one.heading, []).append(_question_card(number, one, pictures[names.index(one.photo)]))
    return [{"title": heading, "cards": cards} for heading, cards in groups.items()]


def _question_card(number: int, one: GalleryItem, picture: Picture) -> dict[str, Any]:
    scale = DISPLAY_SIZE / max(picture.width, picture.height)
    return {
        "index": number,
        "name": one.photo,
        "alt": f"The photograph that is asked about: {one.question}",
        "picture": picture,
        "width": round(picture.width * scale),
        "question": one.question,
        "answer": one.answer,
        "written": one.prediction,
        "options": [
            {
                "text": option.text,
                "percent": f"{100 * option.probability:.0f}\N{NO-BREAK SPACE}%",
                "width": round(100 * option.probability, 1),
                "right": option.correct,
                "chosen": option.chosen,
                "box": None if option.box is None else [round(100 * side, 2) for side in option.box],
                "label": None if option.box is None else _label(option.box),
            }
            for option in one.choices
        ],
        "attention": None if one.attention is None else _photo_attention(one.attention),
    }


def _label(box: Sequence[float]) -> str:
    """Returns the position of a box's number as CSS classes: above the box if there is room, else below or inside."""
    left, top, _, height = box
    position = "above" if top > LABEL_SIZE else "below" if top + height < 1 - LABEL_SIZE else "inside"
    return f"{position} ending" if left > 1 - LABEL_SIZE else position


def _photo_attention(weights: Sequence[float]) -> dict[str, Any]:
    """Returns the attention of a whole answer for `gallery.js`, as a single word."""
    word = _attention_word("where it looked", describe_position(weights).capitalize(), weights)
    return {"words": [word], "side": round(len(weights) ** 0.5)}


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
    figure.add_heatmap(
        z=[list(line) for line in weights],
        zmin=0,
        zmax=1,
        colorscale=[[0, "var(--surface)"], [1, "var(--series-beam)"]],
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="%{y} → %{x}<br>%{z:.2f}<extra></extra>",
    )
    ticks = {
        "tickmode": "array",
        "ticks": "outside",
        "tickcolor": "rgba(0,0,0,0)",  # invisible, to keep labels off the cells
        "tickfont": {"color": "var(--ink)"},
        "showgrid": False,
        "automargin": False,
    }
    figure.update_xaxes(side="top", tickangle=-90, **ticks, **_labels(inputs))
    figure.update_yaxes(autorange="reversed", **ticks, **_labels(output))
    return figure


def _labels(tokens: Sequence[str]) -> dict[str, Any]:
    # Plotly reads markup in labels, so tokens are escaped.
    labels = [escape(truncated(token, MAX_LETTERS)).strip() or "␣" for token in tokens]
    return {"tickvals": list(range(len(labels))), "ticktext": labels}


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
    tiles = [("", small)]
    for token, weights in zip(attention.output, attention.weights, strict=True):
        tiles.append((display_token(token), shade(small, weights)))
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
