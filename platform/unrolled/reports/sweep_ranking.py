"""Points, parameters and objectives of a sweep, and their Pareto fronts.

A point is one choice of parameters, with a trial for each seed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from unrolled.config.load import format_value, short_labels
from unrolled.metrics import METRIC_INFO, metric_info
from unrolled.reports.text import finite, truncated, uncapitalized

JsonObject = Mapping[str, Any]
"""The content of sweep.json, or a part of it."""
Findings = dict[str, Any]
"""What `sweep_analysis.findings` returns."""
NUMERIC = ("uniform", "loguniform", "randint")
LONGEST = 40
"""Characters of a value that are shown."""
MAX_CATEGORIES = 6
"""A parameter of unknown range with more different numbers is numeric."""


@dataclass(frozen=True)
class Parameter:
    """A key of the config that a sweep varies.

    Attributes:
        key: the dotted key.
        label: the last parts of the key, as many as tell it from the others.
        values: the values of a categorical parameter, in the order of the space; empty for a numeric one.
        low, high: the range of a numeric parameter.
        logarithmic: whether its logarithm is sampled uniformly.
    """

    key: str
    label: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False

    @property
    def categorical(self) -> bool:
        """Whether it has a list of values, not a range."""
        return bool(self.values)

    def text(self, value: Any) -> str:
        """Returns a value as printed everywhere; two different values never look the same."""
        plain = _plain(self.key, value)
        twins = [other for other in self.values if _plain(self.key, other) == plain]
        return plain if len(twins) < 2 else f"{plain} ({self.index(value) + 1})"

    def matches(self, parameters: Mapping[str, Any], value: Any) -> bool:
        """Returns whether a point with these parameters uses this one with that value."""
        return self.key in parameters and canonical(parameters[self.key]) == canonical(value)

    def index(self, value: Any) -> int:
        """Returns the index of a value of a categorical parameter; one that the space lacks comes last."""
        known = [canonical(one) for one in self.values]
        return known.index(canonical(value)) if canonical(value) in known else len(known)


def canonical(value: Any) -> str:
    """Returns a text that is the same for equal values, and different for True, 1 and "1"."""
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value, sort_keys=True)


def parameters_of(sweep: JsonObject) -> list[Parameter]:
    """Returns the parameters in the order of the space; what the space lacks is inferred from the trials."""
    space: dict[str, JsonObject] = dict(sweep.get("space") or {})
    observed: dict[str, list[Any]] = {}
    for trial in sweep["trials"]:
        for key, value in (trial.get("parameters") or {}).items():
            observed.setdefault(key, []).append(value)
    space |= {key: _inferred(values) for key, values in observed.items() if key not in space}
    labels = short_labels(space, least=2)
    return [_parameter(key, labels[key], entry) for key, entry in space.items()]


def _parameter(key: str, label: str, entry: JsonObject) -> Parameter:
    if entry["kind"] in NUMERIC:
        return Parameter(key, label, (), float(entry["low"]), float(entry["high"]), entry["kind"] == "loguniform")
    unique = {canonical(value): value for value in entry["values"]}
    return Parameter(key, label, tuple(unique.values()))


def _inferred(values: Sequence[Any]) -> dict[str, Any]:
    unique = {canonical(value): value for value in values}
    numbers = [number for value in unique.values() if (number := finite(value)) is not None]
    if len(numbers) == len(unique) > MAX_CATEGORIES:
        return {"kind": "uniform", "low": min(numbers), "high": max(numbers)}
    return {"kind": "choice", "values": list(unique.values())}


def _plain(key: str, value: Any) -> str:
    if value is None and key.endswith("truncate"):
        return "full"
    return truncated(
        f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else format_value(value), LONGEST
    )


STATES = ("finished", "stopped", "running", "diverged", "failed")
"""States of trials, the most informative first."""
WORDS = {state: state for state in STATES} | {"stopped": "stopped early"}


@dataclass(frozen=True)
class Objective:
    """A score that a sweep optimizes."""

    name: str
    lower_is_better: bool

    @property
    def direction(self) -> str:
        """``minimize`` or ``maximize``."""
        return "minimize" if self.lower_is_better else "maximize"

    @property
    def label(self) -> str:
        """The name shown to readers."""
        return metric_info(self.name).label

    @property
    def word(self) -> str:
        """The label inside a sentence: ``loss``, but ``BLEU``."""
        return uncapitalized(self.label)

    def text(self, value: float | None) -> str:
        """Returns a score, or a difference of scores, as printed everywhere."""
        if value is None or self.name in METRIC_INFO:
            text: str = metric_info(self.name).format(value)
        else:
            text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return text.replace("-", "−")

    def loss(self, value: float) -> float:
        """Returns a number that is smaller for a better score."""
        return value if self.lower_is_better else -value


@dataclass(frozen=True)
class Point:
    """One choice of parameters.

    Attributes:
        number: its number in the sweep, from 0.
        parameters: values by dotted key; those not in use are absent.
        trials: the entries of sweep.json, one per seed.
    """

    number: int
    parameters: Mapping[str, Any]
    trials: tuple[JsonObject, ...]

    @property
    def name(self) -> str:
        """The name of its trial, or its number where several seeds were run: ``trial 0007``, ``point 7``."""
        return f"trial {self.trials[0]['name']}" if len(self.trials) == 1 else f"point {self.number}"

    @property
    def state(self) -> str:
        """The worst state of its trials: a mean over the seeds that survived would flatter it."""
        return max((str(trial["state"]) for trial in self.trials), key=STATES.index)

    @property
    def steps(self) -> int:
        """The number of updates of its shortest trial."""
        return min(int(finite(trial.get("steps")) or 0) for trial in self.trials)

    def scores(self, name: str) -> list[float]:
        """Returns the scores of the trials that have one and neither diverged nor failed."""
        valid = [trial for trial in self.trials if trial["state"] in ("finished", "stopped", "running")]
        return _known((trial.get("scores") or {}).get(name) for trial in valid)

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
        """Returns the mean of another number of the trials, such as ``tokens_per_second``."""
        values = _known(trial.get(key) for trial in self.trials)
        return statistics.fmean(values) if values else None


def objectives(sweep: JsonObject) -> list[Objective]:
    """Returns the objectives of the sweep; the first one ranks the points."""
    return [Objective(name, mode == "min") for name, mode in zip(sweep["metric"], sweep["mode"], strict=True)]


def ranked_points(sweep: JsonObject) -> list[Point]:
    """Returns the points from best to worst by the first objective.

    Points that finished come first; then those that were stopped early, the longest first, because scores after fewer
    steps do not compare; then those that are running, diverged or failed.
    """
    objective = objectives(sweep)[0]
    groups: dict[int, list[JsonObject]] = {}
    for index, trial in enumerate(sweep["trials"]):
        groups.setdefault(trial.get("point", index), []).append(trial)
    points = [Point(number, trials[0].get("parameters") or {}, tuple(trials)) for number, trials in groups.items()]

    def rank(point: Point) -> tuple[int, int, bool, float]:
        score = point.score(objective.name)
        steps = 0 if point.state == "finished" else -point.steps
        return STATES.index(point.state), steps, score is None, 0.0 if score is None else objective.loss(score)

    return sorted(points, key=rank)


def common_step(points: Sequence[Point], name: str) -> int | None:
    """Returns the last step at which every finished or stopped point has a score; None where nothing was stopped early
    or there is no such step."""
    valid = [point for point in points if point.state in ("finished", "stopped")]
    if all(point.state == "finished" for point in valid):
        return None
    steps = [
        {row["step"] for row in trial.get("history") or [] if finite(row["scores"].get(name)) is not None}
        for point in valid
        for trial in point.trials
    ]
    return max(set[int].intersection(*steps), default=None)


def _known(values: Any) -> list[float]:
    return [number for value in values if (number := finite(value)) is not None]


def build_study(
    directions: Sequence[str],
    values: Sequence[Sequence[float]],
    params: Sequence[Mapping[str, Any]] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> optuna.Study:
    """Returns an Optuna study of finished trials, in memory.

    Args:
        directions: ``minimize`` or ``maximize``, for each value of a trial.
        values: values per trial.
        params: parameters per trial; a trial need not have all.
        distributions: distributions of all parameters.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=list(directions))
    for index, scores in enumerate(values):
        own = dict(params[index]) if params else {}
        known = {name: distributions[name] for name in own} if distributions else {}
        study.add_trial(create_trial(values=list(scores), params=own, distributions=known))
    return study


SPEED = Objective("tokens_per_second", lower_is_better=False)


def pareto_fronts(points: Sequence[Point], objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Returns the first objective against speed and against each other one, of the points that finished.

    Returns:
        For each pair ``x`` and ``y``, the names of what is measured, and ``points`` with ``name``, ``x``, ``y`` and
        ``front``, sorted by x; pairs that fewer than two points have are left out.
    """
    first, *others = objectives
    fronts = []
    for other in [*others, *([SPEED] if SPEED.name not in [one.name for one in objectives] else [])]:
        measured = [(objective_value(point, other), objective_value(point, first), point) for point in points]
        known: list[dict[str, Any]] = [
            {"name": point.name, "point": point.number, "x": x, "y": y}
            for x, y, point in measured
            if point.state == "finished" and x is not None and y is not None
        ]
        if len(known) > 1:
            known.sort(key=lambda one: (one["x"], one["y"]))
            values = [[float(one["x"]), float(one["y"])] for one in known]
            study = build_study([other.direction, first.direction], values)
            best = {trial.number for trial in study.best_trials}
            for number, one in enumerate(known):
                one["front"] = number in best
            fronts.append({"x": other.name, "y": first.name, "points": known})
    return fronts


def objective_value(point: Point, objective: Objective) -> float | None:
    """Returns a point's mean score, or its speed where no score has that name."""
    score = point.score(objective.name)
    return point.mean(objective.name) if score is None and objective.name == SPEED.name else score


def at_step(step: int | None) -> str:
    """Returns where scores are taken: ``at step 100`` or ``at the end``."""
    return "at the end" if step is None else f"at step {step:,}"


@dataclass(frozen=True)
class SweepData:
    """The findings of a sweep with its parameters by key and its objectives, the first of which ranks the points."""

    findings: Findings
    parameters: Mapping[str, Parameter]
    objectives: Sequence[Objective]

    @classmethod
    def of(cls, sweep: JsonObject, findings: Findings) -> SweepData:
        """Returns the data of `sweep`, the content of sweep.json."""
        return cls(findings, {one.key: one for one in parameters_of(sweep)}, objectives(sweep))

    @property
    def objective(self) -> Objective:
        """The objective that ranks the points."""
        return self.objectives[0]

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """The rows of the ranking by the point's number, in the order in which the points were tried."""
        return {row["point"]: row for row in sorted(self.findings["ranking"], key=lambda row: row["point"])}

    @property
    def step(self) -> int | None:
        """The step at which points are compared; None: at the end."""
        step: int | None = self.findings["step"]
        return step

    def score_label(self, step: int | None) -> str:
        """Returns the name of `scores`: ``loss at step 100`` or ``loss at the end``."""
        return f"{self.objective.word} {at_step(step)}"

    def scores(self, step: int | None) -> dict[int, float]:
        """Returns scores by point: at the common step, or at the end of the points that finished if `step` is None."""
        if step is not None:
            return {point: row["at_step"] for point, row in self.rows.items() if row["at_step"] is not None}
        finished = {point: row for point, row in self.rows.items() if row["state"] == "finished"}
        ends = {point: row["scores"][self.objective.name]["mean"] for point, row in finished.items()}
        return {point: score for point, score in ends.items() if score is not None}

    def values(self, parameter: Parameter) -> dict[int, Any]:
        """Returns the values of a parameter by point, of the points that use it."""
        rows, key = self.rows.items(), parameter.key
        used = {point: row["parameters"][key] for point, row in rows if key in row["parameters"]}
        return {point: one for point, one in used.items() if parameter.categorical or finite(one) is not None}

    def study(self, values: Mapping[int, Any], directions: Sequence[str] = ()) -> optuna.Study:
        """Returns an Optuna study with a trial for each point of `values`, in their order.

        Its parameters are called by their labels and categories by their texts, both escaped for plotly.

        Args:
            values: scores by point, or with `directions` several per point.
        """
        used = {escape(one.label): (one, self.values(one)) for one in self.parameters.values()}
        return build_study(
            directions or [self.objective.direction],
            [score if directions else [score] for score in values.values()],
            [{label: _coordinate(one, by[p]) for label, (one, by) in used.items() if p in by} for p in values],
            {label: _distribution(one, list(by.values())) for label, (one, by) in used.items() if by},
        )


def _coordinate(parameter: Parameter, value: Any) -> Any:
    return escape(parameter.text(value)) if parameter.categorical else float(value)


def _distribution(parameter: Parameter, used: Sequence[Any]) -> BaseDistribution:
    if parameter.categorical:
        known = dict.fromkeys(_coordinate(parameter, value) for value in [*parameter.values, *used])
        return CategoricalDistribution(list(known))
    # Population-based training may leave the range.
    return FloatDistribution(min([parameter.low, *used]), max([parameter.high, *used]), log=parameter.logarithmic)
