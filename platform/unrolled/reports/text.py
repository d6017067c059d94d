"""Sentences, names and numbers of evaluation reports.

The sentences claim no more than the significance tests show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unrolled.metrics import metric_info

Results = Mapping[str, Any]
"""The content of results.json."""

MEASUREMENTS = ("length_ratio", "distinct_1", "distinct_2", "model_score", "seconds", "sentences_per_second")
"""Numbers of a strategy that are not scores."""

TITLES = {
    "greedy": "Greedy decoding",
    "sample": "Sampling",
    "beam": "Beam search",
    "mbr": "MBR",
    "best": "Best of samples",
}
TITLES_WITH_OPTION = {
    ("beam", "size"): "Beam search {}",
    ("mbr", "samples"): "MBR of {} samples",
    ("best", "samples"): "Best of {} samples",
}
"""Options that are part of the title; others follow in brackets."""
OPTION_FORMATS = {"temperature": "T = {}", "samples": "×{}", "utility": "by {}"}
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
    """Returns a finite number as a float, None for anything else (missing, text, NaN, infinity)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def sample_statistics(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Returns mean and standard deviation of metric `name` over the samples of a strategy; None without samples."""
    known = row.get("samples") or {}
    mean, deviation = (finite((known.get(key) or {}).get(name)) for key in ("mean", "deviation"))
    return None if mean is None or deviation is None else (mean, deviation)


def strategy_kind(strategy: str) -> str:
    """Returns the kind of a strategy: ``beam`` of ``beam:size=10``."""
    return strategy.partition(":")[0]


def strategy_options(strategy: str) -> dict[str, str]:
    """Returns the options of a strategy: ``{"size": "10"}`` of ``beam:size=10``."""
    options = (option.partition("=") for option in strategy.partition(":")[2].split(",") if option)
    return {key: value for key, _, value in options}


def strategy_title(strategy: str) -> str:
    """Returns the name that opens a sentence or labels a row, such as ``Beam search 10``."""
    kind = strategy_kind(strategy)
    if kind not in TITLES:
        return strategy
    name, notes = TITLES[kind], []
    for key, value in strategy_options(strategy).items():
        if (kind, key) in TITLES_WITH_OPTION:
            name = TITLES_WITH_OPTION[kind, key].format(value)
        else:
            notes.append(OPTION_FORMATS.get(key, key.replace("_", " ") + " {}").format(value))
    return f"{name} ({', '.join(notes)})" if notes else name


def short_title(strategy: str) -> str:
    """Returns the name used inside a sentence, such as ``sampling``."""
    name = strategy_title(strategy)
    if strategy_kind(strategy) not in TITLES or name.startswith("MBR"):
        return name
    name = name[0].lower() + name[1:]
    return name.replace("greedy decoding", "greedy")


def metric_names(results: Results) -> list[str]:
    """Returns the metrics that any strategy has, the headline metric first."""
    rows = results["strategies"].values()
    names = dict.fromkeys(name for row in rows for name, value in row.items() if finite(value) is not None)
    scores = [name for name in names if name not in MEASUREMENTS]
    return sorted(scores, key=lambda name: name != results.get("headline"))


def rank_strategies(results: Results, name: str) -> list[str]:
    """Returns the strategies from best to worst by metric `name`; those without a score come last."""
    sign = -1.0 if metric_info(name).higher_is_better else 1.0

    def key(strategy: str) -> float:
        value = finite(results["strategies"][strategy].get(name))
        return math.inf if value is None else sign * value

    return sorted(results["strategies"], key=key)


def scored_strategies(results: Results, name: str) -> list[str]:
    """Returns the strategies that have a score of metric `name`, from best to worst."""
    return [one for one in rank_strategies(results, name) if finite(results["strategies"][one].get(name)) is not None]


def best_of_kinds(strategies: Sequence[str]) -> list[str]:
    """Returns the first strategy of each kind, of which a chart can show a line each."""
    return list({strategy_kind(name): name for name in reversed(strategies)}.values())[::-1]


def joined(parts: Sequence[str]) -> str:
    """Returns the parts as a list in words: ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def truncated(text: str, length: int) -> str:
    """Returns at most `length` characters of a text; an ellipsis stands for the rest."""
    return text if len(text) <= length else text[: length - 1] + "…"


def uncapitalized(label: str) -> str:
    """Returns a label as it stands inside a sentence: ``exact match``, but ``BLEU``."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


LEVEL = 0.05
"""Significance level of all tests."""


def differ_significantly(results: Results, name: str, one: str, other: str) -> bool | None:
    """Returns whether two strategies differ significantly by metric `name` after Holm's correction; None without a
    test."""
    p = _p(results, name, "corrected", one, other)
    if p is not None:
        return p <= LEVEL
    rows = results["strategies"]
    letters = [set((rows[each].get("letters") or {}).get(name) or "") for each in (one, other)]
    return not letters[0] & letters[1] if all(letters) else None


def significance_letters(results: Results, strategy: str, name: str) -> str:
    """Returns the significance letters of a strategy; an empty text where nothing was tested."""
    rows = results["strategies"]
    return (rows[strategy].get("letters") or {}).get(name) or "" if len(rows) > 1 else ""


def significance_tables(results: Results) -> list[dict[str, Any]]:
    """Returns a table per metric of the Holm-corrected p-values of all pairs of strategies, best first."""
    tables = []
    for name in metric_names(results):
        systems = [
            one for one in scored_strategies(results, name) if _p(results, name, "corrected", one, one) is not None
        ]
        if len(systems) < 2:
            continue
        rows = []
        for one in systems:
            cells = [_cell(results, name, one, other) if other != one else None for other in systems]
            rows.append({"title": strategy_title(one), "cells": cells})
        tables.append({"label": metric_info(name).label, "rows": rows})
    return tables


def _cell(results: Results, name: str, one: str, other: str) -> dict[str, Any]:
    raw, p = (_p(results, name, which, one, other) for which in ("p", "corrected"))
    return {
        "text": "–" if p is None else written_p(p),
        "raw": "" if raw is None else f"uncorrected {written_p(raw)}",
        "differ": p is not None and p <= LEVEL,
    }


def written_p(p: float) -> str:
    """Returns a p-value to three digits; below 0.001 as ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p(results: Results, name: str, which: str, one: str, other: str) -> float | None:
    comparison = (results.get("comparisons") or {}).get(name) or {}
    systems = comparison.get("systems") or []
    if which not in comparison or one not in systems or other not in systems:
        return None
    return finite(comparison[which][systems.index(one)][systems.index(other)])


FEW = 3
"""Strategies that a sentence can name."""


def headline(results: Results) -> str:
    """Returns the main result in one sentence: the best strategy, its score, and its lead over the others.

    Leads are differences of the printed numbers.
    """
    names = metric_names(results)
    if not names:
        return f"{results['examples']:,} outputs, not scored."
    best, *others = scored_strategies(results, names[0])
    claim = _claim(results, names[0], best)
    if not others:
        return f"{claim}."
    ties = _ties(results, names[0])
    if len(others) <= FEW:
        leads = [_lead(results, names[0], other) + short_title(other) for other in others if other not in ties]
        if ties:
            leads.append(f"not significantly different from {joined([short_title(other) for other in ties])}")
        return f"{claim}, {joined(leads)}."
    if ties:
        who = joined([short_title(other) for other in ties]) if len(ties) <= FEW else f"{len(ties)} others"
        return f"{claim}; {who} {'do' if len(ties) > 1 else 'does'} not differ significantly from it."
    if all(differ_significantly(results, names[0], best, other) for other in others):
        return f"{claim}, significantly {_side(names[0])} all {len(others)} others."
    return (
        f"{claim}, {_lead(results, names[0], others[0])}{short_title(others[0])}, the next best of {len(others) + 1}."
    )


def summary(results: Results) -> str:
    """Returns the sentences below the headline: data, confidence interval, significance and speed."""
    data = results.get("data") or {}
    pair = f", {data['input']} → {data['target']}" if data.get("input") and data.get("target") else ""
    parts = [f"Measured on {results['examples']:,} examples of the {results['split']} split{pair}."]
    names = metric_names(results)
    best = scored_strategies(results, names[0])[0] if names else next(iter(results["strategies"]))
    if names and (interval := (results["strategies"][best].get("intervals") or {}).get(names[0])):
        low, high = (metric_info(names[0]).format(end) for end in interval)
        parts.append(f"With 95 % confidence the score lies between {low} and {high}.")
    parts += _significance(results, names[0]) if names else []
    parts += _speed(results, best, _ties(results, names[0]) if names else [])
    return " ".join(parts)


def _significance(results: Results, name: str) -> list[str]:
    """Returns which strategies differ significantly from the best, as far as the headline does not say so."""
    best, *others = scored_strategies(results, name)
    ties = _ties(results, name)
    worse = [other for other in others if differ_significantly(results, name, best, other)]
    parts = []
    if len(others) > FEW and len(ties) > FEW:
        parts.append(f"No significant difference from it: {joined([short_title(other) for other in ties])}.")
    if worse and len(others) <= FEW:
        which = (
            joined([short_title(other) for other in worse]) if ties else "all others" if len(worse) > 1 else "the other"
        )
        parts.append(f"The lead over {which} is significant.")
    elif worse and ties:
        count = f"{len(worse)} others are" if len(worse) > 1 else "One other is"
        nearest = f"{short_title(worse[0])}, by {_distance(results, name, worse[0])}"
        parts.append(f"{count} significantly worse{'; the nearest,' if len(worse) > 1 else ':'} {nearest}.")
    return parts


def _speed(results: Results, best: str, ties: list[str]) -> list[str]:
    """Returns which strategy is faster than the best, if possible one that does not differ from it significantly."""
    rows = results["strategies"]
    speeds = {name: finite(row.get("sentences_per_second")) or 0.0 for name, row in rows.items()}
    if speeds[best] <= 0:
        return []
    equal = max(ties, key=lambda name: speeds[name], default=best)
    fastest = max(speeds, key=lambda name: speeds[name])
    if (ratio := speeds[equal] / speeds[best]) >= 1.1:
        faster = f"{short_title(equal)} is fastest: {ratio:.1f} times as fast as {short_title(best)}"
        return [f"Of those that do not differ, {faster}."]
    if (ratio := speeds[fastest] / speeds[best]) >= 1.1:
        return [f"{strategy_title(fastest)} is {ratio:.1f} times as fast."]
    return []


def _ties(results: Results, name: str) -> list[str]:
    """Returns the other strategies that do not differ significantly from the best."""
    best, *others = scored_strategies(results, name)
    return [other for other in others if differ_significantly(results, name, best, other) is False]


def _claim(results: Results, name: str, best: str) -> str:
    """Returns the first clause of the headline, with a verb that suits the metric."""
    known, score = metric_info(name), results["strategies"][best][name]
    if name == "exact_match":
        return f"{strategy_title(best)} gets {known.format(score)} of the outputs exactly right"
    if known.higher_is_better and not known.unit:
        return f"{strategy_title(best)} scores {known.format(score)} {known.label}"
    return f"{strategy_title(best)} reaches {known.label.lower()} {known.format(score)}"


def _lead(results: Results, name: str, other: str) -> str:
    """Returns the lead of the best over another strategy: ``1.1 points above ``."""
    distance = _distance(results, name, other)
    return f"{distance} {_side(name)} " if distance else "level with "


def _distance(results: Results, name: str, other: str) -> str:
    best, known = scored_strategies(results, name)[0], metric_info(name)
    one, two = (round(results["strategies"][each][name], known.digits) for each in (best, other))
    distance = round(abs(one - two), known.digits)
    return f"{distance:.{known.digits}f}{' points' if known.unit else ''}" if distance else ""


def _side(name: str) -> str:
    return "above" if metric_info(name).higher_is_better else "below"
