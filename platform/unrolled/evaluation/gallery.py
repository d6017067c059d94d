"""The gallery of a report on photographs: which are shown, what was said of them, and where the model looked."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from unrolled.evaluation.charts import colour
from unrolled.evaluation.wording import finite, short, title
from unrolled.metrics import METRICS, ChrF, References, SummedMetric, metric

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


def choose(
    name: str, outputs: Mapping[str, Sequence[str]], references: References, leader: str
) -> dict[int, dict[str, Any]]:
    """Returns the examples to show, by their number: ``as``, one of `KINDS`, its ``place`` among these, and ``scores``
    of metric `name` by strategy.

    They are the extremes of the strategy `leader` by that metric, and others drawn at random, up to `EACH` of a kind.
    Among equals sentence-level chrF decides.
    """
    scores = {strategy: _scores(name, texts, references) for strategy, texts in outputs.items()}
    likeness = ChrF().sentence_scores(outputs[leader], references).tolist()
    sign = 1 if metric(name).higher_is_better else -1
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
                "by": [{"title": title(one), "colour": colour(one)} for one in by],
                "text": text,
                "score": metric(name).text(finite(scores.get(by[0]))),
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
    return {"words": words, "by": short(attention["strategy"]), "side": round(len(attention["input"]) ** 0.5)}


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
