"""An evaluation: decode a split with every strategy, score, and write the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unrolled.config import Config
from unrolled.config_file import dump_config
from unrolled.data.sources import pairs
from unrolled.decoding import Strategy
from unrolled.evaluation.job import Here, OnRay
from unrolled.evaluation.report import write_report
from unrolled.evaluation.results import output_rows, strategy_results, write_json, write_lines
from unrolled.tasks import make_task
from unrolled.training.run import RunFolder


@dataclass(frozen=True)
class Report:
    """A finished evaluation.

    Attributes:
        scores: results.json's `strategies`, by name.
        path: of report.html; results.json and outputs.jsonl lie beside it.
    """

    scores: dict[str, dict[str, Any]]
    path: Path


def evaluate(
    run: RunFolder,
    config: Config,
    checkpoint: Path,
    split: str,
    strategies: dict[str, Strategy],
    texts: tuple[list[str], list[str]],
    writer: Here | OnRay,
    *,
    command: str,
    version: str,
    show: Callable[[str, int, int], None],
) -> Report:
    """Decodes a split with each strategy and writes `evaluation/<split>/` of the run.

    Args:
        config: the run's, with the settings of this evaluation.
        texts: inputs and references of the split.
        writer: what decodes.
        command: the command line, for the report.
        show: told the strategy, the examples done and all of them as the work goes on.
    """
    inputs, references = texts
    task = make_task(config, run.vocabularies())
    outputs: dict[str, list[str]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, strategy in strategies.items():
        done = 0

        def advance(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            show(name, done, len(inputs))

        began = time.perf_counter()
        outputs[name] = writer.decode(strategy, inputs, advance)
        seconds = time.perf_counter() - began
        scores[name] = strategy_results(
            task, config.evaluation.metrics, strategy, inputs, outputs[name], references, seconds
        )
    results = {
        "run": run.name,
        "task": config.task,
        "headline": config.evaluation.metrics[0],
        "split": split,
        "examples": len(inputs),
        "checkpoint": checkpoint.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "version": version,
        "device": writer.device,
        "workers": writer.workers,
        "parameters": sum(parameter.numel() for parameter in task.build_model().parameters()),
        "data": {"source": config.data.source, **config.data.columns.model_dump()},
        "strategies": scores,
    }
    folder = run.path / "evaluation" / split
    rows = output_rows(inputs, references, outputs)
    write_json(folder / "results.json", results)
    write_lines(folder / "outputs.jsonl", rows)
    write_report(results, rows, run.history(), dump_config(config), folder / "report.html")
    return Report(scores, folder / "report.html")


def split_texts(config: Config, split: str) -> tuple[list[str], list[str]]:
    """Opens the texts of a split, `train`, `validation` and `test` by their names in `data.splits`."""
    names = config.data.splits.model_dump()
    return pairs(config.data, names.get(split, split))
