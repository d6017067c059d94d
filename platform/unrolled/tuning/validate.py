"""Checks of a sweep before anything starts.

The data of a sweep, made ready once for all its trials.

What can be known of a sweep before anything starts.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrolled.config import Config, Tuning
from unrolled.errors import UserError, did_you_mean, listing
from unrolled.tasks import make_task, prepare
from unrolled.tuning.samplers import build_sampler, count
from unrolled.tuning.search_space import Point, check, check_point
from unrolled.tuning.sweep_dir import SPEED


class Fingerprints:
    """Makes data ready once for all trials that train on the same, and remembers their fingerprints."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, str]] = []

    def __call__(self, config: Config) -> str:
        """Returns the fingerprint of a trial's data.

        Raises:
            UserError: they cannot be used, or not under this config.
        """
        of = (config.data, config.seed)
        known = next((fingerprint for data, fingerprint in self._known if data == of), None)
        fingerprint = prepare(config, known).fingerprint
        if known is None:
            self._known.append((of, fingerprint))
        return fingerprint


TINY = 3
"""Points of a smoke sweep."""
EXAMPLE = "tuning: {space: {training.optimizer.learning_rate: {loguniform: [1e-4, 1e-1]}}}"


def check_sweep(config: Config, *, trials: int | None, workers: int, smoke: bool) -> tuple[Config, Tuning, list[str]]:
    """Returns the config and its tuning section as they will be used, and the scores that rank.

    Args:
        trials: in place of `tuning.trials`.
        workers: of every trial.

    Raises:
        UserError: the section is missing, asks for what cannot be together, or some point is no config.
    """
    tuning = _tuning(config, workers)
    if trials is not None:
        if trials < 1:
            raise UserError(f"--trials {trials}: give 1 or more.")
        tuning = tuning.model_copy(update={"trials": trials})
    if smoke:
        tuning = tuning.model_copy(update={"trials": min(TINY, tuning.trials or TINY), "minutes": None})
    metrics = _metrics(config, tuning)
    _check_points(config, tuning, smoke=smoke)
    return config.model_copy(update={"tuning": tuning}), tuning, metrics


def _tuning(config: Config, workers: int) -> Tuning:
    tuning = config.tuning
    if tuning is None or not tuning.space:
        raise UserError(f"tuning.space is missing: say what to vary, for example {EXAMPLE}")
    if tuning.scheduler == "pbt":
        _check_population(config, tuning)
    if tuning.scheduler in ("pbt", "hyperband") and workers > 1:
        raise UserError(
            f"tuning.scheduler is {tuning.scheduler}, which lets trials wait, so every trial trains in one process: "
            f"leave --workers {workers} out, or take another scheduler."
        )
    return tuning


def _check_population(config: Config, tuning: Tuning) -> None:
    for key in tuning.space:
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in config.frozen_keys):
            raise UserError(
                f"tuning.scheduler is pbt, which moves checkpoints between trials, but {key} cannot change in a "
                f"trained model: vary other keys than {listing(config.frozen_keys)}, or take another scheduler."
            )


def _metrics(config: Config, tuning: Tuning) -> list[str]:
    given = config.training.metric if tuning.metric is None else tuning.metric
    metrics = [given] if isinstance(given, str) else given
    known = [*_reported(config), SPEED]
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


def _reported(config: Config) -> list[str]:
    """The scores of every validation."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "vocabulary"
        prepare(config).save(folder)
        return list(dict.fromkeys(["loss", *make_task(config, folder).metric_names]))


def _check_points(config: Config, tuning: Tuning, *, smoke: bool) -> None:
    """Builds the config of every point that can be known now, and makes its data ready."""
    check(config, tuning.space)
    fingerprints = Fingerprints()
    for point in _known_points(config, tuning):
        whole = check_point(config, point)
        fingerprints(whole.smoke_version() if smoke else whole)


def _known_points(config: Config, tuning: Tuning) -> Iterator[Point]:
    """Yields the points that are known before any score is."""
    if tuning.sampler != "tpe":
        sampler = build_sampler(tuning, [], config.seed)
        yield from itertools.islice(iter(sampler.next, None), count(tuning))
