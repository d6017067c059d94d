"""The report of an evaluation: one HTML file that opens without a network and is pleasant to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unrolled.evaluation.charts import colours, length_chart, score_charts, training_charts
from unrolled.evaluation.comparison import page_rows
from unrolled.evaluation.page import Card, facts, size_and_training, write_page
from unrolled.evaluation.wording import (
    ABOUT,
    Results,
    finite,
    headline,
    metric_names,
    ranking,
    short,
    title,
)
from unrolled.metrics import metric


def write_report(
    results: dict[str, Any],
    outputs: list[dict[str, Any]],
    history: list[dict[str, Any]],
    config_yaml: str,
    path: Path,
) -> None:
    """Writes the evaluation as one self-contained HTML file of at most 6 MB.

    Args:
        results: the content of results.json; intervals, lengths and single metrics may be missing.
        outputs: the rows of outputs.jsonl. Of many, the page shows an even selection of about 1,000.
        history: the rows of metrics.jsonl; empty where the training is not known.
        config_yaml: the resolved config of the run.
        path: the file to write; its folder is made.
    """
    charts = {
        "scores": score_charts(results),
        "length": [chart] if (chart := length_chart(results)) else [],
        "training": training_charts(history, results.get("headline", "")),
    }
    names = _ranked(results)
    examples = page_rows(outputs, names[0])
    write_page(
        path,
        "report.html.j2",
        charts,
        results=results,
        headline=headline(results),
        summary=_summary(results, names),
        cards=_cards(results, history, names[0]),
        metrics=[metric(name).label for name in metric_names(results)],
        table=_table(results, names),
        about=[ABOUT[name] for name in ("greedy", "beam", "sample") if name in names],
        examples=examples,
        # The order of the run, so that an example's lines stay where they are from report to report.
        strategies=[{"name": name, "title": title(name), "colour": colour} for name, colour in colours(names).items()],
        signatures=_signatures(results),
        facts=facts(results),
        config_yaml=config_yaml,
    )


def _ranked(results: Results) -> list[str]:
    """Returns the strategies from best to worst, in the run's order where nothing was scored."""
    names = metric_names(results)
    return ranking(results, names[0]) if names else list(results["strategies"])


def _summary(results: Results, names: Sequence[str]) -> str:
    """Returns the sentence below the headline: on what, how certain, at what price."""
    data = results.get("data") or {}
    pair = f", {data['input']} → {data['target']}" if data.get("input") and data.get("target") else ""
    parts = [f"Measured on {results['examples']:,} examples of the {results['split']} split{pair}."]
    metrics = metric_names(results)
    best = results["strategies"][names[0]]
    if metrics and (interval := (best.get("intervals") or {}).get(metrics[0])):
        low, high = (metric(metrics[0]).text(end) for end in interval)
        parts.append(f"With 95 % confidence the score lies between {low} and {high}.")
    speeds = {name: finite(row.get("sentences_per_second")) or 0.0 for name, row in results["strategies"].items()}
    fastest = max(speeds, key=lambda name: speeds[name])
    if speeds[names[0]] > 0 and (ratio := speeds[fastest] / speeds[names[0]]) >= 1.1:
        parts.append(f"{title(fastest)} is {ratio:.1f} times as fast.")
    return " ".join(parts)


def _cards(results: Results, history: Sequence[Mapping[str, Any]], leader: str) -> list[Card]:
    """Returns the main numbers: each metric's best, then speed, size and training."""
    cards = []
    for name in metric_names(results)[:3]:
        best = ranking(results, name)[0]
        row = results["strategies"][best]
        notes = [note for note in (short(best), _interval(row, name)) if note]
        cards.append(Card(metric(name).label, metric(name).text(row[name]), notes))
    if speed := finite(results["strategies"][leader].get("sentences_per_second")):
        cards.append(Card("Speed", f"{speed:,.0f}", ["outputs a second", short(leader)]))
    return cards + size_and_training(results, history)


def _table(results: Results, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row a strategy, best first; where several compete, the best score of a metric is marked."""
    paint = colours(list(results["strategies"]))
    tops = {name: ranking(results, name)[0] for name in metric_names(results)}
    rows = []
    for strategy in names:
        row = results["strategies"][strategy]
        scores = []
        for name, top in tops.items():
            known = metric(name)
            text = known.text(finite(row.get(name)))
            is_best = len(names) > 1 and text == known.text(finite(results["strategies"][top].get(name)))
            scores.append({"text": text, "interval": _interval(row, name), "best": is_best})
        rows.append(
            {
                "title": title(strategy),
                "colour": paint[strategy],
                "scores": scores,
                "ratio": _number(row.get("length_ratio"), "{:.2f}"),
                "speed": _number(row.get("sentences_per_second"), "{:,.0f}"),
                "settings": [
                    f"{key.replace('_', ' ')} {value}"
                    for key, value in (row.get("settings") or {}).items()
                    if value is not None
                ],
            }
        )
    return rows


def _signatures(results: Results) -> list[dict[str, str]]:
    """Returns each distinct signature once, with the strategies it belongs to where they differ."""
    users: dict[tuple[str, str], list[str]] = {}
    for strategy, row in results["strategies"].items():
        for name, signature in (row.get("signatures") or {}).items():
            users.setdefault((name, signature), []).append(title(strategy))
    count = len(results["strategies"])
    return [
        {"label": metric(name).label, "text": text, "users": "" if len(who) == count else ", ".join(who)}
        for (name, text), who in users.items()
    ]


def _interval(row: Mapping[str, Any], name: str) -> str:
    interval = (row.get("intervals") or {}).get(name)
    return f"{interval[0]:.1f}–{interval[1]:.1f}" if interval else ""


def _number(value: Any, form: str) -> str:
    number = finite(value)
    return "–" if number is None else form.format(number)
