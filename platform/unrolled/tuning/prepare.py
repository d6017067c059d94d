"""What can be known of a sweep before anything starts."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unrolled.config import Config, Tuning
from unrolled.errors import UserError, listing, nearest
from unrolled.tasks import make_task, prepare
from unrolled.tuning.measure import SPEED, mode
from unrolled.tuning.samplers import build_sampler, count
from unrolled.tuning.space import check, check_point

TINY = 3
"""Points of a tiny sweep."""
EXAMPLE = "tuning: {space: {training.optimizer.learning_rate: {loguniform: [1e-4, 1e-1]}}}"


def tuning_of(config: Config, *, tiny: bool) -> Tuning:
    """Returns the tuning section.

    Raises:
        UserError: it is missing, or asks for what cannot be together.
    """
    tuning = config.tuning
    if tuning is None or not tuning.space:
        raise UserError(f"tuning.space is missing: say what to vary, for example {EXAMPLE}")
    if tuning.scheduler == "pbt":
        _check_population(config, tuning)
    if tiny:
        return tuning.model_copy(update={"trials": min(TINY, tuning.trials or TINY), "minutes": None})
    return tuning


def _check_population(config: Config, tuning: Tuning) -> None:
    for key in tuning.space:
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in config.fixed):
            raise UserError(
                f"tuning.scheduler is pbt, which moves checkpoints between trials, but {key} cannot change in a "
                f"trained model: vary other keys than {listing(config.fixed)}, or take another scheduler."
            )


def metrics_of(config: Config, tuning: Tuning) -> list[str]:
    """Returns the scores that rank.

    Raises:
        UserError: the task does not report one of them.
    """
    given = config.training.metric if tuning.metric is None else tuning.metric
    metrics = [given] if isinstance(given, str) else given
    known = [*_reported(config), SPEED]
    for name in metrics:
        if name not in known:
            raise UserError(
                f"tuning.metric: {name} is no score of this training, which has {listing(known)}.{nearest(name, known)}"
            )
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
        return list(dict.fromkeys(["loss", *make_task(config, folder).shown]))


def directions(metrics: Sequence[str]) -> list[str]:
    """Returns the ways of improvement as Optuna names them."""
    return ["minimize" if mode(name) == "min" else "maximize" for name in metrics]


def check_points(config: Config, tuning: Tuning) -> None:
    """Builds the config of every point that can be known now, and makes its data ready.

    Raises:
        UserError: a key is unknown, a value is wrong, or values do not go together.
    """
    check(config, tuning.space)
    if tuning.sampler == "tpe":
        return
    sampler = build_sampler(tuning, [], config.seed)
    for point in itertools.islice(iter(sampler.next, None), count(tuning)):
        check_point(config, point)
