"""The built-in data set `scenes`: pictures of coloured shapes, with captions, questions and boxes.

A scene is a picture of 56 × 56 pixels, divided into nine fields; one to three of them hold a shape, of random size and
slightly off the centre. It has one caption, which follows a grammar:

    caption   object | object "and" object | object "," object "and" object
    object    "a"/"an" colour shape place

with the objects in reading order, so that a picture determines its caption: "a red circle at the top left , a blue
square in the centre and an orange cross at the bottom right". No caption occurs twice in the data set.

Questions about a scene are of two kinds, after Visual7W (Zhu et al. 2016): `telling`, with four answers in words, and
`pointing`, with four boxes.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice

from PIL import Image, ImageDraw

NAME = "scenes"
SIZES = {"train": 6000, "validation": 500, "test": 500}
SIDE = 56
FIELD_SIDE = SIDE // 3
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 70, 230),
    "yellow": (240, 220, 40),
    "purple": (150, 40, 170),
    "orange": (245, 135, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = (
    *("at the top left", "at the top", "at the top right"),
    *("on the left", "in the centre", "on the right"),
    *("at the bottom left", "at the bottom", "at the bottom right"),
)
NUMBERS = ("zero", "one", "two", "three")
COUNTS, WEIGHTS = (1, 2, 3), (1, 10, 10)
"""Numbers of objects per scene, and their weights: there are only 216 scenes of one object."""
BACKGROUNDS = (245, 225, 205)
"""Grey levels."""


@dataclass(frozen=True)
class Shape:
    """One object of a scene.

    Attributes:
        field: number of its field in reading order, from 0.
        box: x, y of its upper left corner, width and height, in pixels.
    """

    colour: str
    shape: str
    field: int
    box: tuple[int, int, int, int]

    @property
    def phrase(self) -> str:
        """Such as "a red circle at the top left"."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} {PLACES[self.field]}"


@dataclass(frozen=True)
class Scene:
    """Objects in reading order on a grey background."""

    objects: tuple[Shape, ...]
    background: int

    @cached_property
    def caption(self) -> str:
        *first, last = [item.phrase for item in self.objects]
        return f"{' , '.join(first)} and {last}" if first else last

    def png(self) -> bytes:
        """Returns the picture."""
        image = Image.new("RGB", (SIDE, SIDE), (self.background,) * 3)
        draw = ImageDraw.Draw(image)
        for item in self.objects:
            _draw(draw, item)
        stream = io.BytesIO()
        image.save(stream, "PNG", compress_level=1)
        return stream.getvalue()


@dataclass(frozen=True)
class TellingQuestion:
    """A question with four answers in words, one of which is right. `kind` is the question's first word or words."""

    kind: str
    question: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class PointingQuestion:
    """A question with four boxes (see `Shape.box`), one of which is right."""

    question: str
    answer: tuple[int, int, int, int]
    choices: tuple[tuple[int, int, int, int], ...]


@cache
def scenes(seed: int = 1) -> dict[str, list[Scene]]:
    """Returns the scenes of "train", "validation" and "test", which the seed determines."""
    generator = random.Random(seed)
    unique: dict[str, Scene] = {}
    while len(unique) < sum(SIZES.values()):
        scene = _scene(generator)
        unique.setdefault(scene.caption, scene)
    remaining = iter(unique.values())
    return {split: list(islice(remaining, size)) for split, size in SIZES.items()}


def telling_questions(scene: Scene, seed: int = 1) -> list[TellingQuestion]:
    """Returns questions about a scene: what, which colour and where for every object that its other properties
    determine, and how many of a shape and of a colour. Wrong answers are of the kind of the right one."""
    generator = random.Random(f"{seed} {scene.caption}")
    questions: list[tuple[str, str, str, tuple[str, ...]]] = []
    for item in scene.objects:
        questions.append(("what", f"what is {PLACES[item.field]} ?", item.shape, SHAPES))
        if _is_unique(scene, shape=item.shape):
            questions.append(("which colour", f"which colour is the {item.shape} ?", item.colour, tuple(COLOURS)))
        if _is_unique(scene, shape=item.shape, colour=item.colour):
            questions.append(("where", f"where is the {item.colour} {item.shape} ?", PLACES[item.field], PLACES))
    shape, colour = generator.choice(SHAPES), generator.choice(tuple(COLOURS))
    for noun, count in ((shape, _count(scene, shape=shape)), (f"{colour} object", _count(scene, colour=colour))):
        plural = noun + ("es" if noun.endswith("s") else "s")
        questions.append(("how many", f"how many {plural} are there ?", NUMBERS[count], NUMBERS))
    return [
        TellingQuestion(kind, question, answer, _four_choices(answer, pool, generator))
        for kind, question, answer, pool in questions
    ]


def pointing_questions(scene: Scene, seed: int = 1) -> list[PointingQuestion]:
    """Returns a question "which is the red circle ?" for every object that is the only one of its shape and colour.
    Wrong boxes are those of other objects, then others of the size of a field."""
    generator = random.Random(f"{seed} {scene.caption}")
    questions = []
    for item in scene.objects:
        if not _is_unique(scene, shape=item.shape, colour=item.colour):
            continue
        others = [other.box for other in scene.objects if other is not item]
        occupied = {other.field for other in scene.objects}
        empty = [_field_box(n) for n in generator.sample([n for n in range(9) if n not in occupied], 3)]
        choices = [item.box, *(others + empty)[:3]]
        generator.shuffle(choices)
        questions.append(PointingQuestion(f"which is the {item.colour} {item.shape} ?", item.box, tuple(choices)))
    return questions


def _scene(generator: random.Random) -> Scene:
    (count,) = generator.choices(COUNTS, WEIGHTS)
    fields = sorted(generator.sample(range(9), count))
    return Scene(tuple(_shape(field, generator) for field in fields), generator.choice(BACKGROUNDS))


def _shape(field: int, generator: random.Random) -> Shape:
    side = generator.randint(11, 15)
    left, top, *_ = _field_box(field)
    x, y = (edge + generator.randint(0, FIELD_SIDE - side) for edge in (left, top))
    return Shape(generator.choice(tuple(COLOURS)), generator.choice(SHAPES), field, (x, y, side, side))


def _field_box(field: int) -> tuple[int, int, int, int]:
    """Returns the box of a field; a margin of one pixel is around all nine."""
    return 1 + field % 3 * FIELD_SIDE, 1 + field // 3 * FIELD_SIDE, FIELD_SIDE, FIELD_SIDE


def _draw(draw: ImageDraw.ImageDraw, item: Shape) -> None:
    x, y, width, height = item.box
    right, bottom, fill = x + width - 1, y + height - 1, COLOURS[item.colour]
    if item.shape == "circle":
        draw.ellipse((x, y, right, bottom), fill)
    elif item.shape == "square":
        draw.rectangle((x, y, right, bottom), fill)
    elif item.shape == "triangle":
        draw.polygon([(x, bottom), (right, bottom), (x + width // 2, y)], fill)
    else:
        third = width // 3
        draw.rectangle((x + third, y, right - third, bottom), fill)
        draw.rectangle((x, y + third, right, bottom - third), fill)


def _count(scene: Scene, **properties: str) -> int:
    return sum(all(getattr(item, key) == value for key, value in properties.items()) for item in scene.objects)


def _is_unique(scene: Scene, **properties: str) -> bool:
    return _count(scene, **properties) == 1


def _four_choices(answer: str, pool: tuple[str, ...], generator: random.Random) -> tuple[str, ...]:
    """Returns the answer and three others of the pool, in random order."""
    choices = [answer, *generator.sample([word for word in pool if word != answer], 3)]
    generator.shuffle(choices)
    return tuple(choices)
