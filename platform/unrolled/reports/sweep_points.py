"""Points and parameters of a sweep, ranked, and their Pareto front.

Parameters of a search space as a reader meets them: short names, values as text, which are categories.

The points of a sweep in order of merit: a point is one choice of parameters, with a trial for each seed.

The Pareto front of two objectives: the points that no other point beats in both.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.config.load import format_value
from unrolled.metrics import metric_info
from unrolled.metrics.registry import METRIC_INFO
from unrolled.reports.text import finite

Entry = Mapping[str, Any]
"""A part of sweep.json."""
NUMERIC = ("uniform", "loguniform", "randint")
LONGEST = 40  # characters of a value that are shown
FEW = 6  # different numbers up to which a parameter of unknown range is one of categories


@dataclass(frozen=True)
class Parameter:
    """A key of the config that a sweep varies.

    Attributes:
        key: dotted.
        label: its last parts, as many as tell it from the others.
        values: of a categorical one, in the space's order; empty for a numeric one.
        low, high: ends of a numeric one's range.
        logarithmic: it was drawn uniformly by its logarithm.
        when: values of other parameters under which it is in use; empty where always.
    """

    key: str
    label: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def categorical(self) -> bool:
        """Whether it has values rather than a range."""
        return bool(self.values)

    def text(self, value: Any) -> str:
        """Returns a value as printed everywhere; two different ones never look the same."""
        plain = _plain(self.key, value)
        twins = [other for other in self.values if _plain(self.key, other) == plain]
        return plain if len(twins) < 2 else f"{plain} ({self.place(value) + 1})"

    def given(self, parameters: Mapping[str, Any], value: Any) -> bool:
        """Returns whether a point uses it with that value."""
        return self.key in parameters and identity(parameters[self.key]) == identity(value)

    def place(self, value: Any) -> int:
        """Returns the place of a value of a categorical parameter; one that the space lacks is last."""
        known = [identity(one) for one in self.values]
        return known.index(identity(value)) if identity(value) in known else len(known)


def identity(value: Any) -> str:
    """Returns what two equal values share and True, 1 and "1" do not."""
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value, sort_keys=True)


def parameters_of(sweep: Entry) -> list[Parameter]:
    """Returns the parameters in the space's order; those of a sweep without a space as its trials show them."""
    space: dict[str, Entry] = dict(sweep.get("space") or {})
    drawn: dict[str, list[Any]] = {}
    for trial in sweep["trials"]:
        for key, value in (trial.get("parameters") or {}).items():
            drawn.setdefault(key, []).append(value)
    for key, values in drawn.items():
        if key not in space:
            space[key] = _guessed(values)
    labels = _labels(list(space))
    return [_parameter(key, labels[key], entry) for key, entry in space.items()]


def _parameter(key: str, label: str, entry: Entry) -> Parameter:
    when = tuple((other, tuple(values)) for other, values in (entry.get("when") or {}).items())
    if entry["kind"] in NUMERIC:
        log = entry["kind"] == "loguniform"
        return Parameter(key, label, (), float(entry["low"]), float(entry["high"]), log, when)
    unique = {identity(value): value for value in entry["values"]}
    return Parameter(key, label, tuple(unique.values()), when=when)


def _guessed(values: Sequence[Any]) -> dict[str, Any]:
    unique = {identity(value): value for value in values}
    numbers = [number for value in unique.values() if (number := finite(value)) is not None]
    if len(numbers) == len(unique) > FEW:
        return {"kind": "uniform", "low": min(numbers), "high": max(numbers)}
    return {"kind": "choice", "values": list(unique.values())}


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """Returns short names: `cell` of model.cell, but `clipping.kind` of training.clipping.kind."""
    parts = {key: 1 if key.count(".") < 2 else 2 for key in keys}
    while True:
        labels = {key: ".".join(key.split(".")[-count:]) for key, count in parts.items()}
        shared = [key for key in keys if list(labels.values()).count(labels[key]) > 1]
        if not shared:
            return labels
        parts |= {key: parts[key] + 1 for key in shared}


def _plain(key: str, value: Any) -> str:
    if value is None and key.endswith("truncate"):
        return "full"
    text = f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else format_value(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


STATES = ("finished", "stopped", "running", "diverged", "failed")
"""From the one that says most of a point to the one that says least."""
WORDS = {
    "finished": "finished",
    "stopped": "stopped early",
    "running": "running",
    "diverged": "diverged",
    "failed": "failed",
}


@dataclass(frozen=True)
class Objective:
    """What a sweep seeks."""

    name: str
    lower_is_better: bool

    @property
    def label(self) -> str:
        """Its name for readers."""
        return metric_info(self.name).label

    @property
    def word(self) -> str:
        """Its name inside a sentence: ``loss``, but ``BLEU``."""
        return self.label[0].lower() + self.label[1:] if self.label[1:2].islower() else self.label

    def text(self, value: float | None) -> str:
        """Returns a score, or a difference of scores, as printed everywhere."""
        if value is None or self.name in METRIC_INFO:
            text: str = metric_info(self.name).format(value)
        else:
            text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return text.replace("-", "−")

    def loss(self, value: float) -> float:
        """Returns a number that is the smaller, the better the score."""
        return value if self.lower_is_better else -value


@dataclass(frozen=True)
class Point:
    """One choice of parameters.

    Attributes:
        number: as the sweep counts.
        parameters: by dotted key; those not in use are absent.
        trials: of sweep.json, one a seed.
    """

    number: int
    parameters: Mapping[str, Any]
    trials: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """That of its trial, or its own where several seeds were run: ``trial 0007``, ``point 7``."""
        return f"trial {self.trials[0]['name']}" if len(self.trials) == 1 else f"point {self.number}"

    @property
    def state(self) -> str:
        """The worst state of its trials: a mean over the seeds that survived would flatter it."""
        return max((str(trial["state"]) for trial in self.trials), key=STATES.index)

    @property
    def steps(self) -> int:
        """Updates of its shortest trial."""
        return min(int(finite(trial.get("steps")) or 0) for trial in self.trials)

    def scores(self, name: str) -> list[float]:
        """Returns the scores of its trials that have one and neither diverged nor failed."""
        whole = [trial for trial in self.trials if trial["state"] in ("finished", "stopped", "running")]
        return _known((trial.get("scores") or {}).get(name) for trial in whole)

    def score(self, name: str) -> float | None:
        """Returns the mean of `scores`, None where there is none."""
        values = self.scores(name)
        return statistics.fmean(values) if values else None

    def score_at(self, name: str, step: int) -> float | None:
        """Returns the mean score at a step; None unless every trial has one there."""
        rows = [{row["step"]: row["scores"].get(name) for row in trial.get("history") or []} for trial in self.trials]
        values = _known(row.get(step) for row in rows)
        return statistics.fmean(values) if len(values) == len(self.trials) else None

    def mean(self, key: str) -> float | None:
        """Returns the mean of another number of its trials, such as ``tokens_per_second``."""
        values = _known(trial.get(key) for trial in self.trials)
        return statistics.fmean(values) if values else None


def objectives(sweep: Entry) -> list[Objective]:
    """Returns what the sweep seeks, the first first."""
    return [Objective(name, mode == "min") for name, mode in zip(sweep["metric"], sweep["mode"], strict=True)]


def ranked_points(sweep: Entry) -> list[Point]:
    """Returns the points from best to worst by the first objective.

    Points that finished come first; then those that were stopped early, the longest first, for a score of fewer
    steps does not compare; then those that still run, diverged or failed.
    """
    goal = objectives(sweep)[0]
    groups: dict[int, list[Entry]] = {}
    for place, trial in enumerate(sweep["trials"]):
        groups.setdefault(trial.get("point", place), []).append(trial)
    points = [Point(number, trials[0].get("parameters") or {}, tuple(trials)) for number, trials in groups.items()]

    def merit(point: Point) -> tuple[int, int, bool, float]:
        score = point.score(goal.name)
        steps = 0 if point.state == "finished" else -point.steps
        return STATES.index(point.state), steps, score is None, 0.0 if score is None else goal.loss(score)

    return sorted(points, key=merit)


def common_step(points: Sequence[Point], name: str) -> int | None:
    """Returns the last step at which every point has a score that was not cut short by failing or diverging;
    None where nothing was stopped early or there is no such step."""
    whole = [point for point in points if point.state in ("finished", "stopped")]
    if all(point.state == "finished" for point in whole):
        return None
    steps: set[int] | None = None
    for trial in (trial for point in whole for trial in point.trials):
        own = {row["step"] for row in trial.get("history") or [] if finite(row["scores"].get(name)) is not None}
        steps = own if steps is None else steps & own
    return max(steps) if steps else None


def _known(values: Any) -> list[float]:
    return [number for value in values if (number := finite(value)) is not None]


SPEED = Objective("tokens_per_second", lower_is_better=False)


def fronts(points: Sequence[Point], goals: Sequence[Objective]) -> list[dict[str, Any]]:
    """Returns score against speed, and the first objective against each other one, of the points that finished.

    Returns:
        for each ``x`` and ``y``: names of what is measured, ``points`` with ``name``, ``x``, ``y`` and ``front``,
        sorted by x; pairs that fewer than two points have are left out.
    """
    against = [*goals[1:], *([SPEED] if all(goal.name != SPEED.name for goal in goals) else [])]
    found = []
    for other in against:
        known = []
        for point in points:
            x, y = objective_value(point, other), objective_value(point, goals[0])
            if point.state == "finished" and x is not None and y is not None:
                known.append({"name": point.name, "point": point.number, "x": x, "y": y})
        if len(known) > 1:
            for one in known:
                one["front"] = not any(_beats(rival, one, other, goals[0]) for rival in known)
            known.sort(key=lambda one: (one["x"], one["y"]))
            found.append({"x": other.name, "y": goals[0].name, "points": known})
    return found


def objective_value(point: Point, goal: Objective) -> float | None:
    """Returns a point's mean score, or its speed where no score is called so."""
    score = point.score(goal.name)
    return point.mean(goal.name) if score is None and goal.name == SPEED.name else score


def _beats(one: dict[str, Any], other: dict[str, Any], x: Objective, y: Objective) -> bool:
    """Returns whether `one` is at least as good in both and better in one."""
    losses = [(x.loss(each["x"]), y.loss(each["y"])) for each in (one, other)]
    return losses[0] != losses[1] and all(mine <= theirs for mine, theirs in zip(*losses, strict=True))
