"""How the report names metrics and strategies, and puts strategies in order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.metrics import metric

Results = Mapping[str, Any]  # the content of results.json

MEASUREMENTS = ("length_ratio", "distinct_1", "distinct_2", "model_score", "seconds", "sentences_per_second")
"""Numbers of a strategy that are no scores."""

TITLES = {
    "greedy": "Greedy decoding",
    "sample": "Sampling",
    "beam": "Beam search",
    "mbr": "MBR",
    "best": "Best of samples",
}
COUNTED = {
    ("beam", "size"): "Beam search {}",
    ("mbr", "samples"): "MBR of {} samples",
    ("best", "samples"): "Best of {} samples",
}
"""Options that a title has a place of its own for."""
SIGNS = {"temperature": "T = {}", "samples": "×{}", "utility": "by {}"}
ABOUT = {
    "greedy": "Greedy decoding takes the likeliest word at every step and never looks back.",
    "beam": "Beam search keeps several of the likeliest unfinished outputs alive, so a good ending can rescue a "
    "modest beginning.",
    "sample": "Sampling draws each word at random by its probability: varied, but one unlucky draw misleads the rest. "
    "A temperature T below 1 makes likely words likelier still.",
    "mbr": "MBR, minimum Bayes risk, draws many samples and takes the one that is most like all of them: not the "
    "likeliest output, but the one with most friends.",
    "best": "Best of samples draws many samples and takes the one that the model finds likeliest.",
}


def finite(value: Any) -> float | None:
    """Returns a number that can be drawn, None for anything else (missing, text, NaN, infinity)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def samples(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Returns mean and standard deviation of metric `name` over several samples, where a strategy has them."""
    known = row.get("samples") or {}
    mean, deviation = (finite((known.get(key) or {}).get(name)) for key in ("mean", "deviation"))
    return None if mean is None or deviation is None else (mean, deviation)


def kind(strategy: str) -> str:
    """Returns the kind of a strategy as it is spelled: ``beam`` of ``beam:size=10``."""
    return strategy.partition(":")[0]


def spelled(strategy: str) -> dict[str, str]:
    """Returns the options in a strategy's spelling, such as ``{"size": "10"}``."""
    options = (option.partition("=") for option in strategy.partition(":")[2].split(",") if option)
    return {key: value for key, _, value in options}


def title(strategy: str) -> str:
    """Returns the name that opens a sentence or labels a row, such as ``Beam search 10``."""
    what = kind(strategy)
    if what not in TITLES:
        return strategy
    name, notes = TITLES[what], []
    for key, value in spelled(strategy).items():
        if (what, key) in COUNTED:
            name = COUNTED[what, key].format(value)
        else:
            notes.append(SIGNS.get(key, key.replace("_", " ") + " {}").format(value))
    return f"{name} ({', '.join(notes)})" if notes else name


def short(strategy: str) -> str:
    """Returns the name used inside a sentence, such as ``sampling``."""
    name = title(strategy)
    if kind(strategy) not in TITLES or name.startswith("MBR"):
        return name
    name = name[0].lower() + name[1:]
    return name.replace("greedy decoding", "greedy")


def metric_names(results: Results) -> list[str]:
    """Returns the scores that any strategy has, the headline metric first."""
    rows = results["strategies"].values()
    names = dict.fromkeys(name for row in rows for name, value in row.items() if finite(value) is not None)
    found = [name for name in names if name not in MEASUREMENTS]
    return sorted(found, key=lambda name: name != results.get("headline"))


def ranking(results: Results, name: str) -> list[str]:
    """Returns the strategies from best to worst by metric `name`; those without a score come last."""
    sign = -1.0 if metric(name).higher_is_better else 1.0

    def key(strategy: str) -> float:
        value = finite(results["strategies"][strategy].get(name))
        return math.inf if value is None else sign * value

    return sorted(results["strategies"], key=key)


def scored(results: Results, name: str) -> list[str]:
    """Returns the strategies that have a score, from best to worst."""
    return [one for one in ranking(results, name) if finite(results["strategies"][one].get(name)) is not None]


def first_of_kinds(strategies: Sequence[str]) -> list[str]:
    """Returns the first strategy of each kind: more lines than kinds are hard to tell apart."""
    return list({kind(name): name for name in reversed(strategies)}.values())[::-1]


def joined(parts: Sequence[str]) -> str:
    """Returns the parts as a readable list: ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
