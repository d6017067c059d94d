"""Galleries of a report: photographs with captions, and questions about photographs with candidates."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from unrolled.metrics import METRICS, ChrF, References, SummedMetric, metric_info
from unrolled.reports.page import strategy_colour
from unrolled.reports.text import finite, short_title, strategy_title
from unrolled.tasks import GalleryItem

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
    return {
        "index": number,
        "picture": picture,
        "item": one,
        "options": [(option, None if option.box is None else _label(option.box)) for option in one.choices],
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
