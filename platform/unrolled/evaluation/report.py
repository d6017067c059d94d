"""The report of an evaluation: one HTML file that opens without a network and is pleasant to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unrolled.evaluation.attention import attention_charts
from unrolled.evaluation.charts import colour
from unrolled.evaluation.comparison import BESIDE_PHOTOS, BYTES, page_rows
from unrolled.evaluation.gallery import Picture, gallery
from unrolled.evaluation.headline import headline, summary
from unrolled.evaluation.page import Card, facts, size_and_training, write_page
from unrolled.evaluation.page_table import interval, strategy_table
from unrolled.evaluation.score_charts import group_charts, score_charts
from unrolled.evaluation.search_charts import search_charts
from unrolled.evaluation.significance import tables
from unrolled.evaluation.training_charts import training_charts
from unrolled.evaluation.wording import ABOUT, Results, finite, kind, metric_names, ranking, short, title
from unrolled.metrics import metric
from unrolled.metrics.tokens import WORDS


def write_report(
    results: dict[str, Any],
    outputs: list[dict[str, Any]],
    history: list[dict[str, Any]],
    config_yaml: str,
    path: Path,
    pictures: Mapping[int, Picture] | None = None,
) -> None:
    """Writes the evaluation as one self-contained HTML file of at most 6 MB.

    Args:
        results: the content of results.json; intervals, lengths and single metrics may be missing.
        outputs: the rows of outputs.jsonl. Of many, the page shows an even selection of about 1,000.
        history: the rows of metrics.jsonl; empty where the training is not known.
        config_yaml: the resolved config of the run.
        path: the file to write; its folder is made.
        pictures: photographs of the rows with ``shown``, by ``index``: these make a gallery in place of the heatmaps
            and of the best and worst examples.
    """
    charts = {
        "scores": score_charts(results),
        "search": search_charts(results),
        "groups": group_charts(results),
        "attention": [] if pictures else attention_charts(outputs),
        "training": training_charts(history, results.get("headline", "")),
    }
    names = _ranked(results)
    # The order of the run, so that an example's lines stay where they are from report to report.
    strategies = list(results["strategies"])
    kinds = {kind(name) for name in names}
    photos = gallery(outputs, pictures or {}, results["headline"], strategies) if pictures else []
    examples = page_rows(outputs, strategies, names, BESIDE_PHOTOS if photos else BYTES)
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
        pairs=tables(results),
        about=[text for name, text in ABOUT.items() if name in kinds],
        examples=examples | {"best": [], "worst": []} if photos else examples,
        gallery=photos,
        gazes={card["index"]: card["gaze"] for group in photos for card in group["cards"] if card["gaze"]},
        headline_metric=metric(results["headline"]).label if photos else "",
        several=any(len(row.get("references") or ()) > 1 for row in outputs),
        unreadable=results.get("unreadable") or {},
        strategies=[{"name": name, "title": title(name), "colour": colour(name)} for name in strategies],
        signatures=signatures,
        of_captions=any(WORDS in signature["text"] for signature in signatures),
        facts=facts(results),
        config_yaml=config_yaml,
    )


def _ranked(results: Results) -> list[str]:
    """Returns the strategies from best to worst, in the run's order where nothing was scored."""
    names = metric_names(results)
    return ranking(results, names[0]) if names else list(results["strategies"])


def _cards(results: Results, history: Sequence[Mapping[str, Any]], leader: str) -> list[Card]:
    """Returns the main numbers: each metric's best, then speed, size and training."""
    cards = []
    for name in metric_names(results)[:3]:
        best = ranking(results, name)[0]
        row = results["strategies"][best]
        notes = [note for note in (short(best), interval(row, name)) if note]
        cards.append(Card(metric(name).label, metric(name).text(row[name]), notes))
    if speed := finite(results["strategies"][leader].get("sentences_per_second")):
        cards.append(Card("Speed", f"{speed:,.0f}", ["outputs a second", short(leader)]))
    return cards + size_and_training(results, history)


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
