"""The evaluation of a task that is measured on the data themselves."""

from __future__ import annotations

import time
from typing import Any, cast

from unrolled.evaluation.evaluation import Evaluation, Report, provenance
from unrolled.evaluation.gallery import SIDE
from unrolled.evaluation.job import Workforce, examine
from unrolled.evaluation.page import Card, facts, size_and_training, write_page
from unrolled.evaluation.questions import question_gallery
from unrolled.evaluation.results import write_json, write_lines
from unrolled.evaluation.training_charts import training_charts
from unrolled.files import write_whole
from unrolled.metrics import metric
from unrolled.tasks import Asker, Examinee, Findings
from unrolled.training.console import written


def evaluate_examined(evaluation: Evaluation, workforce: Workforce, *, task: Examinee, data: Any) -> Report:
    """Examines a split and writes `evaluation/<split>/` of the run.

    Args:
        data: the split, as `task.open` opened it.
    """
    shares, began = task.shares(data), time.perf_counter()
    word = "shares measured" if shares > 1 else "share measured"
    measured = examine(workforce, data, shares, evaluation.progress(evaluation.split, shares, word))
    seconds = time.perf_counter() - began
    ((_, findings),) = workforce.each("sum_up", [(data, measured)])
    results = {
        **provenance(evaluation, workforce),
        "targets": findings.targets,
        "seconds": round(seconds, 3),
        "targets_per_second": round(findings.targets / seconds, 1),
        "scores": findings.scores,
        "intervals": findings.intervals,
    }
    if source := evaluation.config.data.model_dump().get("source"):
        results["data"] = {"source": source}
    write_json(evaluation.folder / "results.json", results)
    write_lines(evaluation.folder / "outputs.jsonl", findings.outputs)
    for name, text in findings.files.items():
        write_whole(evaluation.folder / name, text)
    page = evaluation.folder / "report.html"
    gallery = question_gallery(findings.shown, cast(Asker, task).photo, SIDE) if findings.shown else []
    _write_report(evaluation, results, findings, gallery)
    return Report(findings.scores, page, evaluation.of, _lines(findings))


def _lines(findings: Findings) -> list[str]:
    lines = [f"{findings.targets:,} targets"]
    for name, value in findings.scores.items():
        interval = _interval(findings, name)
        lines.append(f"{written(name, value)}" + (f"  (95 % interval {interval})" if interval else ""))
    return lines


def _interval(findings: Findings, name: str) -> str:
    if name not in findings.intervals:
        return ""
    low, high = (metric(name).text(end) for end in findings.intervals[name])
    return f"{low}–{high}"


def _write_report(
    evaluation: Evaluation, results: dict[str, Any], findings: Findings, gallery: list[dict[str, Any]]
) -> None:
    history = evaluation.history
    scores = [
        {
            "label": metric(name).label,
            "text": metric(name).text(value),
            "interval": _interval(findings, name),
            "about": metric(name).about,
        }
        for name, value in findings.scores.items()
    ]
    lead = scores[0]
    certain = (
        f" With 95 % confidence the {lead['label'].lower()} lies between {lead['interval'].replace('–', ' and ')}."
    )
    write_page(
        evaluation.folder / "report.html",
        "examined.html.j2",
        {"training": training_charts(history, next(iter(findings.scores)))},
        results=results,
        headline=" and ".join(f"{row['label'].lower()} {row['text']}" for row in scores[:2]).capitalize() + ".",
        summary=f"Measured on {findings.targets:,} targets of the {evaluation.split} split."
        + (certain if lead["interval"] else ""),
        cards=[Card(row["label"], row["text"], [row["interval"]] if row["interval"] else []) for row in scores]
        + size_and_training(results, history),
        scores=scores,
        findings=findings,
        gallery=gallery,
        gazes={card["index"]: card["gaze"] for group in gallery for card in group["cards"] if card["gaze"]},
        facts=facts(results),
        config_yaml=evaluation.config_yaml,
    )
