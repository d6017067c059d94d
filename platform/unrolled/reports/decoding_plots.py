"""Plots of scores by beam size and temperature."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go

from unrolled.metrics import metric_info
from unrolled.reports.page import (
    DASHES,
    Chart,
    axis_title,
    error_bars,
    layout,
    present,
    strategy_colour,
    strategy_marker,
)
from unrolled.reports.text import (
    Results,
    differ_significantly,
    finite,
    joined,
    metric_names,
    sample_statistics,
    strategy_kind,
    strategy_options,
    strategy_title,
    uncapitalized,
)

SettingSweep = list[tuple[float, str]]
"""Values of a setting in order, with the strategies that differ in it alone."""


def search_charts(results: Results) -> list[Chart]:
    """Returns the headline metric by beam size, by temperature and against the model's own score, where two or more
    strategies differ in that setting alone."""
    names = metric_names(results)
    if not names:
        return []
    beams = setting_sweeps(results, names[0], "size", ("beam",))
    temperatures = setting_sweeps(results, names[0], "temperature", ("sample", "mbr", "best"))
    return present(
        [
            _size_chart(results, names[0], beams),
            _curse_chart(results, names[0], beams),
            _temperature_chart(results, names[0], temperatures),
        ]
    )


def setting_sweeps(results: Results, name: str, setting: str, kinds: Iterable[str]) -> list[SettingSweep]:
    """Returns the sweeps over `setting`: two or more scored strategies of one kind that agree in all other settings."""
    groups: dict[tuple[str, str], SettingSweep] = {}
    for strategy, row in results["strategies"].items():
        settings = dict(row.get("settings") or {})
        settings.pop("best", None)  # the length of n-best lists changes no output
        value = finite(settings.pop(setting, None))
        if strategy_kind(strategy) in kinds and value is not None and finite(row.get(name)) is not None:
            key = strategy_kind(strategy), json.dumps(settings, sort_keys=True)
            groups.setdefault(key, []).append((value, strategy))
    return [sorted(group) for group in groups.values() if len({value for value, _ in group}) > 1]


def beam_search_curse(results: Results, name: str, sweep: SettingSweep) -> str:
    """Returns, in words, whether the likelier outputs of larger beams are better ones."""
    rows, known = results["strategies"], metric_info(name)
    (small, first), (large, last) = sweep[0], sweep[-1]
    before, after = (rows[one]["model_score"] for one in (first, last))
    rises = after > before
    move = f"{'rises' if rises else 'falls'} from {minus(before)} to {minus(after)}"
    if minus(before) == minus(after):
        move = f"stays at {minus(after)}"
    begin = f"From beam size {small:g} to {large:g} the model’s own score {move} nats per token"
    peak, top = sweep[0]
    for size, strategy in sweep[1:]:
        if known.better(rows[strategy][name], than=rows[top][name]):
            peak, top = size, strategy
    label = uncapitalized(known.label)
    score, last_score = (known.format(rows[one][name]) for one in (top, last))
    if score == last_score:
        return f"{begin}, and {label} at the largest size is as good as at any ({score}): no beam-search curse here."
    curse_seen = " Likelier outputs are not better ones here: the beam-search curse." if rises else ""
    verdict = {
        True: f"a significant loss.{curse_seen}",
        False: "a difference that is not significant, so no beam-search curse can be told from chance.",
        None: "a difference that was not tested for significance.",
    }[differ_significantly(results, name, top, last)]
    return f"{begin}, while {label} is best at {peak:g} ({score}) and {last_score} at {large:g}: {verdict}"


def minus(value: float) -> str:
    """Returns a number to two digits, with a typographic minus sign."""
    return f"{value:.2f}".replace("-", "−")


def _size_chart(results: Results, name: str, beams: list[SettingSweep]) -> Chart | None:
    if not beams:
        return None
    figure, sizes = _lines(results, name, beams, "Beam size (log scale)")
    figure.update_xaxes(type="log", tickmode="array", ticktext=[f"{size:g}" for size in sizes])
    return Chart(
        "by-size",
        f"{metric_info(name).label} by beam size",
        f"Line chart: {metric_info(name).label} by beam size, {_spoken(results, name, beams[0])}.",
        f"Whiskers are 95 % intervals. {_best_of(results, name, beams[0], 'beam size')} "
        "A beam of 1 is greedy decoding; the work grows with the size.",
        figure,
    )


def _temperature_chart(results: Results, name: str, temperatures: list[SettingSweep]) -> Chart | None:
    if not temperatures:
        return None
    figure, _ = _lines(results, name, temperatures, "Temperature")
    rows = [results["strategies"][strategy] for sweep in temperatures for _, strategy in sweep]
    several = any(sample_statistics(row, name) for row in rows)
    return Chart(
        "by-temperature",
        f"{metric_info(name).label} by temperature",
        f"Line chart: {metric_info(name).label} by temperature, {_spoken(results, name, temperatures[0])}.",
        ("Means over the samples of each sentence, whiskers one standard deviation. " if several else "")
        + _best_of(results, name, temperatures[0], "temperature")
        + " A low temperature sharpens the model’s choice of words, towards greedy decoding; at 1 it speaks as it "
        "learned to.",
        figure,
    )


def _lines(results: Results, name: str, groups: list[SettingSweep], axis: str) -> tuple[go.Figure, list[float]]:
    """Returns a figure with a line per sweep and the x axis `axis`, and the values that the axis marks."""
    figure = go.Figure(layout=layout(380))
    for number, sweep in enumerate(groups):
        scores = [_score(results["strategies"][strategy], name) for _, strategy in sweep]
        values, intervals = [value for value, _ in scores], [interval for _, interval in scores]
        colour = strategy_colour(sweep[0][1])
        figure.add_scatter(
            x=[value for value, _ in sweep],
            y=values,
            name=_series(sweep) if len(groups) > 1 else strategy_title(strategy_kind(sweep[0][1])),
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": DASHES[number % len(DASHES)]},
            marker={"color": colour, "size": 9, "symbol": strategy_marker(sweep[0][1])},
            error_y=error_bars(values, intervals, colour),
            hovertemplate="%{y:.1f}" + metric_info(name).unit,
        )
    ticks = sorted({value for sweep in groups for value, _ in sweep})
    figure.update_xaxes(tickvals=ticks, showgrid=False, title=axis_title(axis))
    figure.update_yaxes(ticksuffix=metric_info(name).unit)
    figure.update_layout(showlegend=len(groups) > 1)
    return figure, ticks


def _score(row: Mapping[str, Any], name: str) -> tuple[float, tuple[float, float]]:
    """Returns a score with its interval; of several samples, the mean plus and minus a standard deviation."""
    if statistics := sample_statistics(row, name):
        value, deviation = statistics
        return value, (value - deviation, value + deviation)
    return row[name], (row.get("intervals") or {}).get(name) or (row[name], row[name])


def _curse_chart(results: Results, name: str, beams: list[SettingSweep]) -> Chart | None:
    rows, known = results["strategies"], metric_info(name)
    scored = [
        [(size, one) for size, one in sweep if finite(rows[one].get("model_score")) is not None] for sweep in beams
    ]
    scored = [  # without sweeps in which nothing changes
        sweep
        for sweep in scored
        if len({(minus(rows[one]["model_score"]), known.format(rows[one][name])) for _, one in sweep}) > 1
    ]
    if not scored:
        return None
    figure = go.Figure(layout=layout(380, hovermode="closest", showlegend=len(scored) > 1))
    for number, sweep in enumerate(scored):
        figure.add_scatter(
            x=[rows[one]["model_score"] for _, one in sweep],
            y=[rows[one][name] for _, one in sweep],
            text=[f"{size:g}" for size, _ in sweep],
            name=_series(sweep),
            mode="lines+markers+text",
            textposition="top center",
            textfont={"color": "var(--ink)"},
            cliponaxis=False,
            line={"color": strategy_colour("beam"), "width": 2, "dash": DASHES[number % len(DASHES)]},
            marker={"color": strategy_colour("beam"), "size": 10},
            hovertemplate="beam size %{text}<br>%{y:.1f} " + known.label + "<br>%{x:.3f} nats<extra></extra>",
        )
    ends = [rows[one]["model_score"] for sweep in scored for _, one in sweep]
    margin = max(0.08 * (max(ends) - min(ends)), 0.01)  # tiny differences are not blown up
    figure.update_xaxes(
        title=axis_title("Model score, nats per token (right: likelier)"),
        range=[min(ends) - margin, max(ends) + margin],
        nticks=5,
        tickformat=".3~f",
    )
    figure.update_yaxes(ticksuffix=known.unit, title=axis_title(known.label))
    finding = beam_search_curse(results, name, scored[0])
    return Chart(
        "curse",
        "Likelier, but better?",
        f"Line chart: {known.label} against the model’s own score over beam sizes. {finding}",
        f"{finding} Numbers at the dots are beam sizes.",
        figure,
    )


def _series(sweep: SettingSweep) -> str:
    """Returns the name of a line: the kind of its strategies, with the options that they share."""
    first, *others = (strategy_options(strategy).items() for _, strategy in sweep)
    shared = [f"{key}={value}" for key, value in first if all((key, value) in other for other in others)]
    name = strategy_kind(sweep[0][1])
    return strategy_title(f"{name}:{','.join(shared)}" if shared else name)


def _spoken(results: Results, name: str, sweep: SettingSweep) -> str:
    return joined(
        [f"{metric_info(name).format(results['strategies'][one][name])} at {value:g}" for value, one in sweep]
    )


def _best_of(results: Results, name: str, sweep: SettingSweep, setting: str) -> str:
    """Returns which value of the setting scores best, and which others do not differ from it significantly."""
    known, rows = metric_info(name), results["strategies"]

    def loss(strategy: str) -> float:
        value, _ = _score(rows[strategy], name)
        return -value if known.higher_is_better else value

    title = strategy_title(strategy_kind(sweep[0][1]))
    if len({known.format(abs(loss(one))) for _, one in sweep}) == 1:
        return f"{title} scores the same at every {setting}."
    ranked = sorted(sweep, key=lambda pair: loss(pair[1]))
    (value, best), others = ranked[0], ranked[1:]
    ties = [f"{other:g}" for other, one in sorted(others) if differ_significantly(results, name, best, one) is False]
    tested = any(differ_significantly(results, name, best, one) is not None for _, one in others)
    first = f"{title} scores best at {setting} {value:g}"
    basis = " by the first samples" if sample_statistics(rows[best], name) else ""
    if ties:
        return f"{first}, not significantly different from {joined(ties)}{basis}."
    return f"{first}{f', significantly so{basis}' if tested else ''}."
