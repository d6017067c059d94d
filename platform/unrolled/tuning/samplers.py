"""Samplers: grid, random and Optuna.

A sampler numbers its points from 0. Told the points and scores of an earlier start, in their order, it goes on
after them.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from unrolled.config import Parameter, Tuning
from unrolled.tuning.search_space import Point, Space, choose, draw_value, grid, gridded

TRIES = 200
"""Draws in a row that may give known points before a space counts as exhausted."""
USUAL = 20
"""Points of a sweep that does not say how many."""


class Sampler(Protocol):
    """Gives points, of which no two are equal."""

    def next(self) -> Point | None:
        """Returns another point; `None` where there is none any more."""
        ...

    def known(self, point: Point) -> None:
        """Takes the place of `next`, for a point that an earlier start was given."""
        ...

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Says what the scores of a point are; `None`: it has none, because it diverged."""
        ...


class Listed:
    """Points in an order that no score changes."""

    def __init__(self, points: Iterator[Point]) -> None:
        self._points = points

    def next(self) -> Point | None:
        return next(self._points, None)

    def known(self, point: Point) -> None:
        self.next()

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Nothing follows from it."""


def drawn(space: Space, seed: int) -> Iterator[Point]:
    """Yields random points, the combinations of keys of kind `grid` in turn.

    The values of a choice are dealt like cards, in an order shuffled anew whenever all were dealt (permuted blocks,
    Matts & Lachin 1988): each comes equally often, so that comparing them takes fewest points.
    """
    generator, seen, fixed = random.Random(seed), list[Point](), gridded(space)
    decks: dict[str, list[Any]] = {}
    while fixed:
        given = fixed.pop(0)
        for _ in range(TRIES):
            point = choose(space, partial(_value, given, generator, decks))
            if point not in seen:
                seen.append(point)
                fixed.append(given)
                yield point
                break


def _value(given: Point, generator: random.Random, decks: dict[str, list[Any]], key: str, parameter: Parameter) -> Any:
    if key in given:
        return given[key]
    if parameter.values is None:
        return draw_value(parameter, generator)
    if not decks.get(key):
        decks[key] = generator.sample(list(parameter.values), len(parameter.values))
    return decks[key].pop()


class Tpe:
    """Tree-structured Parzen estimators (Bergstra et al. 2011), for one score or several.

    Args:
        directions: `minimize` or `maximize`, for each score.
    """

    def __init__(self, space: Space, directions: Sequence[str], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._space, self._directions = optuna, space, directions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`, for conditional keys
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        self._study = optuna.create_study(sampler=sampler, directions=list(directions))
        self._points: list[Point] = []
        self._trials: list[Any] = []
        self._worst: list[float] | None = None
        self._fixed = itertools.cycle(gridded(space))

    def next(self) -> Point | None:
        given = next(self._fixed)
        for _ in range(TRIES):
            trial, point = self._ask(given)
            if point not in self._points:
                self._keep(trial, point)
                return point
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return None

    def known(self, point: Point) -> None:
        next(self._fixed)
        self._keep(*self._ask(point))

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        trial = self._trials[number]
        if values is not None:
            told = list(zip(self._worst or values, values, self._directions, strict=True))
            self._worst = [max(pair) if way == "minimize" else min(pair) for *pair, way in told]
            self._study.tell(trial, list(values))
        elif self._worst is not None:  # nothing that diverged is better than anything that did not
            self._study.tell(trial, self._worst)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _keep(self, trial: Any, point: Point) -> None:
        self._trials.append(trial)
        self._points.append(point)

    def _ask(self, given: Point) -> tuple[Any, Point]:
        """Returns a trial of Optuna's and its point, with the values that are given."""
        if given:
            coded = {key: _code(self._space[key], value) for key, value in given.items()}
            self._study.enqueue_trial(coded)
        trial = self._study.ask()
        return trial, choose(self._space, lambda key, parameter: _suggested(trial, key, parameter))


def _code(parameter: Parameter, value: Any) -> Any:
    """Values of a list are their places to Optuna, which knows no lists or sections as values."""
    return parameter.given.index(value) if parameter.kind in ("choice", "grid") else value


def _suggested(trial: Any, key: str, parameter: Parameter) -> Any:
    if parameter.kind in ("choice", "grid"):
        return parameter.given[trial.suggest_categorical(key, list(range(len(parameter.given))))]
    low, high = parameter.given
    if parameter.kind == "randint":
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=parameter.kind == "loguniform")


def build_sampler(tuning: Tuning, directions: Sequence[str], seed: int) -> Sampler:
    """Returns the sampler that `tuning.sampler` names."""
    if tuning.sampler == "tpe":
        return Tpe(tuning.space, directions, seed)
    return Listed(grid(tuning.space) if tuning.sampler == "grid" else drawn(tuning.space, seed))


def count(tuning: Tuning) -> int | None:
    """Returns how many points are asked for; `None`: all."""
    return tuning.trials or (None if tuning.sampler == "grid" else USUAL)
