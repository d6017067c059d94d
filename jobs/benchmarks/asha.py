"""What stopping trials early saves, and what it loses."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Figure, figure
from tuning import ROOT, tune
from unrolled.training import checkpoint

CONFIG = ROOT / "configs" / "language_modeling" / "asha.yaml"
TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"


def asha(quick: bool) -> Iterator[Figure]:
    """ASHA against training every point to its end, on the character model of `CONFIG`, for several seeds.

    Both draw the same points. `asha/cost` counts updates, those included that a trial makes until it hears that it is
    stopped; `asha/loss` compares the best validation losses of trials that were trained to their end.
    """
    if not TEXT.is_file():
        print(f"asha: left out, there is no {TEXT}", file=sys.stderr)
        return
    seeds = (1,) if quick else (1, 2, 3)
    less = ["tuning.trials=12", "training.max_steps=40", "training.validate_every=4"] if quick else []
    costs, losses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            given = [f"storage={scratch}", f"seed={seed}", *less]
            stopped = tune(CONFIG, *given, f"name=asha{seed}")
            whole = tune(CONFIG, *given, f"name=whole{seed}", "tuning.scheduler=none")
            assert _points(stopped) == _points(whole)
            costs.append(_updates(stopped) / _updates(whole))
            losses.append(_best(stopped) / _best(whole))
    goals = (None, None) if quick else (0.333, 1.01)  # so short trainings say little of longer ones
    yield figure("asha/cost", costs, goal=goals[0], better="lower", baseline="all updates")
    yield figure("asha/loss", losses, goal=goals[1], better="lower", baseline="best of all")


def _trials(sweep: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["trials"]
    return trials


def _points(sweep: Path) -> dict[str, Any]:
    return {trial["name"]: (trial["seed"], trial["parameters"]) for trial in _trials(sweep)}


def _updates(sweep: Path) -> int:
    """All that the trials made; a trial that diverged may have made some after its last checkpoint."""
    made = 0
    for trial in _trials(sweep):
        newest = checkpoint.last(sweep / "trials" / trial["name"] / "checkpoints")
        made += max(trial.get("steps", 0), 0 if newest is None else checkpoint.step_of(newest))
    return made


def _best(sweep: Path) -> float:
    return min(trial["scores"]["loss"] for trial in _trials(sweep) if trial["state"] == "finished")
