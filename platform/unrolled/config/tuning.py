"""Config section `tuning`: search space and search strategy of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unrolled.config.common import Positive, PositiveNumber, Section

KINDS = ("choice", "grid", "uniform", "loguniform", "randint")
Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


class Parameter(Section):
    """Values that a key can take: one of `KINDS`, and optionally a condition."""

    choice: list[Any] | None = Field(None, description="one of these values")
    grid: list[Any] | None = Field(None, description="each of these values equally often, with every sampler")
    uniform: Bounds | None = Field(None, description="a number between two bounds")
    loguniform: Bounds | None = Field(None, description="a number between two bounds, log-uniform")
    randint: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="a whole number between two bounds, both included"
    )
    when: dict[str, list[Any]] = Field(
        {},
        description="condition: other keys of the space and the values for which this key is varied; otherwise it "
        "keeps its value",
    )

    @property
    def kind(self) -> str:
        """Which of `KINDS` is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def given(self) -> list[Any]:
        """The values or bounds."""
        values: list[Any] = getattr(self, self.kind)
        return values

    @property
    def values(self) -> list[Any] | None:
        """All values in order; `None` for a continuous range."""
        if self.kind == "randint":
            return list(range(self.given[0], self.given[1] + 1))
        return self.given if self.kind in ("choice", "grid") else None

    def problem(self) -> str | None:
        """Returns what is wrong, as the end of a sentence; `None` if valid."""
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) if kinds else "no kind of values"
            return f"has {found}; give one of {', '.join(KINDS)}"
        if self.kind in ("choice", "grid"):
            if not self.given:
                return f"has an empty {self.kind}; give one value or more"
            repeated = [value for i, value in enumerate(self.given) if value in self.given[:i]]
            return f"has {repeated[0]!r} twice in its {self.kind}" if repeated else None
        low, high = self.given
        if self.kind == "loguniform" and low <= 0:
            return f"is loguniform from {low:g}; a logarithm needs bounds above 0"
        return (
            f"is {self.kind} from {low:g} to {high:g}; the second bound must be the larger one" if low >= high else None
        )


class Tuning(Section):
    space: dict[str, Parameter] = Field(
        description="keys of this config and their values: {choice: [a, b]}, {uniform: [0, 0.5]}, {loguniform: [1e-4, "
        "1e-2]}, {randint: [1, 4]} or {grid: [a, b]} (each equally often); optionally with a condition, "
        "when: {other.key: [a]}"
    )
    metric: str | list[str] | None = Field(
        None,
        description="score that ranks trials; of several, the first ranks and the sampler tpe optimises all; null: "
        "training.metric",
    )
    trials: Positive | None = Field(
        None, description="number of points of the space, each trained `seeds` times; null: 20, or the whole grid"
    )
    minutes: PositiveNumber | None = Field(None, description="maximum time of the sweep in minutes")
    sampler: Literal["grid", "random", "tpe"] = Field(
        "random", description="how points are chosen; tpe adapts to the scores"
    )
    scheduler: Literal["none", "asha", "hyperband", "median", "pbt"] = Field(
        "none",
        description="early stopping of trials; pbt replaces the worst trials by perturbed copies of the best during "
        "training",
    )
    grace: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.1, description="fraction of a training before which no trial is stopped; for pbt: between perturbations"
    )
    seeds: Positive = Field(1, description="trainings per point, with seeds seed, seed + 1, …")
    concurrent: Positive | None = Field(None, description="maximum number of concurrent trials; null: one per CPU")

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
    """Returns what is wrong with a parameter's `when`, as the end of a sentence; `None` if valid."""
    for other, values in space[key].when.items():
        if other == key or other not in space:
            return f"is varied when {other} has some value, which is no other key of the space"
        known = space[other].values
        if known is None:
            return f"is varied when {other} has some value, which is {space[other].kind}; it must be choice or grid"
        unknown = [value for value in values if value not in known]
        if unknown or not values:
            given = repr(unknown[0]) if unknown else "no value at all"
            return f"is varied when {other} is {given}, which is none of its values ({', '.join(map(repr, known))})"
    visited, queue = set[str](), [*space[key].when]
    while queue:
        other = queue.pop()
        if other == key:
            return "depends on itself, by way of its when"
        if other not in visited and other in space:
            visited.add(other)
            queue.extend(space[other].when)
    return None
