"""Learning-curve reports of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from unrolled.config.load import flatten, format_value
from unrolled.errors import UserError
from unrolled.metrics import metric_info
from unrolled.reports.page import Chart, Rows, add_line, axis_title, downsample, layout, line_style, write_page
from unrolled.reports.text import finite, joined
from unrolled.tasks import make_task
from unrolled.training.console import format_duration
from unrolled.training.run_dir import RunDir, open_run


@dataclass(frozen=True)
class Curve:
    """The learning curve of a run.

    Attributes:
        name: name of the run, or its path where two runs have the same name.
        settings: config by dotted key.
        validation: validation rows of metrics.jsonl, with the metric that is compared.
        training: training rows of metrics.jsonl.
        baseline: score of the best constant prediction, if known.
    """

    name: str
    settings: Mapping[str, Any]
    validation: Rows
    training: Rows
    baseline: float | None


@dataclass(frozen=True)
class Comparison:
    """Learning curves of several runs in one metric.

    Attributes:
        metric: name of the metric.
        curves: in the order given.
        page: path of the HTML page.
    """

    metric: str
    curves: Sequence[Curve]
    page: Path


def compare(paths: Sequence[str]) -> Comparison:
    """Reads the histories of runs that have the same `training.metric`.

    Returns:
        The comparison, with its page next to the folder of the first run.

    Raises:
        UserError: a path is no run, a run has no validation yet, or runs differ in `training.metric`.
    """
    runs = {run.path: (given, run) for given in paths for run in [open_run(given)]}
    names = [run.name for _, run in runs.values()]
    named = {given if names.count(run.name) > 1 else run.name: run for given, run in runs.values()}
    chosen = {name: run.config().training.metric for name, run in named.items()}
    first = next(iter(chosen.values()))
    for name, other in chosen.items():
        if other != first:
            raise UserError(
                f"training.metric: {next(iter(chosen))} has {first}, {name} has {other}; "
                "curves are compared in one metric."
            )
    return Comparison(
        first, [_curve(name, run, first) for name, run in named.items()], next(iter(runs)).with_name("curves.html")
    )


def _curve(name: str, run: RunDir, score: str) -> Curve:
    history, config = run.history(), run.config()
    validation = [row for row in history if row["kind"] == "validation" and finite(row.get(score)) is not None]
    if not validation:
        raise UserError(
            f"{run.path}: has no validation with {metric_info(score).label} yet; there is no curve to draw."
        )
    baseline = make_task(config, run.vocabulary).baseline.get(score)
    training = [row for row in history if row["kind"] == "train"]
    return Curve(name, flatten(config.model_dump()), validation, training, baseline)


def table(comparison: Comparison) -> list[str]:
    """Returns a table of the runs: best score and its step, duration, and the settings in which runs differ."""
    heading = {
        "name": "RUN",
        "best": metric_info(comparison.metric).label.upper(),
        "step": "AT STEP",
        "time": "TIME",
        "settings": "SETTINGS",
    }
    rows = [heading, *_rows(comparison)]
    widths = {key: max(len(row[key]) for row in rows) for key in heading}
    return ["  ".join(f"{row[key]:<{widths[key]}}" for key in heading).rstrip() for row in rows]


def write_report(comparison: Comparison, *, version: str) -> None:
    """Writes `comparison.page` as one self-contained HTML file."""
    known, rows = metric_info(comparison.metric), _rows(comparison)
    values = [_best(curve)[comparison.metric] for curve in comparison.curves]
    leader = rows[values.index(max(values) if known.higher_is_better else min(values))]
    write_page(
        comparison.page,
        "curves.html.j2",
        {
            "score": [_score_chart(comparison, "step", "Step"), _score_chart(comparison, "seconds", "Seconds")],
            "loss": [_loss_chart(comparison)],
        },
        headline=f"{leader['name']} leads with {known.label.lower()} {leader['best']}",
        known=known,
        rows=rows,
        version=version,
    )


def _rows(comparison: Comparison) -> list[dict[str, str]]:
    best = [_best(curve) for curve in comparison.curves]
    return [
        {
            "name": curve.name,
            "best": metric_info(comparison.metric).format(row[comparison.metric]),
            "step": f"{row['step']:,}",
            "time": format_duration(curve.validation[-1]["seconds"]),
            "settings": " ".join(_settings_apart(curve, comparison.curves)) or "–",
        }
        for curve, row in zip(comparison.curves, best, strict=True)
    ]


def _best(curve: Curve) -> Mapping[str, Any]:
    """Returns the last validation that was the best so far."""
    return [row for row in curve.validation if row["best"]][-1]


def _settings_apart(curve: Curve, curves: Sequence[Curve]) -> list[str]:
    """Returns the settings that not all runs share, as overrides."""
    keys = dict.fromkeys(key for other in curves for key in other.settings if key not in ("name", "storage"))
    apart = [key for key in keys if any(other.settings.get(key) != curves[0].settings.get(key) for other in curves)]
    return [f"{key}={format_value(curve.settings[key])}" for key in apart if key in curve.settings]


def _score_chart(comparison: Comparison, axis: str, title: str) -> Chart:
    known = metric_info(comparison.metric)
    figure = _figure({curve.name: curve.validation for curve in comparison.curves}, axis, comparison.metric, title)
    baselines = {curve.baseline for curve in comparison.curves if curve.baseline is not None}
    for baseline in baselines:
        figure.add_hline(y=baseline, line={"color": "var(--ink)", "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=1, xref="paper", xanchor="right", y=baseline, yanchor="bottom", showarrow=False, text="without learning"
        )
    figure.update_yaxes(ticksuffix=known.unit)
    return Chart(
        f"score-{axis}",
        f"{known.label} by {title.lower()}",
        f"Line chart: validation {known.label} by {title.lower()} for {joined([c.name for c in comparison.curves])}.",
        "The dotted line is reached by the best answer that looks at no input." if baselines else "",
        figure,
    )


def _loss_chart(comparison: Comparison) -> Chart:
    return Chart(
        "loss",
        "Training loss by step",
        f"Line chart: training loss by step for {joined([curve.name for curve in comparison.curves])}.",
        "The mean since the point before. With label smoothing or dropout it is not comparable with validation.",
        _figure({curve.name: curve.training for curve in comparison.curves}, "step", "loss", "Step"),
    )


def _figure(curves: Mapping[str, Rows], x: str, y: str, title: str) -> go.Figure:
    figure = go.Figure(layout=layout(420, showlegend=True))
    figure.update_xaxes(title=axis_title(title), showgrid=False, tickformat=",d")
    for number, name in enumerate(curves):
        rows = downsample(curves[name])
        values = [finite(row.get(y)) for row in rows]
        add_line(figure, [row[x] for row in rows], values, name, line_style(number), "%{y:.4~g}")
    return figure
