"""Samplers of points: grid, random and Optuna's TPE.

A sampler numbers its points from 0. Given the points and scores of an earlier start in their order, it continues after
them.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from unrolled.config import Parameter, Tuning
from unrolled.tuning.search_space import Point, Space, build_point, grid_combinations, grid_points, sample_value

MAX_DUPLICATES = 200
"""Known points sampled in a row after which a space counts as exhausted."""
DEFAULT_POINTS = 20
"""Points of a sweep whose config gives no number."""


class Sampler(Protocol):
    """Proposes points, of which no two are equal."""

    def ask(self) -> Point | None:
        """Returns another point; None where the space is exhausted."""
        ...

    def restore(self, point: Point) -> None:
        """Replays an `ask` of an earlier start, which returned `point`."""
        ...

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Reports the scores of a point; None: it has none, because it diverged."""
        ...


class FixedSampler:
    """A sampler whose points do not depend on scores: those of an iterator."""

    def __init__(self, points: Iterator[Point]) -> None:
        self._points = points

    def ask(self) -> Point | None:
        return next(self._points, None)

    def restore(self, point: Point) -> None:
        self.ask()

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Scores change nothing."""


def random_points(space: Space, seed: int) -> Iterator[Point]:
    """Yields random points, with the combinations of parameters of kind `grid` in turn.

    The values of a choice come in permuted blocks (Matts & Lachin 1988), each a new permutation of all values: every
    value comes equally often, so that comparing them takes the fewest points.
    """
    generator, known, combinations = random.Random(seed), list[Point](), grid_combinations(space)
    blocks: dict[str, list[Any]] = {}
    while combinations:
        fixed = combinations.pop(0)
        for _ in range(MAX_DUPLICATES):
            point = build_point(space, partial(_value, fixed, generator, blocks))
            if point not in known:
                known.append(point)
                combinations.append(fixed)
                yield point
                break


def _value(fixed: Point, generator: random.Random, blocks: dict[str, list[Any]], key: str, parameter: Parameter) -> Any:
    if key in fixed:
        return fixed[key]
    if parameter.values is None:
        return sample_value(parameter, generator)
    if not blocks.get(key):
        blocks[key] = generator.sample(list(parameter.values), len(parameter.values))
    return blocks[key].pop()


class TPESampler:
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
        self._combinations = itertools.cycle(grid_combinations(space))

    def ask(self) -> Point | None:
        fixed = next(self._combinations)
        for _ in range(MAX_DUPLICATES):
            trial, point = self._ask_study(fixed)
            if point not in self._points:
                self._append(trial, point)
                return point
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return None

    def restore(self, point: Point) -> None:
        next(self._combinations)
        self._append(*self._ask_study(point))

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        trial = self._trials[number]
        if values is not None:
            pairs = zip(self._worst or values, values, self._directions, strict=True)
            self._worst = [max(pair) if direction == "minimize" else min(pair) for *pair, direction in pairs]
            self._study.tell(trial, list(values))
        elif self._worst is not None:  # a diverged point is as bad as the worst that did not diverge
            self._study.tell(trial, self._worst)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _append(self, trial: Any, point: Point) -> None:
        self._trials.append(trial)
        self._points.append(point)

    def _ask_study(self, fixed: Point) -> tuple[Any, Point]:
        """Returns a trial of Optuna's and its point, which has the fixed values."""
        if fixed:
            self._study.enqueue_trial({key: _encode(self._space[key], value) for key, value in fixed.items()})
        trial = self._study.ask()
        return trial, build_point(self._space, lambda key, parameter: _suggest(trial, key, parameter))


def _encode(parameter: Parameter, value: Any) -> Any:
    """Returns the index of a value in its list, because Optuna knows no lists or sections as values; numbers stay."""
    return parameter.given.index(value) if parameter.kind in ("choice", "grid") else value


def _suggest(trial: Any, key: str, parameter: Parameter) -> Any:
    if parameter.kind in ("choice", "grid"):
        return parameter.given[trial.suggest_categorical(key, list(range(len(parameter.given))))]
    low, high = parameter.given
    if parameter.kind == "randint":
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=parameter.kind == "loguniform")


def build_sampler(tuning: Tuning, directions: Sequence[str], seed: int) -> Sampler:
    """Returns the sampler that `tuning.sampler` names."""
    if tuning.sampler == "tpe":
        return TPESampler(tuning.space, directions, seed)
    return FixedSampler(grid_points(tuning.space) if tuning.sampler == "grid" else random_points(tuning.space, seed))


def num_points(tuning: Tuning) -> int | None:
    """Returns the number of points of a sweep; None: all points of the grid."""
    return tuning.trials or (None if tuning.sampler == "grid" else DEFAULT_POINTS)
