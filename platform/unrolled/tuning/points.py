"""The points of a sweep in order of merit: a point is one choice of parameters, with a trial for each seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.evaluation.wording import finite
from unrolled.metrics import metric
from unrolled.metrics.named import NAMED
from unrolled.tuning.space_view import Entry

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
        return metric(self.name).label

    @property
    def word(self) -> str:
        """Its name inside a sentence: ``loss``, but ``BLEU``."""
        return self.label[0].lower() + self.label[1:] if self.label[1:2].islower() else self.label

    def text(self, value: float | None) -> str:
        """Returns a score, or a difference of scores, as printed everywhere."""
        if value is None or self.name in NAMED:
            text: str = metric(self.name).text(value)
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
