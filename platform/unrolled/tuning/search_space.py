"""Search spaces: points, grids and random draws."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unrolled.config import Config, Parameter
from unrolled.config.load import all_keys, replace_keys
from unrolled.errors import UserError, did_you_mean

Space = Mapping[str, Parameter]
Point = dict[str, Any]
"""Values by key; a key whose conditions do not hold is left out."""

MOST = 4096
"""Points that are checked before a sweep begins, at most, besides every value on its own."""
RESAMPLED = 0.25
"""Share of values that `perturbed` draws anew."""
RESERVED = ("task", "name", "storage", "seed", "tuning")
"""Keys that a sweep sets itself."""


def active(parameter: Parameter, point: Point) -> bool:
    """Returns whether a key is varied where the keys that it depends on have the values of `point`."""
    return all(key in point and point[key] in values for key, values in parameter.when.items())


def ordered(space: Space) -> list[tuple[str, Parameter]]:
    """Returns the keys such that each comes after those that it depends on, else in the given order."""
    waiting, found = dict(space), list[tuple[str, Parameter]]()
    while waiting:
        key = next(key for key, parameter in waiting.items() if not parameter.when.keys() & waiting.keys())
        found.append((key, waiting.pop(key)))
    return found


def choose(space: Space, choice: Callable[[str, Parameter], Any]) -> Point:
    """Returns the point whose values `choice` gives, asked for the keys that its choices make active."""
    point: Point = {}
    for key, parameter in ordered(space):
        if active(parameter, point):
            point[key] = choice(key, parameter)
    return point


def draw(space: Space, generator: random.Random) -> Point:
    """Returns a random point."""
    return choose(space, lambda _, parameter: draw_value(parameter, generator))


def draw_value(parameter: Parameter, generator: random.Random) -> Any:
    """Returns a random value of one key."""
    if parameter.values is not None:
        return generator.choice(parameter.values)
    low, high = parameter.given
    if parameter.kind == "loguniform":
        return min(high, max(low, math.exp(generator.uniform(math.log(low), math.log(high)))))
    return generator.uniform(low, high)


def combinations(space: Space, values: Callable[[Parameter], Sequence[Any]]) -> Iterator[Point]:
    """Yields every point whose keys have these values, each once."""

    def extend(point: Point, rest: list[tuple[str, Parameter]]) -> Iterator[Point]:
        if not rest:
            yield point
            return
        (key, parameter), *others = rest
        if not active(parameter, point):
            yield from extend(point, others)
            return
        for value in values(parameter):
            yield from extend(point | {key: value}, others)

    yield from extend({}, ordered(space))


def grid(space: Space) -> Iterator[Point]:
    """Yields all points of a space in which every key has a list of values."""
    return combinations(space, lambda parameter: parameter.values or [])


def gridded(space: Space) -> list[Point]:
    """Returns the combinations of the keys of kind `grid`; one, which is empty, where there are none."""
    fixed = {key: parameter for key, parameter in space.items() if parameter.kind == "grid" and not parameter.when}
    return list(grid(fixed))


def check(config: Config, space: Space) -> None:
    """Builds configs from every value of every key, and from all combinations of values and bounds as far as these
    are not more than `MOST`, else from so many random ones.

    Raises:
        UserError: a key that the config does not have, or a combination that makes no config.
    """
    _check_keys(config, space)
    for point in itertools.chain(_one_by_one(space), _together(space)):
        check_point(config, point)


def check_point(config: Config, point: Point) -> Config:
    """Returns the config of a point.

    Raises:
        UserError: there is none; says which values do not go together.
    """
    try:
        return replace_keys(config, point, "tuning.space")
    except UserError as error:
        shown = ", ".join(f"{key}={value}" for key, value in point.items())
        raise UserError(f"{str(error).removesuffix('.')} (at the point {shown}).") from None


def _check_keys(config: Config, space: Space) -> None:
    known = [key for key in all_keys(config) if key.partition(".")[0] not in RESERVED]
    for key in space:
        if key.partition(".")[0] in RESERVED:
            raise UserError(f"tuning.space: {key} cannot be varied; a sweep sets it itself.")
        if key not in known:
            inside = [other for other in known if other.startswith(f"{key}.")]
            if inside:
                raise UserError(f"tuning.space: {key} is a section; vary a key of it, such as {inside[0]}.")
            by_end = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
            hint = did_you_mean(key, known) or (f" Did you mean {by_end[0]!r}?" if by_end else "")
            raise UserError(f"tuning.space: {key} is not a key of a config of this task.{hint}")


def _tried(parameter: Parameter) -> list[Any]:
    """The values of a key, or the ends of what it may be."""
    return parameter.given if parameter.kind == "randint" else parameter.values or parameter.given


def _one_by_one(space: Space) -> Iterator[Point]:
    """Yields, for every key and each of its values, a point that changes nothing but what this value depends on."""

    def with_conditions(key: str) -> Point:
        point: Point = {}
        for other, values in space[key].when.items():
            point |= with_conditions(other) | {other: values[0]}
        return point

    for key, parameter in space.items():
        for value in _tried(parameter):
            yield with_conditions(key) | {key: value}


def _together(space: Space) -> Iterator[Point]:
    size = math.prod(len(_tried(parameter)) for parameter in space.values())
    if size <= MOST:
        yield from combinations(space, _tried)
        return
    generator = random.Random(0)
    for _ in range(MOST):
        yield choose(space, lambda _, parameter: generator.choice(_tried(parameter)))


def perturbed(space: Space, point: Point, generator: random.Random) -> Point:
    """Returns a neighbour of `point`: in every key a value beside the old one in its list or 0.8 or 1.2 times the old
    one, or with probability 1/4 any value."""

    def near(key: str, parameter: Parameter) -> Any:
        if key not in point or generator.random() < RESAMPLED:
            return draw_value(parameter, generator)
        if (values := parameter.values) is not None:
            place = values.index(point[key]) + generator.choice((-1, 1))
            return values[min(max(place, 0), len(values) - 1)]
        low, high = parameter.given
        return min(high, max(low, point[key] * generator.choice((0.8, 1.2))))

    return choose(space, near)
