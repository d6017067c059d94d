"""What the pages of all evaluations share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unrolled.errors import RunFailed
from unrolled.evaluation.charts import Chart
from unrolled.evaluation.wording import Results, finite
from unrolled.files import write_whole, writing


@dataclass(frozen=True)
class Card:
    """One number of the row below the headline."""

    label: str
    value: str
    notes: Sequence[str] = ()


def write_page(path: Path, template: str, charts: Mapping[str, Sequence[Chart]], **content: Any) -> None:
    """Writes a page that opens without a network.

    Args:
        charts: by the section they stand in.
        content: what else the template names.

    Raises:
        RunFailed: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("unrolled.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    page = environment.get_template(template).render(
        charts=charts,
        figures={chart.id: chart.figure for group in charts.values() for chart in group},
        plotly=Markup(get_plotlyjs()),  # the library itself, no data in it
        **content,
    )
    with writing(path, RunFailed):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page, errors="replace")


def size_and_training(results: Results, history: Sequence[Mapping[str, Any]]) -> list[Card]:
    """Returns the cards that every report ends with."""
    cards = []
    if parameters := results.get("parameters"):
        cards.append(Card("Parameters", _compact(parameters), ["checkpoint", results["checkpoint"]]))
    if history:
        last = history[-1]
        seconds = finite(last.get("seconds"))
        cards.append(Card("Training", f"{last['step']:,}", ["steps", *([_duration(seconds)] if seconds else [])]))
    return cards


def facts(results: Results) -> dict[str, str]:
    """Returns what else is needed to repeat the evaluation."""
    workers = results.get("workers")
    facts = {
        "Run": results["run"],
        "Checkpoint": results["checkpoint"],
        "Data": (results.get("data") or {}).get("source"),
        "Machine": f"{results.get('device', '')}, {workers} worker{'s' if workers != 1 else ''}" if workers else None,
        "Made": date(results["created"]),
        "Version": f"unrolled {results['version']}",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _compact(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}\N{NO-BREAK SPACE}{letter}"
    return str(count)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"


def date(created: str) -> str:
    """Returns an ISO moment as a reader writes it, in UTC."""
    moment = datetime.fromisoformat(created).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
