"""Which parameters moved the score: fANOVA on the trials of a sweep.

Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014: a forest of
regression trees learns the score from the parameters; a parameter's importance is the share of the forest's variance
over the whole space that it explains alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from unrolled.tuning.space_view import Parameter, identity

FEWEST = 8
"""Points from which a forest has something to learn."""
SHUFFLES = 19
"""Fits to shuffled scores: the largest share that they give a parameter is reached by chance once in 20."""
TREES, SEED = 16, 1
Scored = Sequence[tuple[dict[str, Any], float]]
"""Parameters of points, by key, and their scores."""


def importance(parameters: Sequence[Parameter], scored: Scored) -> list[dict[str, Any]]:
    """Returns the importance of each parameter, largest first.

    fANOVA needs every parameter in every point. One that is in use only under conditions is therefore assessed among
    the points that use it, together with those that all of these have; its share is one of their variance.

    Returns:
        rows with ``key``, ``share`` of the variance (0 to 1), ``chance``: what shuffled scores give at most, ``points``
        that were used, and ``among``: whether only those that use the parameter. None for a parameter that has one
        value only or is used by fewer than FEWEST points.
    """
    rows = []
    everywhere = _shares(_used_by_all(parameters, scored), scored)
    for parameter in parameters:
        own = [(point, score) for point, score in scored if parameter.key in point]
        found = everywhere if len(own) == len(scored) else _shares(_used_by_all(parameters, own), own)
        if parameter.key in found:
            share, chance = found[parameter.key]
            among = len(own) < len(scored)
            rows.append({"key": parameter.key, "share": share, "chance": chance, "points": len(own), "among": among})
    return sorted(rows, key=lambda row: -row["share"])


def _used_by_all(parameters: Sequence[Parameter], scored: Scored) -> list[Parameter]:
    """Returns the parameters that every point has and that differ between them."""
    return [
        one
        for one in parameters
        if all(one.key in point for point, _ in scored) and len({identity(point[one.key]) for point, _ in scored}) > 1
    ]


def _shares(parameters: Sequence[Parameter], scored: Scored) -> dict[str, tuple[float, float]]:
    """Returns the share and the one that chance gives, by key."""
    scores = np.array([score for _, score in scored])
    if len(scored) < FEWEST or not parameters or np.ptp(scores) == 0:
        return {}
    rows = [{one.key: _coordinate(one, point[one.key]) for one in parameters} for point, _ in scored]
    found = _fanova(parameters, rows, scores)
    generator = np.random.default_rng(SEED)
    shuffled = [_fanova(parameters, rows, generator.permutation(scores)) for _ in range(SHUFFLES)]
    return {key: (share, max(one[key] for one in shuffled)) for key, share in found.items()}


def _fanova(parameters: Sequence[Parameter], rows: Sequence[dict[str, Any]], scores: np.ndarray) -> dict[str, float]:
    # Optuna takes a second to import, and only a report needs it.
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {one.key: _distribution(one, [row[one.key] for row in rows]) for one in parameters}
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(params=row, distributions=distributions, value=float(score))
            for row, score in zip(rows, scores, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED).evaluate(study)
    return {key: float(share) for key, share in shares.items()}


def _coordinate(parameter: Parameter, value: Any) -> Any:
    """Returns what a study holds for a value: fANOVA weighs a range evenly, so what is drawn by its logarithm enters
    as one; a category enters as text, for a study knows few types."""
    if parameter.categorical:
        return identity(value)
    return math.log10(value) if parameter.logarithmic else float(value)


def _distribution(parameter: Parameter, values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if parameter.categorical:
        return CategoricalDistribution(sorted(set(values)))
    low, high = (_coordinate(parameter, end) for end in (parameter.low, parameter.high))
    return FloatDistribution(min(low, *values), max(high, *values))  # mutated ones may lie outside
