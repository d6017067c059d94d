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
"""Values by dotted key; a key whose conditions do not hold is left out."""

MAX_CHECKED = 4096
"""Combinations that are checked before a sweep begins, at most, besides every single value."""
RESAMPLE_PROBABILITY = 0.25
"""Probability with which `perturb` samples a value anew."""
RESERVED = ("task", "name", "storage", "seed", "tuning")
"""Keys that a sweep sets itself."""


def is_active(parameter: Parameter, point: Point) -> bool:
    """Returns whether the conditions of a parameter hold at `point`."""
    return all(key in point and point[key] in values for key, values in parameter.when.items())


def dependency_order(space: Space) -> list[tuple[str, Parameter]]:
    """Returns the parameters such that each comes after those that it depends on, else in the given order."""
    remaining, ordered = dict(space), list[tuple[str, Parameter]]()
    while remaining:
        key = next(key for key, parameter in remaining.items() if not parameter.when.keys() & remaining.keys())
        ordered.append((key, remaining.pop(key)))
    return ordered


def build_point(space: Space, choice: Callable[[str, Parameter], Any]) -> Point:
    """Returns the point whose values `choice` gives; it is called for the keys that its own choices make active."""
    point: Point = {}
    for key, parameter in dependency_order(space):
        if is_active(parameter, point):
            point[key] = choice(key, parameter)
    return point


def sample_value(parameter: Parameter, generator: random.Random) -> Any:
    """Returns a random value of a parameter."""
    if parameter.values is not None:
        return generator.choice(parameter.values)
    low, high = parameter.given
    if parameter.kind == "loguniform":
        return min(high, max(low, math.exp(generator.uniform(math.log(low), math.log(high)))))
    return generator.uniform(low, high)


def combinations(space: Space, values: Callable[[Parameter], Sequence[Any]]) -> Iterator[Point]:
    """Yields every point of the space whose parameters have the given values, each once."""

    def extend(point: Point, rest: list[tuple[str, Parameter]]) -> Iterator[Point]:
        if not rest:
            yield point
            return
        (key, parameter), *others = rest
        if not is_active(parameter, point):
            yield from extend(point, others)
            return
        for value in values(parameter):
            yield from extend(point | {key: value}, others)

    yield from extend({}, dependency_order(space))


def grid_points(space: Space) -> Iterator[Point]:
    """Yields all points of a space in which every parameter has a list of values."""
    return combinations(space, lambda parameter: parameter.values or [])


def grid_combinations(space: Space) -> list[Point]:
    """Returns the combinations of the parameters of kind `grid`; a single empty point where there are none."""
    fixed = {key: parameter for key, parameter in space.items() if parameter.kind == "grid" and not parameter.when}
    return list(grid_points(fixed))


def check_space(config: Config, space: Space) -> None:
    """Builds configs from every value of every parameter, and from all combinations of values and bounds, or from
    `MAX_CHECKED` random ones of them where there are more.

    Raises:
        UserError: the config does not have a key, or some combination is no valid config.
    """
    _check_keys(config, space)
    for point in itertools.chain(_single_values(space), _joint_values(space)):
        check_point(config, point)


def check_point(config: Config, point: Point) -> Config:
    """Returns the config of a point.

    Raises:
        UserError: the values do not go together.
    """
    try:
        return replace_keys(config, point, "tuning.space")
    except UserError as error:
        values = ", ".join(f"{key}={value}" for key, value in point.items())
        raise UserError(f"{str(error).removesuffix('.')} (at the point {values}).") from None


def _check_keys(config: Config, space: Space) -> None:
    known = [key for key in all_keys(config) if key.partition(".")[0] not in RESERVED]
    for key in space:
        if key.partition(".")[0] in RESERVED:
            raise UserError(f"tuning.space: {key} cannot be varied; a sweep sets it itself.")
        if key not in known:
            inner = [other for other in known if other.startswith(f"{key}.")]
            if inner:
                raise UserError(f"tuning.space: {key} is a section; vary a key of it, such as {inner[0]}.")
            same_name = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
            hint = did_you_mean(key, known) or (f" Did you mean {same_name[0]!r}?" if same_name else "")
            raise UserError(f"tuning.space: {key} is not a key of a config of this task.{hint}")


def _test_values(parameter: Parameter) -> list[Any]:
    """Returns the values of a parameter, or the ends of its range."""
    return parameter.given if parameter.kind == "randint" else parameter.values or parameter.given


def _single_values(space: Space) -> Iterator[Point]:
    """Yields a point for each value of each parameter, which sets only that value and those that it depends on."""

    def with_conditions(key: str) -> Point:
        point: Point = {}
        for other, values in space[key].when.items():
            point |= with_conditions(other) | {other: values[0]}
        return point

    for key, parameter in space.items():
        for value in _test_values(parameter):
            yield with_conditions(key) | {key: value}


def _joint_values(space: Space) -> Iterator[Point]:
    size = math.prod(len(_test_values(parameter)) for parameter in space.values())
    if size <= MAX_CHECKED:
        yield from combinations(space, _test_values)
        return
    generator = random.Random(0)
    for _ in range(MAX_CHECKED):
        yield build_point(space, lambda _, parameter: generator.choice(_test_values(parameter)))


def perturb(space: Space, point: Point, generator: random.Random) -> Point:
    """Returns a neighbour of `point`: each value becomes its neighbour in the list or 0.8 or 1.2 times itself, or with
    probability `RESAMPLE_PROBABILITY` any value."""

    def neighbour(key: str, parameter: Parameter) -> Any:
        if key not in point or generator.random() < RESAMPLE_PROBABILITY:
            return sample_value(parameter, generator)
        if (values := parameter.values) is not None:
            index = values.index(point[key]) + generator.choice((-1, 1))
            return values[min(max(index, 0), len(values) - 1)]
        low, high = parameter.given
        return min(high, max(low, point[key] * generator.choice((0.8, 1.2))))

    return build_point(space, neighbour)
