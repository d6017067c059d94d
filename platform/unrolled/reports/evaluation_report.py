"""Evaluation reports: the HTML page of an evaluation, with charts of scores and of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unrolled.metrics import METRICS, TOKENIZER_SIGNATURE, metric_info
from unrolled.reports.attention_plots import attention_charts
from unrolled.reports.decoding_plots import search_charts
from unrolled.reports.examples import MAX_BYTES, MAX_BYTES_WITH_PHOTOS, page_rows
from unrolled.reports.gallery import Picture, attention_data, caption_gallery
from unrolled.reports.page import (
    Card,
    Chart,
    Rows,
    axis_title,
    downsample,
    error_bars,
    interval,
    layout,
    model_cards,
    present,
    report_facts,
    strategy_colour,
    strategy_marker,
    strategy_table,
    write_page,
)
from unrolled.reports.text import (
    ABOUT,
    Results,
    best_of_kinds,
    finite,
    headline,
    joined,
    metric_names,
    rank_strategies,
    scored_strategies,
    short_title,
    significance_tables,
    strategy_kind,
    strategy_title,
    summary,
)


def write_report(
    results: dict[str, Any],
    outputs: list[dict[str, Any]],
    history: list[dict[str, Any]],
    config_yaml: str,
    path: Path,
    pictures: Mapping[int, Picture] | None = None,
) -> None:
    """Writes an evaluation as one self-contained HTML file of at most 6 MB.

    Args:
        results: content of results.json; intervals, lengths and single metrics may be missing.
        outputs: rows of outputs.jsonl. Of many, the page shows an even selection of about 1,000.
        history: rows of metrics.jsonl; empty where the training is not known.
        config_yaml: the resolved config of the run.
        path: the file to write; its folder is made.
        pictures: photographs of the rows with ``shown``, by ``index``; a gallery of them replaces the heatmaps and the
            best and worst examples.
    """
    charts = {
        "scores": score_charts(results),
        "search": search_charts(results),
        "groups": group_charts(results),
        "attention": [] if pictures else attention_charts(outputs),
        "training": training_charts(history, results.get("headline", "")),
    }
    names = _ranked(results)
    # In the order of the run, so that an example's lines keep their places from report to report.
    strategies = list(results["strategies"])
    kinds = {strategy_kind(name) for name in names}
    photos = caption_gallery(outputs, pictures or {}, results["headline"], strategies) if pictures else []
    examples = page_rows(outputs, strategies, names, MAX_BYTES_WITH_PHOTOS if photos else MAX_BYTES)
    signatures = _signatures(results)
    write_page(
        path,
        "report.html.j2",
        charts,
        results=results,
        models=f"{len(members)} models as one" if (members := results.get("ensemble")) else "One model",
        headline=headline(results),
        summary=summary(results),
        cards=_cards(results, history, names[0]),
        table=strategy_table(results, names),
        pairs=significance_tables(results),
        about=[text for name, text in ABOUT.items() if name in kinds],
        examples=examples | {"best": [], "worst": []} if photos else examples,
        gallery=photos,
        attention=attention_data(photos),
        headline_metric=metric_info(results["headline"]).label if photos else "",
        several=any(len(row.get("references") or ()) > 1 for row in outputs),
        unreadable=results.get("unreadable") or {},
        strategies=[
            {"name": name, "title": strategy_title(name), "colour": strategy_colour(name)} for name in strategies
        ],
        signatures=signatures,
        of_captions=any(TOKENIZER_SIGNATURE in signature["text"] for signature in signatures),
        facts=report_facts(results),
        config_yaml=config_yaml,
    )


def _ranked(results: Results) -> list[str]:
    """Returns the strategies from best to worst, or in the run's order where nothing was scored."""
    names = metric_names(results)
    return rank_strategies(results, names[0]) if names else list(results["strategies"])


def _cards(results: Results, history: Sequence[Mapping[str, Any]], leader: str) -> list[Card]:
    """Returns the main numbers: the best score of each metric, speed, size and training."""
    cards = []
    for name in metric_names(results)[:3]:
        best = rank_strategies(results, name)[0]
        row = results["strategies"][best]
        notes = [note for note in (short_title(best), interval(row, name)) if note]
        cards.append(Card(metric_info(name).label, metric_info(name).format(row[name]), notes))
    if speed := finite(results["strategies"][leader].get("sentences_per_second")):
        cards.append(Card("Speed", f"{speed:,.0f}", ["outputs a second", short_title(leader)]))
    return cards + model_cards(results, history)


def _signatures(results: Results) -> list[dict[str, str]]:
    """Returns each distinct metric signature once, with its strategies where signatures differ."""
    users: dict[tuple[str, str], list[str]] = {}
    for strategy, row in results["strategies"].items():
        for name, signature in (row.get("signatures") or {}).items():
            users.setdefault((name, signature), []).append(strategy_title(strategy))
    count = len(results["strategies"])
    return [
        {"label": metric_info(name).label, "text": text, "users": "" if len(who) == count else ", ".join(who)}
        for (name, text), who in users.items()
    ]


MANY = 6
"""Strategies from which the dots of a chart are smaller and closer."""


def score_charts(results: Results) -> list[Chart]:
    """Returns a chart per metric, with a dot per strategy and whiskers for its 95 % interval."""
    return [_score_chart(results, name) for name in metric_names(results)]


def group_charts(results: Results) -> list[Chart]:
    """Returns scores by sentence length and by word frequency, as far as they were measured."""
    return present([_length_chart(results), _frequency_chart(results)])


def _score_chart(results: Results, name: str) -> Chart:
    known, strategies = metric_info(name), scored_strategies(results, name)
    many = len(strategies) >= MANY
    height = 56 + (34 if many else 52) * len(strategies)
    figure = go.Figure(layout=layout(height, showlegend=False, hovermode="closest"))
    ends: list[float] = []
    for strategy in strategies:
        row, colour = results["strategies"][strategy], strategy_colour(strategy)
        value = row[name]
        low, high = (row.get("intervals") or {}).get(name) or (value, value)
        ends += [low, high]
        figure.add_scatter(
            x=[value],
            y=[strategy_title(strategy)],
            mode="markers+text",
            text=[f"<b>{known.format(value)}</b>"],
            textposition="top center",
            textfont={"color": "var(--ink)", "size": 11 if many else 13},
            cliponaxis=False,
            marker={"color": colour, "size": 10 if many else 13, "symbol": strategy_marker(strategy)},
            error_x=error_bars([value], [(low, high)], colour),
            hovertemplate=f"%{{y}}: {known.format(value)}<br>{low:.1f} to {high:.1f}<extra></extra>",
        )
    margin = 0.12 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - margin, max(ends) + margin], nticks=5, tickangle=0)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    values = joined([f"{short_title(s)} {known.format(results['strategies'][s][name])}" for s in strategies])
    return Chart(f"score-{name}", known.label, f"Dot chart of {known.label}: {values}.", known.about, figure)


def _length_chart(results: Results) -> Chart | None:
    """Returns the headline metric by sentence length; None where it was not measured."""
    buckets = {name: row["by_length"] for name, row in results["strategies"].items() if row.get("by_length")}
    names = [name for name in metric_names(results) if any(name in b for rows in buckets.values() for b in rows)]
    if not names:
        return None
    known = metric_info(names[0])
    strategies = best_of_kinds([one for one in rank_strategies(results, names[0]) if one in buckets])
    lines = {
        strategy: {f"{_range_label(b)}<br>n = {b['examples']:,}": b.get(names[0]) for b in buckets[strategy]}
        for strategy in strategies
    }
    return Chart(
        "by-length",
        f"{known.label} by sentence length",
        f"Line chart: {known.label} by sentence length for {joined([short_title(name) for name in strategies])}.",
        "Each step of a recurrent model passes on a state of fixed size: a falling line says that longer sentences "
        f"lose more on the way. Groups with few sentences (n) jump about by chance.{_kinds_note(results, strategies)}",
        _group_figure("Words in the input", lines, known.unit),
    )


def _frequency_chart(results: Results) -> Chart | None:
    """Returns the F1 of words by their frequency in the training split; None where it was not measured."""
    measured = results.get("by_frequency") or {}
    strategies = best_of_kinds([one for one in _ranked(results) if measured.get(one)])
    if not strategies:
        return None
    lines = {
        strategy: {
            f"{b['label'].replace(' times', '')}<br>n = {b['words']:,}": None if b.get("f1") is None else 100 * b["f1"]
            for b in measured[strategy]
        }
        for strategy in strategies
    }
    return Chart(
        "by-frequency",
        "F1 of words by their frequency",
        f"Line chart: F1 by frequency in training for {joined([short_title(name) for name in strategies])}.",
        "How well the words of the references are hit (F1 of words written and words wanted, 100 is best), by how "
        f"often training showed them; n counts them. Rare words are the hard ones.{_kinds_note(results, strategies)}",
        _group_figure("Times in the training split", lines, ""),
    )


def _group_figure(axis: str, lines: Mapping[str, Mapping[str, Any]], unit: str) -> go.Figure:
    """Returns a figure with a line per strategy over groups of examples or words."""
    figure = go.Figure(layout=layout(380))
    for strategy, values in lines.items():
        colour = strategy_colour(strategy)
        figure.add_scatter(
            x=list(values),
            y=[finite(value) for value in values.values()],
            name=strategy_title(strategy),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 9, "symbol": strategy_marker(strategy)},
            hovertemplate="%{y:.1f}" + unit,
        )
    labels = {"tickangle": 0, "tickfont": {"size": 11}}  # five of them fit side by side on a phone
    figure.update_xaxes(type="category", showgrid=False, title=axis_title(axis), **labels)
    figure.update_yaxes(rangemode="tozero", ticksuffix=unit)
    return figure


def _kinds_note(results: Results, strategies: list[str]) -> str:
    is_part = len(strategies) < len(results["strategies"])
    return " Drawn is the best strategy of each kind; results.json has all." if is_part else ""


def _range_label(bucket: Mapping[str, Any]) -> str:
    first, last = bucket["from"], bucket["to"]
    return f"{first}" if first == last else f"{first}–{last}"


DECODED = " The validation score comes from decoded text, so it may improve while the loss rests."


def training_charts(history: Rows, headline: str) -> list[Chart]:
    """Returns learning curves, gradient norm and learning rate from rows of metrics.jsonl, as far as logged."""
    train: Rows = [row for row in history if row.get("kind") == "train"]
    validation: Rows = [row for row in history if row.get("kind") == "validation"]
    best = [row["step"] for row in validation if row.get("best")]
    train, validation = downsample(train), downsample(validation)
    return present(
        [
            _learning_chart(train, validation, headline, best[-1] if best else None),
            _gradient_chart(train),
            _rate_chart(train),
        ]
    )


def _learning_chart(train: Rows, validation: Rows, headline: str, best: float | None) -> Chart | None:
    if not train and not validation:
        return None
    names = (headline, "bleu", "exact_match", "accuracy")
    scores = [name for name in names if name != "loss" and any(name in row for row in validation)]
    unit = "squared error" if any("mse" in row for row in validation) else "nats per token"
    titles = [f"Loss ({unit})", *(f"Validation {metric_info(name).label}" for name in scores[:1])]
    figure = _panels(titles, heights=[0.58, 0.42] if scores else [1.0], height=480 if scores else 320)
    _curve(figure, train, "loss", "Training loss", "var(--muted)", row=1)
    _curve(figure, validation, "loss", "Validation loss", "var(--series-greedy)", row=1, markers=True)
    for name in scores[:1]:
        _curve(figure, validation, name, metric_info(name).label, "var(--series-beam)", row=2, markers=True)
        figure.data[-1].showlegend = False  # its panel is named
    if best is not None:
        figure.add_vline(x=best, line={"color": "var(--ink)", "width": 1, "dash": "dot"})
        is_early = best < 0.5 * max(row["step"] for row in [*train, *validation])
        side = {"xanchor": "left", "xshift": 5} if is_early else {"xanchor": "right", "xshift": -5}
        figure.add_annotation(x=best, y=1, yref="y domain", text=f"best: step {best:,.0f}", showarrow=False, **side)
    ending = f"; the best step is {best:,.0f}" if best is not None else ""
    return Chart(
        "learning",
        "Learning curves",
        f"Line chart: training and validation loss by step{ending}.",
        "Both losses falling: the model still learns. Training falling while validation rises: it begins to learn its "
        "examples by heart." + (DECODED if scores and scores[0] in METRICS else ""),
        figure,
    )


def _gradient_chart(train: Rows) -> Chart | None:
    if not any(finite(row.get("gradient_norm")) is not None for row in train):
        return None
    clipped = any(finite(row.get("clipped")) is not None for row in train)
    titles = ["Gradient norm before clipping", *(["Share of steps clipped"] if clipped else [])]
    figure = _panels(titles, heights=[0.6, 0.4] if clipped else [1.0], height=380)
    _curve(figure, train, "gradient_norm", "Gradient norm", "var(--series-sample)", row=1)
    norms = [norm for row in train if (norm := finite(row.get("gradient_norm"))) is not None and norm > 0]
    if norms and max(norms) > 30 * min(norms):
        figure.update_yaxes(type="log", dtick=1, row=1, col=1)
    if clipped:
        _curve(figure, train, "clipped", "Clipped", "var(--series-sample)", row=2)
        figure.update_traces(fill="tozeroy", line_shape="hv", selector={"name": "Clipped"})
        figure.update_yaxes(range=[0, 1.04], tickformat=".0%", row=2, col=1)
    figure.update_layout(showlegend=False)
    return Chart(
        "gradients",
        "Gradients",
        "Line charts: norm of the gradient before clipping, and the share of clipped steps, by step.",
        "Gradients of recurrent models can explode; clipping caps their length. Spikes are normal. A share near "
        "100 % to the end means that the threshold, not the learning rate, sets the size of the steps.",
        figure,
    )


def _rate_chart(train: Rows) -> Chart | None:
    if not any(finite(row.get("learning_rate")) is not None for row in train):
        return None
    figure = _panels([""], heights=[1.0], height=380)
    _curve(figure, train, "learning_rate", "Learning rate", "var(--series-1)", row=1)
    figure.update_yaxes(rangemode="tozero", exponentformat="power")
    figure.update_layout(showlegend=False)
    return Chart(
        "learning-rate",
        "Learning rate",
        "Line chart: learning rate by step.",
        "How far each step goes along the gradient. Schedules often start small, because early gradients mislead, "
        "and shrink towards the end, to settle.",
        figure,
    )


def _curve(figure: go.Figure, rows: Rows, key: str, name: str, colour: str, row: int, markers: bool = False) -> None:
    """Adds `key` of the rows by step; values that are not finite leave gaps."""
    known = [item for item in rows if key in item]
    if known:
        figure.add_scatter(
            x=[item["step"] for item in known],
            y=[finite(item[key]) for item in known],
            name=name,
            mode="lines+markers" if markers else "lines",
            line={"color": colour, "width": 2},
            marker={"size": 7},
            hovertemplate="%{y:.4~g}",
            row=row,
            col=1,
        )


def _panels(titles: list[str], heights: list[float], height: int) -> go.Figure:
    """Returns panels below each other with a common step axis, each with its title at the left."""
    gap = 0.16 if len(titles) > 1 else 0.0
    figure = make_subplots(
        rows=len(titles), shared_xaxes=True, row_heights=heights, vertical_spacing=gap, subplot_titles=titles
    )
    figure.update_layout(layout(height))
    figure.update_annotations(x=0, xanchor="left", font={"size": 13, "color": "var(--muted)"})
    figure.update_xaxes(tickformat=",d", showgrid=False)
    figure.update_xaxes(title=axis_title("Step"), row=len(titles))
    return figure
