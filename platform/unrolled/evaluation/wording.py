"""How the report names metrics and strategies, and the sentence it opens with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unrolled.metrics import metric

Results = Mapping[str, Any]  # the content of results.json


MEASUREMENTS = ("length_ratio", "seconds", "sentences_per_second")  # numbers of a strategy that are no scores

TITLES = {"greedy": "Greedy decoding", "sample": "Sampling", "beam": "Beam search"}
SHORT = {"greedy": "greedy", "sample": "sampling", "beam": "beam search"}
ABOUT = {
    "greedy": "Greedy decoding takes the likeliest word at every step and never looks back.",
    "sample": "Sampling draws each word at random by its probability: varied, but one unlucky draw misleads the rest.",
    "beam": "Beam search keeps several of the likeliest unfinished outputs alive, so a good ending can rescue a "
    "modest beginning; that is why it usually scores above greedy decoding, and greedy above sampling.",
}


def finite(value: Any) -> float | None:
    """Returns a number that can be drawn, None for anything else (missing, text, NaN, infinity)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def title(strategy: str) -> str:
    """Returns the name that opens a sentence or labels a row, such as ``Beam search``."""
    return TITLES.get(strategy, strategy)


def short(strategy: str) -> str:
    """Returns the name used inside a sentence, such as ``sampling``."""
    return SHORT.get(strategy, strategy)


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


def headline(results: Results) -> str:
    """Returns the finding in one sentence: the best strategy, its score, its lead over the others.

    Leads are differences of the numbers as printed, so a reader who subtracts finds the same.
    """
    names = metric_names(results)
    if not names:
        return f"{results['examples']:,} outputs, not scored."
    name = names[0]
    best, *others = ranking(results, name)
    score = round(results["strategies"][best][name], 1)
    leads = []
    for other in others:
        value = finite(results["strategies"][other].get(name))
        if value is not None:
            lead = abs(score - round(value, 1))
            leads.append(_lead(name, lead) + short(other))
    return _claim(name, best, score) + (", " + joined(leads) if leads else "") + "."


def joined(parts: list[str]) -> str:
    """Returns the parts as a readable list: ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _claim(name: str, best: str, score: float) -> str:
    """Returns the first half of the headline, with a verb that suits the metric."""
    known = metric(name)
    if name == "exact_match":
        return f"{title(best)} gets {known.text(score)} of the outputs exactly right"
    if known.higher_is_better and not known.unit:
        return f"{title(best)} scores {known.text(score)} {known.label}"
    return f"{title(best)} reaches {known.label.lower()} {known.text(score)}"


def _lead(name: str, lead: float) -> str:
    if round(lead, 1) == 0:
        return "level with "
    points = " points" if metric(name).unit else ""
    return f"{lead:.1f}{points} {'above' if metric(name).higher_is_better else 'below'} "
