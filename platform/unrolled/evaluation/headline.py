"""The sentences that the report opens with. They say what the tests of significance say, and no more."""

from __future__ import annotations

from unrolled.evaluation.significance import differ
from unrolled.evaluation.wording import Results, finite, joined, metric_names, scored, short, title
from unrolled.metrics import metric

FEW = 3  # strategies that a sentence can name


def headline(results: Results) -> str:
    """Returns the finding in one sentence: the best strategy, its score, and how it stands to the others.

    Leads are differences of the numbers as printed, so a reader who subtracts finds the same.
    """
    names = metric_names(results)
    if not names:
        return f"{results['examples']:,} outputs, not scored."
    best, *others = scored(results, names[0])
    claim = _claim(results, names[0], best)
    if not others:
        return f"{claim}."
    level = _level(results, names[0])
    if len(others) <= FEW:
        leads = [_lead(results, names[0], other) + short(other) for other in others if other not in level]
        if level:
            leads.append(f"not significantly different from {joined([short(other) for other in level])}")
        return f"{claim}, {joined(leads)}."
    if level:
        who = joined([short(other) for other in level]) if len(level) <= FEW else f"{len(level)} others"
        return f"{claim}; {who} {'do' if len(level) > 1 else 'does'} not differ significantly from it."
    if all(differ(results, names[0], best, other) for other in others):
        return f"{claim}, significantly {_side(names[0])} all {len(others)} others."
    return f"{claim}, {_lead(results, names[0], others[0])}{short(others[0])}, the next best of {len(others) + 1}."


def summary(results: Results) -> str:
    """Returns the sentences below the headline: on what, how certain, at what price."""
    data = results.get("data") or {}
    pair = f", {data['input']} → {data['target']}" if data.get("input") and data.get("target") else ""
    parts = [f"Measured on {results['examples']:,} examples of the {results['split']} split{pair}."]
    names = metric_names(results)
    best = scored(results, names[0])[0] if names else next(iter(results["strategies"]))
    if names and (interval := (results["strategies"][best].get("intervals") or {}).get(names[0])):
        low, high = (metric(names[0]).text(end) for end in interval)
        parts.append(f"With 95 % confidence the score lies between {low} and {high}.")
    parts += _significance(results, names[0]) if names else []
    parts += _speed(results, best, _level(results, names[0]) if names else [])
    return " ".join(parts)


def _significance(results: Results, name: str) -> list[str]:
    """Returns what the headline has no room for: who is level with the best, who is not."""
    best, *others = scored(results, name)
    level = _level(results, name)
    worse = [other for other in others if differ(results, name, best, other)]
    parts = []
    if len(others) > FEW and len(level) > FEW:
        parts.append(f"No significant difference from it: {joined([short(other) for other in level])}.")
    if worse and len(others) <= FEW:
        which = joined([short(other) for other in worse]) if level else "all others" if len(worse) > 1 else "the other"
        parts.append(f"The lead over {which} is significant.")
    elif worse and level:
        count = f"{len(worse)} others are" if len(worse) > 1 else "One other is"
        nearest = f"{short(worse[0])}, by {_distance(results, name, worse[0])}"
        parts.append(f"{count} significantly worse{'; the nearest,' if len(worse) > 1 else ':'} {nearest}.")
    return parts


def _speed(results: Results, best: str, level: list[str]) -> list[str]:
    """Returns who is faster than the best: if there is one, among those that do not differ from it."""
    rows = results["strategies"]
    speeds = {name: finite(row.get("sentences_per_second")) or 0.0 for name, row in rows.items()}
    if speeds[best] <= 0:
        return []
    equal = max(level, key=lambda name: speeds[name], default=best)
    fastest = max(speeds, key=lambda name: speeds[name])
    if (ratio := speeds[equal] / speeds[best]) >= 1.1:
        return [f"Of those that do not differ, {short(equal)} is fastest: {ratio:.1f} times as fast as {short(best)}."]
    if (ratio := speeds[fastest] / speeds[best]) >= 1.1:
        return [f"{title(fastest)} is {ratio:.1f} times as fast."]
    return []


def _level(results: Results, name: str) -> list[str]:
    """Returns the strategies that do not differ significantly from the best, without it."""
    best, *others = scored(results, name)
    return [other for other in others if differ(results, name, best, other) is False]


def _claim(results: Results, name: str, best: str) -> str:
    """Returns the first half of the headline, with a verb that suits the metric."""
    known, score = metric(name), results["strategies"][best][name]
    if name == "exact_match":
        return f"{title(best)} gets {known.text(score)} of the outputs exactly right"
    if known.higher_is_better and not known.unit:
        return f"{title(best)} scores {known.text(score)} {known.label}"
    return f"{title(best)} reaches {known.label.lower()} {known.text(score)}"


def _lead(results: Results, name: str, other: str) -> str:
    """Returns how far the best is from another: ``1.1 points above ``."""
    distance = _distance(results, name, other)
    return f"{distance} {_side(name)} " if distance else "level with "


def _distance(results: Results, name: str, other: str) -> str:
    best, known = scored(results, name)[0], metric(name)
    one, two = (round(results["strategies"][each][name], known.digits) for each in (best, other))
    distance = round(abs(one - two), known.digits)
    return f"{distance:.{known.digits}f}{' points' if known.unit else ''}" if distance else ""


def _side(name: str) -> str:
    return "above" if metric(name).higher_is_better else "below"
