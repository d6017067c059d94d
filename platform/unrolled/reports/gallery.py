"""Galleries of photographs, questions and attention.

The gallery of a report on photographs: which are shown, what was said of them, and where the model looked.

The gallery of a report on questions about photographs: candidates with their probabilities, and where the model
looked or what it pointed at.

Where the model looked: the attention of a few examples as heatmaps.

Where a captioner looked, word by word, as a picture: a strip of small copies of the photograph.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from unrolled.reports.text import finite, short_title, strategy_title
from unrolled.tasks import AttentionMap, GalleryItem

EACH = 12
"""Photographs of each kind."""
KINDS = {"best": "The best", "worst": "The worst", "random": "Drawn at random"}
SIDE = 224
"""Pixels of the longer side."""
QUALITIES = (80, 65, 50, 35, 20)
"""Of the pictures in the page, the first with which all of them stay within `BYTES`."""
BYTES = 400_000
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")


def choose_examples(
    name: str, outputs: Mapping[str, Sequence[str]], references: References, leader: str
) -> dict[int, dict[str, Any]]:
    """Returns the examples to show, by their number: ``as``, one of `KINDS`, its ``place`` among these, and ``scores``
    of metric `name` by strategy.

    They are the extremes of the strategy `leader` by that metric, and others drawn at random, up to `EACH` of a kind.
    Among equals sentence-level chrF decides.
    """
    scores = {strategy: _scores(name, texts, references) for strategy, texts in outputs.items()}
    likeness = ChrF().sentence_scores(outputs[leader], references).tolist()
    sign = 1 if metric_info(name).higher_is_better else -1
    order = sorted(range(len(likeness)), key=lambda place: (-sign * scores[leader][place], -likeness[place]))
    count = min(EACH, len(order) // 3)
    best, worst, rest = order[:count], order[len(order) - count :][::-1], order[count : len(order) - count]
    drawn = sorted(random.Random(1).sample(rest, min(EACH, len(rest))))
    return {
        example: {
            "as": kind,
            "place": place,
            "scores": {strategy: round(each[example], 2) for strategy, each in scores.items()},
        }
        for kind, examples in zip(KINDS, (best, worst, drawn), strict=True)
        for place, example in enumerate(examples)
    }


def _scores(name: str, outputs: Sequence[str], references: References) -> list[float]:
    measure = METRICS[name]()
    assert isinstance(measure, SummedMetric), f"{name} has no scores of single examples"
    scores: list[float] = measure.sentence_scores(outputs, references).tolist()
    return scores


@dataclass(frozen=True)
class Picture:
    """A photograph as a page embeds it: `source`, a data URI, and its size in pixels."""

    source: str
    width: int
    height: int


def embedded(photos: Mapping[int, Image.Image]) -> dict[int, Picture]:
    """Returns the photographs small enough that all of them fit into a page."""
    small = {place: _small(photo) for place, photo in photos.items()}
    for quality in QUALITIES:
        pictures = {
            place: Picture(_encoded(photo, quality), photo.width, photo.height) for place, photo in small.items()
        }
        if sum(len(picture.source) for picture in pictures.values()) <= BYTES:
            break
    return pictures


def _small(photo: Image.Image) -> Image.Image:
    made = photo.copy()
    made.thumbnail((SIDE, SIDE))
    return made


def _encoded(photo: Image.Image, quality: int) -> str:
    file = BytesIO()
    photo.save(file, "WEBP", quality=quality)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()


def gallery(
    rows: Sequence[Mapping[str, Any]], pictures: Mapping[int, Picture], name: str, strategies: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns what the page shows: a group a kind, each with its `cards`.

    Args:
        rows: of outputs.jsonl; those with ``shown`` and a picture are shown.
        pictures: by ``index`` of the row.
        name: the metric of the scores in ``shown``.
        strategies: in the order in which a card has them.
    """
    shown: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for row in rows:
        if "shown" in row and row["index"] in pictures:
            shown[row["shown"]["as"]].append(_card(row, pictures[row["index"]], name, strategies))
    for cards in shown.values():
        cards.sort(key=lambda card: card["place"])
    return [{"title": KINDS[kind], "cards": cards} for kind, cards in shown.items() if cards]


def _card(row: Mapping[str, Any], picture: Picture, name: str, strategies: Sequence[str]) -> dict[str, Any]:
    said: dict[str, list[str]] = {}
    for strategy in strategies:
        said.setdefault(row["outputs"][strategy], []).append(strategy)
    scores, references = row["shown"]["scores"], row.get("references") or [row["reference"]]
    return {
        "index": row["index"],
        "name": row["input"],
        "alt": f"The photograph that people describe so: {references[0]}",
        "picture": picture,
        "said": [
            {
                "by": [{"title": strategy_title(one), "colour": strategy_colour(one)} for one in by],
                "text": text,
                "score": metric_info(name).format(finite(scores.get(by[0]))),
            }
            for text, by in said.items()
        ],
        "references": references,
        "gaze": _gaze(row.get("attention")),
        "place": row["shown"]["place"],
    }


def _gaze(attention: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the words with where each was looked at: percentages of the most looked at position, row by row, and
    in words."""
    if not attention:
        return None
    words = []
    for token, weights in zip(attention["output"], attention["weights"], strict=True):
        most = max(weights) or 1.0
        text = word(token)
        words.append(
            {"text": text, "told": f"“{text}”: {told(weights)}", "seen": [round(100 * one / most) for one in weights]}
        )
    return {"words": words, "by": short_title(attention["strategy"]), "side": round(len(attention["input"]) ** 0.5)}


def word(token: str) -> str:
    """Returns a token as a reader knows it: without the mark of a word's beginning, and the end as `(end)`."""
    return "(end)" if token == "</s>" else token.replace("▁", "") or "␣"


def told(weights: Sequence[float]) -> str:
    """Returns in words where the weights of a square grid are: ``mostly upper left, 18 % in one of 49 fields``."""
    side = round(len(weights) ** 0.5)
    top = max(range(len(weights)), key=weights.__getitem__)
    row, column = (ROWS[top // side * 3 // side], COLUMNS[top % side * 3 // side])
    place = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    return f"mostly {place}, {100 * weights[top]:.0f} % in one of {len(weights)} fields"


WIDTH = 280
"""Pixels of a photograph's longer side on the page."""
ROOM = 0.12
"""Share of a photograph's height or width that the number of a box takes, with some to spare."""


def question_gallery(
    shown: Sequence[GalleryItem], photo: Callable[[str, int], Image.Image], least: int
) -> list[dict[str, Any]]:
    """Returns what the page shows: a group a heading, each with its `cards`.

    Args:
        photo: reads a photograph by its name, with so many pixels of its shorter side at least.
        least: these.
    """
    names = list(dict.fromkeys(one.photo for one in shown))
    pictures = embedded({place: photo(name, least) for place, name in enumerate(names)})
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, one in enumerate(shown):
        groups.setdefault(one.heading, []).append(_question_card(number, one, pictures[names.index(one.photo)]))
    return [{"title": heading, "cards": cards} for heading, cards in groups.items()]


def _question_card(number: int, one: GalleryItem, picture: Picture) -> dict[str, Any]:
    scale = WIDTH / max(picture.width, picture.height)
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
        "gaze": None if one.attention is None else _question_gaze(one.attention),
    }


def _label(box: Sequence[float]) -> str:
    """Returns where the number of a box stands, in CSS classes: above it if there is room, else below or inside."""
    left, top, _, height = box
    place = "above" if top > ROOM else "below" if top + height < 1 - ROOM else "inside"
    return f"{place} ending" if left > 1 - ROOM else place


def _question_gaze(weights: Sequence[float]) -> dict[str, Any]:
    """Returns one word for `gallery.js`, with percentages of the most looked at position."""
    most = max(weights) or 1.0
    seen = [round(100 * weight / most) for weight in weights]
    word = {"text": "where it looked", "told": told(weights).capitalize(), "seen": seen}
    return {"words": [word], "side": round(len(weights) ** 0.5)}


CELL = 32  # pixels of a weight
TOKENS = 60  # on one axis
LETTERS = 18  # of one token
NOTE = (
    "A row is a word of the output: the more colour a cell has, the more of its input word was looked at while the "
    "row’s word was written. Rows sum to 1. Attention is where the model looked, not why it chose."
)


def attention_charts(outputs: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Returns one heatmap for each example that has its attention weights, tokens on both axes."""
    return list(_charts(outputs))


def _charts(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    for row in outputs:
        attention = row.get("attention") or {}
        weights = [line[:TOKENS] for line in (attention.get("weights") or [])[:TOKENS]]
        if not weights or not weights[0]:
            continue
        read, written = (attention[key][:TOKENS] for key in ("input", "output"))
        yield Chart(
            f"attention-{row['index']}",
            f"#{row['index']} {_cut(str(row.get('input') or ' '.join(read)), 70)}",
            f"Heatmap: attention of {short_title(attention['strategy'])} from {len(written)} output tokens to "
            f"{len(read)} input tokens.",
            NOTE,
            _heatmap(read, written, weights),
        )


def _heatmap(read: Sequence[str], written: Sequence[str], weights: Sequence[Sequence[float]]) -> go.Figure:
    left, top = (12 + 8 * max(len(_cut(token)) for token in tokens) for tokens in (written, read))
    size = {"width": left + 12 + CELL * len(read), "margin": {"l": left, "r": 12, "t": top, "b": 8}}
    figure = go.Figure(layout=layout(top + 8 + CELL * len(written), hovermode="closest", **size))
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
        "tickcolor": "rgba(0,0,0,0)",  # unseen, they keep labels off the cells
        "tickfont": {"color": "var(--ink)"},
        "showgrid": False,
        "automargin": False,
    }
    figure.update_xaxes(side="top", tickangle=-90, **ticks, **_labels(read))
    figure.update_yaxes(autorange="reversed", **ticks, **_labels(written))
    return figure


def _labels(tokens: Sequence[str]) -> dict[str, Any]:
    # plotly reads markup in labels: a token that looks like it stays what it is.
    return {"tickvals": list(range(len(tokens))), "ticktext": [escape(_cut(token)).strip() or "␣" for token in tokens]}


def _cut(text: str, length: int = LETTERS) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


TILE, TILE_GAP, TILE_LINE = 180, 12, 26
"""Pixels of a copy's longer side, between copies, and of the line with its word."""
ACROSS = 6
"""Copies in a row."""
DARKEST = 0.14
"""What is left of the light where it did not look."""
PAPER, INK, FONT_SIZE = "white", "black", 16
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def save_strips(path: Path, photos: Sequence[Image.Image], attended: Sequence[AttentionMap]) -> None:
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
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.save(path)


def check_name(path: Path) -> None:
    """Raises `UserError` if pictures are not written under such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--attention {path}: a picture's name ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")


def strip(photo: Image.Image, attended: AttentionMap) -> Image.Image:
    """Returns the photograph, and for every word a copy that is bright where the model looked: light falls with the
    weight, that of the most looked at position is whole."""
    small = photo.copy()
    small.thumbnail((TILE, TILE))
    if max(small.size) < TILE:
        scale = TILE / max(small.size)
        small = small.resize((round(small.width * scale), round(small.height * scale)))
    copies = [("", small)]
    copies += [(word(token), lit(small, seen)) for token, seen in zip(attended.output, attended.weights, strict=True)]
    cell = small.width + TILE_GAP, small.height + TILE_LINE + TILE_GAP
    rows = -(-len(copies) // ACROSS)
    sheet = Image.new("RGB", (TILE_GAP + cell[0] * ACROSS, TILE_GAP + cell[1] * rows), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (label, copy) in enumerate(copies):
        left, top = TILE_GAP + cell[0] * (number % ACROSS), TILE_GAP + cell[1] * (number // ACROSS)
        sheet.paste(copy, (left, top))
        draw.text((left, top + small.height + 4), label, INK, font)
    return sheet


def lit(photo: Image.Image, weights: Sequence[float]) -> Image.Image:
    """Returns a photograph in the light of the weights of a square grid, row by row."""
    grid = np.asarray(weights, dtype=np.float32).reshape(round(len(weights) ** 0.5), -1)
    light = Image.fromarray(grid / (grid.max() or 1.0)).resize(photo.size, Image.Resampling.BICUBIC)
    shares = DARKEST + (1 - DARKEST) * np.asarray(light).clip(0, 1)
    return Image.fromarray((np.asarray(photo) * shares[..., None]).round().astype(np.uint8))
