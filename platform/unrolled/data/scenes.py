"""The built-in data set `scenes`: pictures of coloured shapes, with captions, questions and boxes.

A scene is a picture of 56 × 56 pixels, cut in nine fields; one to three of them hold a shape, of varying size and not
quite in the middle. Its caption follows a grammar and is the only one:

    caption   object | object "and" object | object "," object "and" object
    object    "a"/"an" colour shape place

with the objects in reading order, so that a picture determines its caption and exact match means that all was seen:
"a red circle at the top left , a blue square in the centre and an orange cross at the bottom right". No caption occurs
twice, in two splits or in one.

Questions on a scene come in two kinds, after Visual7W (Zhu et al. 2016): `telling`, with four answers in words, and
`pointing`, with four boxes.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cache, cached_property

from PIL import Image, ImageDraw

NAME = "scenes"
SIZES = {"train": 6000, "validation": 500, "test": 500}
SIDE = 56
FIELD = SIDE // 3
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
"""Objects of a scene, and how often: there are but 216 scenes of one object."""
BACKGROUNDS = (245, 225, 205)
"""Grey levels."""


@dataclass(frozen=True)
class Shape:
    """One object of a scene.

    Attributes:
        place: number of its field in reading order, from 0.
        box: x, y of its upper left corner, width and height, in pixels.
    """

    colour: str
    shape: str
    place: int
    box: tuple[int, int, int, int]

    @property
    def phrase(self) -> str:
        """Such as "a red circle at the top left"."""
        return f"{_article(self.colour)} {self.colour} {self.shape} {PLACES[self.place]}"


@dataclass(frozen=True)
class Scene:
    """Objects in reading order on a grey background."""

    objects: tuple[Shape, ...]
    background: int

    @cached_property
    def caption(self) -> str:
        *first, last = [thing.phrase for thing in self.objects]
        return f"{' , '.join(first)} and {last}" if first else last

    def png(self) -> bytes:
        """Returns the picture."""
        image = Image.new("RGB", (SIDE, SIDE), (self.background,) * 3)
        draw = ImageDraw.Draw(image)
        for thing in self.objects:
            _draw(draw, thing)
        stream = io.BytesIO()
        image.save(stream, "PNG", compress_level=1)
        return stream.getvalue()


@dataclass(frozen=True)
class Telling:
    """A question with four answers in words, of which one is right. `kind` is the question's first word or words."""

    kind: str
    question: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Pointing:
    """A question with four boxes (see `Shape.box`), of which one is right."""

    question: str
    answer: tuple[int, int, int, int]
    choices: tuple[tuple[int, int, int, int], ...]


@cache
def scenes(seed: int = 1) -> dict[str, list[Scene]]:
    """Returns the scenes of "train", "validation" and "test"; the same ones everywhere for a seed."""
    generator = random.Random(seed)
    found: dict[str, Scene] = {}
    while len(found) < sum(SIZES.values()):
        scene = _scene(generator)
        found.setdefault(scene.caption, scene)
    splits, rest = {}, list(found.values())
    for split, size in SIZES.items():
        splits[split], rest = rest[:size], rest[size:]
    return splits


def telling(scene: Scene, seed: int = 1) -> list[Telling]:
    """Returns questions on a scene: what, which colour and where for every object that its other properties single out,
    and how many of a shape and of a colour. Wrong answers are of the right one's kind."""
    generator = random.Random(f"{seed} {scene.caption}")
    asked: list[tuple[str, str, str, tuple[str, ...]]] = []
    for thing in scene.objects:
        asked.append(("what", f"what is {PLACES[thing.place]} ?", thing.shape, SHAPES))
        if _alone(scene, shape=thing.shape):
            asked.append(("which colour", f"which colour is the {thing.shape} ?", thing.colour, tuple(COLOURS)))
        if _alone(scene, shape=thing.shape, colour=thing.colour):
            asked.append(("where", f"where is the {thing.colour} {thing.shape} ?", PLACES[thing.place], PLACES))
    shape, colour = generator.choice(SHAPES), generator.choice(tuple(COLOURS))
    for named, count in ((shape, _count(scene, shape=shape)), (f"{colour} object", _count(scene, colour=colour))):
        asked.append(("how many", f"how many {_plural(named)} are there ?", NUMBERS[count], NUMBERS))
    return [Telling(kind, question, answer, _four(answer, pool, generator)) for kind, question, answer, pool in asked]


def pointing(scene: Scene, seed: int = 1) -> list[Pointing]:
    """Returns a question "which is the red circle ?" for every object that is the only one of its shape and colour.
    Wrong boxes are those of other objects, then others of the size of a field."""
    generator = random.Random(f"{seed} {scene.caption}")
    questions = []
    for thing in scene.objects:
        if not _alone(scene, shape=thing.shape, colour=thing.colour):
            continue
        others = [other.box for other in scene.objects if other is not thing]
        taken = {other.place for other in scene.objects}
        empty = [_field(place) for place in generator.sample([n for n in range(9) if n not in taken], 3)]
        choices = [thing.box, *(others + empty)[:3]]
        generator.shuffle(choices)
        questions.append(Pointing(f"which is the {thing.colour} {thing.shape} ?", thing.box, tuple(choices)))
    return questions


def _scene(generator: random.Random) -> Scene:
    (count,) = generator.choices(COUNTS, WEIGHTS)
    places = sorted(generator.sample(range(9), count))
    return Scene(tuple(_shape(place, generator) for place in places), generator.choice(BACKGROUNDS))


def _shape(place: int, generator: random.Random) -> Shape:
    side = generator.randint(11, 15)
    left, top, *_ = _field(place)
    x, y = (edge + generator.randint(0, FIELD - side) for edge in (left, top))
    return Shape(generator.choice(tuple(COLOURS)), generator.choice(SHAPES), place, (x, y, side, side))


def _field(place: int) -> tuple[int, int, int, int]:
    """Returns the box of a field; a margin of one pixel stands around all nine."""
    return 1 + place % 3 * FIELD, 1 + place // 3 * FIELD, FIELD, FIELD


def _draw(draw: ImageDraw.ImageDraw, thing: Shape) -> None:
    x, y, width, height = thing.box
    right, bottom, fill = x + width - 1, y + height - 1, COLOURS[thing.colour]
    if thing.shape == "circle":
        draw.ellipse((x, y, right, bottom), fill)
    elif thing.shape == "square":
        draw.rectangle((x, y, right, bottom), fill)
    elif thing.shape == "triangle":
        draw.polygon([(x, bottom), (right, bottom), (x + width // 2, y)], fill)
    else:
        third = width // 3
        draw.rectangle((x + third, y, right - third, bottom), fill)
        draw.rectangle((x, y + third, right, bottom - third), fill)


def _count(scene: Scene, **properties: str) -> int:
    return sum(all(getattr(thing, key) == value for key, value in properties.items()) for thing in scene.objects)


def _alone(scene: Scene, **properties: str) -> bool:
    return _count(scene, **properties) == 1


def _four(answer: str, pool: tuple[str, ...], generator: random.Random) -> tuple[str, ...]:
    """Returns the answer and three others of the pool, in any order."""
    choices = [answer, *generator.sample([word for word in pool if word != answer], 3)]
    generator.shuffle(choices)
    return tuple(choices)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")
