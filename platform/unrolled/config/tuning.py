"""The tuning section: what a sweep varies and how it searches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unrolled.config.common import Positive, Section

KINDS = ("choice", "grid", "uniform", "loguniform", "randint")
Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


class Parameter(Section):
    """What values a key may have: one of `KINDS`, and on what that depends."""

    choice: list[Any] | None = Field(None, description="one of these values")
    grid: list[Any] | None = Field(None, description="each of these values equally often, with every sampler")
    uniform: Bounds | None = Field(None, description="a number between two")
    loguniform: Bounds | None = Field(None, description="a number between two, its logarithm uniform")
    randint: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="a whole number between two, both included"
    )
    when: dict[str, list[Any]] = Field(
        {}, description="other keys of the space and their values under which this key is varied; else it stays"
    )

    @property
    def kind(self) -> str:
        """The one of `KINDS` that is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def given(self) -> list[Any]:
        """Its values or bounds."""
        values: list[Any] = getattr(self, self.kind)
        return values

    @property
    def values(self) -> list[Any] | None:
        """All values in their order; `None` where they are without number."""
        if self.kind == "randint":
            return list(range(self.given[0], self.given[1] + 1))
        return self.given if self.kind in ("choice", "grid") else None

    def problem(self) -> str | None:
        """What is wrong with it, as the end of a sentence."""
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            said = " and ".join(kinds) if kinds else "no kind of values"
            return f"has {said}; give one of {', '.join(KINDS)}"
        if self.kind in ("choice", "grid"):
            if not self.given:
                return f"has an empty {self.kind}; give one value or more"
            twice = [value for place, value in enumerate(self.given) if value in self.given[:place]]
            return f"has {twice[0]!r} twice in its {self.kind}" if twice else None
        low, high = self.given
        if self.kind == "loguniform" and low <= 0:
            return f"is loguniform from {low:g}; a logarithm needs bounds above 0"
        return (
            f"is {self.kind} from {low:g} to {high:g}; the second bound must be the larger one" if low >= high else None
        )


class Tuning(Section):
    space: dict[str, Parameter] = Field(
        description="keys of this config and their values: {choice: [a, b]}, {uniform: [0, 0.5]}, {loguniform: "
        "[1e-4, 1e-2]}, {randint: [1, 4]} or {grid: [a, b]} (each equally often); beside it when: {other.key: [a]}",
    )
    metric: str | list[str] | None = Field(
        None,
        description="score that ranks; several: the first ranks, the sampler tpe weighs all; null: training.metric",
    )
    trials: Positive | None = Field(
        None, description="points of the space, each trained `seeds` times; null: 20, of a grid all"
    )
    minutes: Annotated[float, Field(gt=0)] | None = Field(None, description="no trial goes on after so long")
    sampler: Literal["grid", "random", "tpe"] = Field("random", description="chooses points; tpe learns from scores")
    scheduler: Literal["none", "asha", "hyperband", "median", "pbt"] = Field(
        "none",
        description="stops trials early; pbt replaces the worst by perturbed copies of the best as they train",
    )
    grace: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.1, description="share of a training before which no trial is stopped; for pbt: between perturbations"
    )
    seeds: Positive = Field(1, description="trainings of every point, of seeds seed, seed + 1, …")
    concurrent: Positive | None = Field(None, description="trials that train at a time; null: one a CPU")

    @model_validator(mode="after")
    def _fits_together(self) -> Tuning:
        for key, parameter in self.space.items():
            if problem := parameter.problem() or _dependence(key, self.space):
                raise ValueError(f"tuning.space: {key} {problem}")
        if self.sampler == "grid":
            for key, parameter in self.space.items():
                if parameter.values is None:
                    raise ValueError(
                        f"tuning.sampler is grid, but {key} is {parameter.kind}: list its values, or use random or tpe"
                    )
        return self


def _dependence(key: str, space: Mapping[str, Parameter]) -> str | None:
    """What is wrong with a parameter's `when`, as the end of a sentence."""
    for other, values in space[key].when.items():
        if other == key or other not in space:
            return f"is varied when {other} has some value, which is no other key of the space"
        known = space[other].values
        if known is None:
            return f"is varied when {other} has some value, which is {space[other].kind}; it must be choice or grid"
        never = [value for value in values if value not in known]
        if never or not values:
            said = repr(never[0]) if never else "no value at all"
            return f"is varied when {other} is {said}, which is none of its values ({', '.join(map(repr, known))})"
    seen, waiting = set[str](), [*space[key].when]
    while waiting:
        other = waiting.pop()
        if other == key:
            return "depends on itself, by way of its when"
        if other not in seen and other in space:
            seen.add(other)
            waiting.extend(space[other].when)
    return None
