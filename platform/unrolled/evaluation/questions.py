"""The gallery of a report on questions about photographs: candidates with their probabilities, and where the model
looked or what it pointed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from unrolled.evaluation.gallery import Picture, embedded, told
from unrolled.tasks import Shown

WIDTH = 280
"""Pixels of a photograph's longer side on the page."""
ROOM = 0.12
"""Share of a photograph's height or width that the number of a box takes, with some to spare."""


def question_gallery(
    shown: Sequence[Shown], photo: Callable[[str, int], Image.Image], least: int
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
        groups.setdefault(one.heading, []).append(_card(number, one, pictures[names.index(one.photo)]))
    return [{"title": heading, "cards": cards} for heading, cards in groups.items()]


def _card(number: int, one: Shown, picture: Picture) -> dict[str, Any]:
    scale = WIDTH / max(picture.width, picture.height)
    return {
        "index": number,
        "name": one.photo,
        "alt": f"The photograph that is asked about: {one.question}",
        "picture": picture,
        "width": round(picture.width * scale),
        "question": one.question,
        "answer": one.answer,
        "written": one.written,
        "options": [
            {
                "text": option.text,
                "percent": f"{100 * option.share:.0f}\N{NO-BREAK SPACE}%",
                "width": round(100 * option.share, 1),
                "right": option.right,
                "chosen": option.chosen,
                "box": None if option.box is None else [round(100 * side, 2) for side in option.box],
                "label": None if option.box is None else _label(option.box),
            }
            for option in one.options
        ],
        "gaze": None if one.weights is None else _gaze(one.weights),
    }


def _label(box: Sequence[float]) -> str:
    """Returns where the number of a box stands, in CSS classes: above it if there is room, else below or inside."""
    left, top, _, height = box
    place = "above" if top > ROOM else "below" if top + height < 1 - ROOM else "inside"
    return f"{place} ending" if left > 1 - ROOM else place


def _gaze(weights: Sequence[float]) -> dict[str, Any]:
    """Returns one word for `gallery.js`, with percentages of the most looked at position."""
    most = max(weights) or 1.0
    seen = [round(100 * weight / most) for weight in weights]
    word = {"text": "where it looked", "told": told(weights).capitalize(), "seen": seen}
    return {"words": [word], "side": round(len(weights) ** 0.5)}
