"""What the charts of a sweep share: findings with their parameters, colours of values, names that are no markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.charts import layout, look
from unrolled.tuning.findings import Findings
from unrolled.tuning.pairs import named
from unrolled.tuning.points import Objective, objectives
from unrolled.tuning.space_view import Entry, Parameter, parameters_of

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "pentagon")
BEST, OTHER, LOST, QUIET = "var(--series-beam)", "var(--series-greedy)", "var(--missing)", "var(--muted)"
SMALL = {"size": 11}
MARKS = 6  # of a logarithmic axis


@dataclass(frozen=True)
class View:
    """A sweep as it is drawn."""

    found: Findings
    parameters: Mapping[str, Parameter]
    goals: Sequence[Objective]

    @property
    def goal(self) -> Objective:
        """The first objective, which ranks the points."""
        return self.goals[0]

    @property
    def names(self) -> dict[int, str]:
        """Names of the points by number, as text of a chart."""
        return {row["point"]: escape(row["name"]) for row in self.found["ranking"]}

    def colours(self) -> Parameter | None:
        """Returns the parameter whose values give points their colours: the cell, or the most important one."""
        cell = named(list(self.parameters.values()), "cell")
        if cell:
            return cell
        keys = [row["key"] for row in self.found["importance"]]
        ranked = [self.parameters[key] for key in keys] or list(self.parameters.values())
        return next((one for one in ranked if 1 < len(one.values) <= len(SYMBOLS)), None)

    def at(self, step: int | None) -> str:
        """Returns where scores are taken: ``at step 100`` or ``at the end``."""
        return "at the end" if step is None else f"at step {step:,}"

    def scores(self, step: int | None) -> dict[int, float]:
        """Returns the scores of a basis by point: at `step`, or of the points that finished."""
        rows = self.found["ranking"]
        if step is not None:
            return {row["point"]: row["at_step"] for row in rows if row["at_step"] is not None}
        ends = {row["point"]: row["scores"][self.goal.name]["mean"] for row in rows if row["state"] == "finished"}
        return {point: score for point, score in ends.items() if score is not None}

    def bases(self) -> list[int | None]:
        """Returns the steps at which points are compared, the fairest first; None is the end."""
        steps = [None] if self.found["step"] is None else [self.found["step"], None]
        return [step for step in steps if self.scores(step)]


def view(sweep: Entry, found: Findings) -> View:
    """Returns the findings of a sweep ready to be drawn."""
    return View(found, {one.key: one for one in parameters_of(sweep)}, objectives(sweep))


def text(parameter: Parameter, value: Any) -> str:
    """Returns a value as text of a chart: plotly reads markup, so what looks like it stays what it is."""
    return escape(parameter.text(value))


def paint(parameter: Parameter | None, value: Any) -> tuple[str, str]:
    """Returns colour and marker of a value."""
    if parameter is None:
        return BEST, SYMBOLS[0]
    place = parameter.place(value)
    return look(place)[0], SYMBOLS[place % len(SYMBOLS)]


def panels(titles: Sequence[str], heights: Sequence[int], **settings: Any) -> go.Figure:
    """Returns charts of `heights` pixels below each other, each with its title at the left."""
    gaps = 62  # pixels between two: tick labels of the upper, title of the lower
    total = sum(heights) + gaps * len(heights)
    figure = go.Figure(layout=layout(total, hovermode="closest", **settings))
    top = 1.0
    for number, (title, height) in enumerate(zip(titles, heights, strict=True), start=1):
        end = "" if number == 1 else str(number)
        low = max(0.0, top - height / (total - 36))
        place = {f"xaxis{end}": {"anchor": f"y{end}"}, f"yaxis{end}": {"anchor": f"x{end}", "domain": [low, top]}}
        figure.update_layout(place)
        if title:
            heading = {"xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left", "yanchor": "bottom"}
            figure.add_annotation(text=title, showarrow=False, font={"color": "var(--ink)", "size": 13}, **heading)
        top = low - gaps / (total - 36)
    return figure


def axes(number: int) -> dict[str, str]:
    """Returns the axes of the panel `number`, from 1, as a trace names them."""
    end = "" if number == 1 else str(number)
    return {"xaxis": f"x{end}", "yaxis": f"y{end}"}


def ticks_of_logarithm(low: float, high: float) -> dict[str, Any]:
    """Returns an x axis from `low` to `high` by the logarithm, marked at a few powers of ten."""
    first, last = math.log10(low), math.log10(high)
    room = 0.04 * (last - first) or 0.1
    axis: dict[str, Any] = {"type": "log", "range": [first - room, last + room]}
    powers = range(math.floor(first), math.ceil(last) + 1)
    if len(powers) > 2:
        powers = powers[:: -(-len(powers) // MARKS)]
        # Long rows of zeros are hard to count.
        labels = [f"{10.0**power:g}" if -4 < power < 5 else f"10<sup>{power}</sup>" for power in powers]
        axis |= {"tickvals": [10.0**power for power in powers], "ticktext": labels}
    return axis
