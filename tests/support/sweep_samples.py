"""Made-up sweeps of known truth, as `unrolled tune` writes them."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

CELLS = {"rnn": 0.35, "lstm": 0.0, "gru": 0.03, "mut1": 0.06}
"""What each cell adds to the loss at the end."""
TRUNCATIONS = {5: 0.25, 20: 0.08, 50: 0.0, None: 0.0}
RUNGS = (100, 200, 400)
SPACE = {
    "model.cell": {"kind": "choice", "values": list(CELLS)},
    "training.truncate": {"kind": "choice", "values": list(TRUNCATIONS)},
    "training.clipping.kind": {"kind": "choice", "values": ["none", "value", "norm"]},
    "training.clipping.threshold": {
        "kind": "loguniform",
        "low": 0.01,
        "high": 10,
        "when": {"training.clipping.kind": ["value", "norm"]},
    },
    "model.hidden": {"kind": "randint", "low": 64, "high": 512},
    "model.dropout": {"kind": "uniform", "low": 0.0, "high": 0.5},
    "model.tied": {"kind": "choice", "values": [True, False]},
}
CONFIG = "task: language_modeling\nname: winner\nmodel:\n  cell: lstm\n  hidden: 256\ntraining:\n  truncate: 50\n"


def draw(rng: random.Random) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, space in SPACE.items():
        if any(point.get(other) not in values for other, values in space.get("when", {}).items()):
            continue
        if space["kind"] == "choice":
            point[key] = rng.choice(space["values"])
        elif space["kind"] == "randint":
            point[key] = rng.randint(space["low"], space["high"])
        elif space["kind"] == "uniform":
            point[key] = rng.uniform(space["low"], space["high"])
        else:
            point[key] = math.exp(rng.uniform(math.log(space["low"]), math.log(space["high"])))
    return point


def loss(point: dict[str, Any], step: int) -> float:
    """The truth without noise: additive, so that the order of importance is known."""
    end = 1.45 + CELLS[point["model.cell"]] + TRUNCATIONS[point["training.truncate"]]
    end += 0.03 * abs(math.log10(point.get("training.clipping.threshold", 1.0)))
    return end + 1.8 * math.exp(-step / 120)


def diverges(point: dict[str, Any], rng: random.Random) -> bool:
    risk = {"none": 0.6, "value": 0.15, "norm": 0.05}[point["training.clipping.kind"]]
    return rng.random() < risk * (1.4 if point["model.cell"] == "rnn" else 0.5)


def trial(name: str, number: int, seed: int, point: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One that runs to its end, unless it diverges."""
    noise = rng.gauss(0, 0.015)
    history = [{"step": step, "scores": {"loss": loss(point, step) + noise + rng.gauss(0, 0.01)}} for step in RUNGS]
    threshold = point.get("training.clipping.threshold")
    norm = (1.6 if point["model.cell"] == "rnn" else 0.7) * rng.lognormvariate(0, 0.3)
    row = {
        "name": name,
        "point": number,
        "seed": seed,
        "parameters": point,
        "state": "finished",
        "scores": history[-1]["scores"],
        "steps": RUNGS[-1],
        "seconds": 20.0 + 0.02 * point["model.hidden"],
        "tokens_per_second": 9000.0 * 128 / point["model.hidden"] * (2 if point["model.cell"] == "rnn" else 1),
        "history": history,
        "gradient_norm": {"median": norm, "largest": norm * rng.uniform(3, 40)},
        "clipped": 0.0 if threshold is None else 1 / (1 + (threshold / norm) ** 2),
        "reason": None,
    }
    if diverges(point, rng):
        row |= {"state": "diverged", "scores": {}, "steps": 130, "history": history[:1]}
        row |= {"gradient_norm": {"median": norm * 8, "largest": 4e7}, "reason": "step 130: loss is not finite"}
    return row


def stop_early(trials: list[dict[str, Any]], eta: int = 2) -> None:
    """Asynchronous halving with all trials at once: at each rung the better half goes on."""
    going = [one for one in trials if one["state"] == "finished"]
    for rung, step in enumerate(RUNGS[:-1]):
        going.sort(key=lambda one: one["history"][rung]["scores"]["loss"])
        kept = -(-len(going) // eta)
        for one in going[kept:]:
            one |= {"state": "stopped", "steps": step, "history": one["history"][: rung + 1]}
            one |= {"scores": one["history"][-1]["scores"], "seconds": one["seconds"] * step / RUNGS[-1]}
        going = going[:kept]


def some_sweep(points: int = 40, seeds: int = 1, asha: bool = True, seed: int = 1) -> dict[str, Any]:
    rng = random.Random(seed)
    trials = []
    for number in range(points):
        point = draw(rng)
        for one in range(1, seeds + 1):
            trials.append(trial(f"{len(trials) + 1:04}", number, one, point, rng))
    if asha:
        stop_early(trials)
    finished = [one for one in trials if one["state"] == "finished"]
    best = min(finished, key=lambda one: one["scores"]["loss"], default=None)
    return {
        "name": "cells",
        "task": "language_modeling",
        "command": "unrolled tune configs/language_modeling/sweep.yaml --trials 40",
        "created": "2026-11-26T05:00:00+00:00",
        "version": "0.1.0",
        "metric": ["loss"],
        "mode": ["min"],
        "sampler": "random",
        "scheduler": "asha" if asha else None,
        "seeds": seeds,
        "seconds": 812.0,
        "workers": 2,
        "space": copy.deepcopy(SPACE),
        "trials": trials,
        "best": best and best["name"],
        "best_config": best and CONFIG,
    }


def two_objectives(points: int = 30) -> dict[str, Any]:
    """BLEU against speed: larger is better in both, and nothing was stopped early."""
    sweep = some_sweep(points, asha=False) | {"metric": ["bleu", "tokens_per_second"], "mode": ["max", "max"]}
    for one in sweep["trials"]:
        speed = one["tokens_per_second"]

        def scores(old: dict[str, float], speed: float = speed) -> dict[str, float]:
            return {"bleu": 60 - 15 * old["loss"], "tokens_per_second": speed} if old else {}

        one["scores"] = scores(one["scores"])
        one["history"] = [row | {"scores": scores(row["scores"])} for row in one["history"]]
    return sweep


def all_diverged(points: int = 8) -> dict[str, Any]:
    sweep = some_sweep(points, asha=False)
    for one in sweep["trials"]:
        one |= {"state": "diverged", "scores": {"loss": math.nan}, "steps": 10, "history": [], "reason": "not finite"}
    return sweep | {"best": None, "best_config": None}


def one_trial() -> dict[str, Any]:
    sweep = some_sweep(40)
    only = [one for one in sweep["trials"] if one["state"] == "finished"][:1]
    return sweep | {"trials": only, "best": only[0]["name"], "best_config": CONFIG}


def bare() -> dict[str, Any]:
    """The least that a sweep may say of itself."""
    keys = ("name", "point", "seed", "parameters", "state", "scores")
    sweep = some_sweep(12, asha=False)
    trials = [{key: one[key] for key in keys} for one in sweep["trials"]]
    return {key: sweep[key] for key in ("name", "task", "command", "created", "version", "metric", "mode", "space")} | {
        "trials": trials
    }
