"""Validation of a sweep before anything starts, and preparation of its data."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from unrolled.config import Config, Tuning
from unrolled.errors import UserError, did_you_mean, listing
from unrolled.tasks import make_task, prepare
from unrolled.tuning.samplers import build_sampler, num_points
from unrolled.tuning.search_space import check_point, check_space
from unrolled.tuning.sweep_dir import SPEED


class FingerprintCache:
    """Prepares data once for all trials that use the same, and keeps their fingerprints."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, str]] = []

    def __call__(self, config: Config) -> str:
        """Returns the fingerprint of a trial's data, which are prepared.

        Raises:
            UserError: the data cannot be used with this config.
        """
        key = (config.data, config.seed)
        known = next((fingerprint for other, fingerprint in self._known if other == key), None)
        fingerprint = prepare(config, known).fingerprint
        if known is None:
            self._known.append((key, fingerprint))
        return fingerprint


SMOKE_POINTS = 3
"""Points of a smoke test."""
EXAMPLE = "tuning: {space: {training.optimizer.learning_rate: {loguniform: [1e-4, 1e-1]}}}"


def check_sweep(config: Config, *, trials: int | None, workers: int, smoke: bool) -> tuple[Config, Tuning, list[str]]:
    """Returns the config and its tuning section as they will be used, and the scores to optimize.

    Args:
        trials: overrides `tuning.trials`.
        workers: workers per trial.

    Raises:
        UserError: the section is missing or contradicts itself, or some point is no valid config.
    """
    tuning = _tuning(config, workers)
    if trials is not None:
        if trials < 1:
            raise UserError(f"--trials {trials}: give 1 or more.")
        tuning = tuning.model_copy(update={"trials": trials})
    if smoke:
        tuning = tuning.model_copy(update={"trials": min(SMOKE_POINTS, tuning.trials or SMOKE_POINTS), "minutes": None})
    metrics = _metrics(config, tuning)
    _check_points(config, tuning, smoke=smoke)
    return config.model_copy(update={"tuning": tuning}), tuning, metrics


def _tuning(config: Config, workers: int) -> Tuning:
    tuning = config.tuning
    if tuning is None or not tuning.space:
        raise UserError(f"tuning.space is missing: say what to vary, for example {EXAMPLE}")
    for key in tuning.space if tuning.scheduler == "pbt" else ():
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in config.frozen_keys):
            raise UserError(
                f"tuning.scheduler is pbt, which moves checkpoints between trials, but {key} cannot change in a "
                f"trained model: vary other keys than {listing(config.frozen_keys)}, or take another scheduler."
            )
    if tuning.scheduler in ("pbt", "hyperband") and workers > 1:
        raise UserError(
            f"tuning.scheduler is {tuning.scheduler}, which lets trials wait, so every trial trains in one process: "
            f"leave --workers {workers} out, or take another scheduler."
        )
    return tuning


def _metrics(config: Config, tuning: Tuning) -> list[str]:
    given = config.training.metric if tuning.metric is None else tuning.metric
    metrics = [given] if isinstance(given, str) else given
    known = [*_validation_metrics(config), SPEED]
    for name in metrics:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"tuning.metric: {name} is no score of this training, which has {listing(known)}.{hint}")
        if metrics.count(name) > 1:
            raise UserError(f"tuning.metric: {name} is named twice.")
    if not metrics:
        raise UserError("tuning.metric is an empty list: name a score, or leave it null for training.metric.")
    if metrics[0] == SPEED and tuning.scheduler != "none":
        raise UserError(
            f"tuning.metric: {SPEED} comes first, but scheduler {tuning.scheduler} compares scores of validations: put "
            "one of these first, or take scheduler none."
        )
    return metrics


def _validation_metrics(config: Config) -> list[str]:
    """Returns the names of the scores that every validation has."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "vocabulary"
        prepare(config).save(folder)
        return list(dict.fromkeys(["loss", *make_task(config, folder).metric_names]))


def _check_points(config: Config, tuning: Tuning, *, smoke: bool) -> None:
    """Builds the config of every point that can be known now, and prepares its data."""
    check_space(config, tuning.space)
    if tuning.sampler == "tpe":  # its points depend on scores
        return
    fingerprints, sampler = FingerprintCache(), build_sampler(tuning, [], config.seed)
    for point in itertools.islice(iter(sampler.ask, None), num_points(tuning)):
        point_config = check_point(config, point)
        fingerprints(point_config.smoke_version() if smoke else point_config)
