"""The charts of scores: all strategies, and groups of sentences and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.charts import Chart, as_json, colour, layout, symbol
from unrolled.evaluation.wording import (
    Results,
    finite,
    first_of_kinds,
    joined,
    metric_names,
    ranking,
    scored,
    short,
    title,
)
from unrolled.metrics import metric

MANY = 6  # dots in a chart from which they move together


def score_charts(results: Results) -> list[Chart]:
    """Returns one dot chart a metric: a dot a strategy, whiskers for its 95 % interval."""
    return [_score_chart(results, name) for name in metric_names(results)]


def group_charts(results: Results) -> list[Chart]:
    """Returns scores by length of the sentence and by frequency of the word, as far as they were measured."""
    charts = (_length_chart(results), _frequency_chart(results))
    return [chart for chart in charts if chart is not None]


def _score_chart(results: Results, name: str) -> Chart:
    known, strategies = metric(name), scored(results, name)
    many = len(strategies) >= MANY
    figure = go.Figure(
        layout=layout(56 + (34 if many else 52) * len(strategies), showlegend=False, hovermode="closest")
    )
    ends: list[float] = []
    for strategy in strategies:
        row, paint = results["strategies"][strategy], colour(strategy)
        value = row[name]
        low, high = (row.get("intervals") or {}).get(name) or (value, value)
        ends += [low, high]
        figure.add_scatter(
            x=[value],
            y=[title(strategy)],
            mode="markers+text",
            text=[f"<b>{known.text(value)}</b>"],
            textposition="top center",
            textfont={"color": "var(--ink)", "size": 11 if many else 13},
            cliponaxis=False,
            marker={"color": paint, "size": 10 if many else 13, "symbol": symbol(strategy)},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value],
                "arrayminus": [value - low],
                "color": paint,
                "thickness": 2,
                "width": 4 if many else 6,
            },
            hovertemplate=f"{title(strategy)}: {known.text(value)}<br>{low:.1f} to {high:.1f}<extra></extra>",
        )
    margin = 0.12 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - margin, max(ends) + margin], nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    values = joined([f"{short(s)} {known.text(results['strategies'][s][name])}" for s in strategies])
    return Chart(f"score-{name}", known.label, f"Dot chart of {known.label}: {values}.", known.about, as_json(figure))


def _length_chart(results: Results) -> Chart | None:
    """Returns the headline metric by sentence length, or None where no strategy has buckets."""
    buckets = {name: row["by_length"] for name, row in results["strategies"].items() if row.get("by_length")}
    names = [name for name in metric_names(results) if any(name in b for rows in buckets.values() for b in rows)]
    if not names:
        return None
    known = metric(names[0])
    strategies = first_of_kinds([one for one in ranking(results, names[0]) if one in buckets])
    figure = go.Figure(layout=layout(380))
    for strategy in strategies:
        labels = [f"{_span(b)}<br>n = {b['examples']:,}" for b in buckets[strategy]]
        _line(figure, strategy, labels, [finite(b.get(names[0])) for b in buckets[strategy]], known.unit)
    _group_axis(figure, "Words in the input")
    figure.update_yaxes(rangemode="tozero", ticksuffix=known.unit)
    return Chart(
        "by-length",
        f"{known.label} by sentence length",
        f"Line chart: {known.label} by sentence length for {joined([short(name) for name in strategies])}.",
        "Each step of a recurrent model passes on a state of fixed size: a falling line says that longer sentences "
        f"lose more on the way. Groups with few sentences (n) jump about by chance.{_kinds_note(results, strategies)}",
        as_json(figure),
    )


def _frequency_chart(results: Results) -> Chart | None:
    """Returns the F1 of words by how often the training split has them, or None where it was not measured."""
    measured = results.get("by_frequency") or {}
    names = metric_names(results)
    order = ranking(results, names[0]) if names else list(results["strategies"])
    strategies = first_of_kinds([one for one in order if measured.get(one)])
    if not strategies:
        return None
    figure = go.Figure(layout=layout(380))
    for strategy in strategies:
        bins = measured[strategy]
        labels = [f"{b['label'].replace(' times', '')}<br>n = {b['words']:,}" for b in bins]
        f1 = [None if (value := finite(b.get("f1"))) is None else 100 * value for b in bins]
        _line(figure, strategy, labels, f1, "")
    _group_axis(figure, "Times in the training split")
    figure.update_yaxes(rangemode="tozero")
    return Chart(
        "by-frequency",
        "F1 of words by their frequency",
        f"Line chart: F1 by frequency in training for {joined([short(name) for name in strategies])}.",
        "How well the words of the references are hit (F1 of words written and words wanted, 100 is best), by how "
        f"often training showed them; n counts them. Rare words are the hard ones.{_kinds_note(results, strategies)}",
        as_json(figure),
    )


def _line(figure: go.Figure, strategy: str, labels: list[str], values: list[float | None], unit: str) -> None:
    figure.add_scatter(
        x=labels,
        y=values,
        name=title(strategy),
        mode="lines+markers",
        line={"color": colour(strategy), "width": 2},
        marker={"color": colour(strategy), "size": 9, "symbol": symbol(strategy)},
        hovertemplate="%{y:.1f}" + unit,
    )


def _group_axis(figure: go.Figure, text: str) -> None:
    labels = {"tickangle": 0, "tickfont": {"size": 11}}  # five stand beside each other on a phone
    figure.update_xaxes(type="category", showgrid=False, title={"text": text, "font": {"size": 13}}, **labels)


def _kinds_note(results: Results, strategies: list[str]) -> str:
    is_part = len(strategies) < len(results["strategies"])
    return " Drawn is the best strategy of each kind; results.json has all." if is_part else ""


def _span(bucket: Mapping[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    return f"{first}" if first == last else f"{first}–{last}"
