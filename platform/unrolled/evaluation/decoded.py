"""The evaluation of a task that answers in text: decode a split with every strategy, score, and write the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from unrolled.config_file import dump_config
from unrolled.decoding import Strategy
from unrolled.evaluation.evaluation import Evaluation, Report, provenance
from unrolled.evaluation.job import Workforce, write
from unrolled.evaluation.report import write_report
from unrolled.evaluation.results import output_rows, strategy_results, write_json, write_lines
from unrolled.metrics import metric
from unrolled.tasks import Answerer


def evaluate_decoded(
    evaluation: Evaluation,
    workforce: Workforce,
    *,
    task: Answerer,
    strategies: dict[str, Strategy],
    texts: tuple[list[str], list[str]],
) -> Report:
    """Decodes a split with each strategy and writes `evaluation/<split>/` of the run.

    Args:
        texts: inputs and references of the split.
    """
    inputs, references = texts
    metrics = list(task.shown)
    outputs: dict[str, list[str]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, strategy in strategies.items():
        began = time.perf_counter()
        outputs[name] = write(workforce, strategy, inputs, evaluation.progress(name, len(inputs), "decoded"))
        seconds = time.perf_counter() - began
        scores[name] = strategy_results(task, metrics, strategy, inputs, outputs[name], references, seconds)
    data = evaluation.config.data.model_dump()
    results = {
        **provenance(evaluation, workforce),
        "headline": metrics[0],
        "examples": len(inputs),
        "data": {"source": data["source"], **data["columns"]},
        "strategies": scores,
    }
    rows = output_rows(inputs, references, outputs)
    write_json(evaluation.folder / "results.json", results)
    write_lines(evaluation.folder / "outputs.jsonl", rows)
    page = evaluation.folder / "report.html"
    write_report(results, rows, evaluation.run.history(), dump_config(evaluation.config), page)
    return Report(scores, page, _lines(scores, metrics))


def _lines(scores: dict[str, dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Returns a table of strategies, and the signatures behind it."""
    rows = [("", *(name.replace("_", " ") for name in metrics), "sentences/s")]
    for name, row in scores.items():
        numbers = (metric(one).text(row[one]).rstrip("\N{NO-BREAK SPACE}%") for one in metrics)
        rows.append((name, *numbers, f"{row['sentences_per_second']:,.0f}"))
    signatures = next(iter(scores.values()))["signatures"].items()
    return [
        *("".join(f"{word:<14}" for word in row) for row in rows),
        *(f"signature of {name}: {signature}" for name, signature in signatures),
    ]
