"""Ray Tune's schedulers, as the tuning section names them.

They see a trial's `score` against its `progress`, of which `tuning.grace` of a training is 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from unrolled.config import Tuning
from unrolled.tuning.space import Space, perturbed

REDUCTION = 3
"""Of so many trials one goes on, at every rung of ASHA and HyperBand."""
RIVALS = 3
"""Trials whose median the median rule takes, at least."""


def build_scheduler(tuning: Tuning, mode: str, seed: int) -> Any:
    """Returns the scheduler that `tuning.scheduler` names.

    Args:
        mode: `min` or `max`: which scores are good.
    """
    seen = {"time_attr": "progress", "metric": "score", "mode": mode}
    whole = 1 / tuning.grace
    if tuning.scheduler == "asha":
        # A little more than there is, so that no scheduler ends what ends by itself.
        return ASHAScheduler(**seen, max_t=whole * 1.001, grace_period=1, reduction_factor=REDUCTION)
    if tuning.scheduler == "hyperband":
        return HyperBandScheduler(**seen, max_t=round(whole), reduction_factor=REDUCTION)
    if tuning.scheduler == "median":
        return Median(**seen, grace_period=1, min_samples_required=RIVALS)
    if tuning.scheduler == "pbt":
        return Population(**seen, space=tuning.space, seed=seed)
    return FIFOScheduler()


def _as_it_is(config: dict[str, Any]) -> dict[str, Any]:
    return config


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training (Jaderberg et al. 2017): a trial of the worst quarter goes on from a checkpoint of the
    best quarter, with that one's values a little changed."""

    def __init__(self, *, space: Space, seed: int, **seen: str) -> None:
        super().__init__(perturbation_interval=1, custom_explore_fn=_as_it_is, require_attrs=False, **seen)
        self._space, self._generator = space, random.Random(seed)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        errand, other = trial.config["errand"], trial_to_clone.config["errand"]
        parameters = perturbed(self._space, other["order"]["parameters"], self._generator)
        return {"errand": errand | {"order": errand["order"] | {"parameters": parameters}}}, {}


class Median(MedianStoppingRule):  # type: ignore[misc]
    """The median rule (Golovin et al. 2017), which never makes a trial wait for others."""

    def _on_insufficient_samples(self, _controller: Any, _trial: Any, _time: float) -> str:
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its results were seen already, and the last may be that it diverged."""


@dataclass(frozen=True)
class Earlier:
    """A trial of an earlier start, as schedulers know trials."""

    trial_id: str


def replay(scheduler: Any, name: str, results: Iterable[dict[str, Any]]) -> None:
    """Lets a scheduler see what a trial of an earlier start reported, so that others are measured by it."""
    trial = Earlier(name)
    scheduler.on_trial_add(None, trial)
    for result in results:
        scheduler.on_trial_result(None, trial, result)
