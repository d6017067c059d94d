"""Scores of decoded outputs, and the files of an evaluation."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from unrolled.decoding import Strategy
from unrolled.errors import RunFailed
from unrolled.files import write_whole, writing
from unrolled.metrics import bootstrap_interval
from unrolled.tasks import Answerer

BANDS = 5
"""Groups of equal size into which the examples are cut by the length of their input."""


def strategy_results(
    task: Answerer,
    metrics: Sequence[str],
    strategy: Strategy,
    inputs: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Returns everything that results.json says of one strategy: scores (0–100) by name, 95 % bootstrap
    `intervals`, `signatures`, `settings`, speed, and scores `by_length` of the input in words."""
    return {
        **task.score(outputs, references),
        "intervals": {name: list(bootstrap_interval(name, outputs, references)) for name in metrics},
        "length_ratio": _words(outputs) / max(1, _words(references)),
        "settings": dataclasses.asdict(strategy),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(inputs) / seconds, 1),
        "by_length": _by_length(task, inputs, outputs, references),
    }


def _words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _by_length(
    task: Answerer, inputs: Sequence[str], outputs: Sequence[str], references: Sequence[str]
) -> list[dict[str, Any]]:
    lengths = np.array([len(text.split()) for text in inputs])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BANDS + 1)).astype(int))
    rows = []
    for low, high in itertools.pairwise(edges.tolist()):
        last = high == int(edges[-1])
        chosen = np.flatnonzero((lengths >= low) & (lengths <= high if last else lengths < high)).tolist()
        if len(chosen) == 0:
            continue
        scores = task.score([outputs[i] for i in chosen], [references[i] for i in chosen])
        del scores["signatures"]
        top = high if last else high - 1
        rows.append({"from": low, "to": top, "examples": len(chosen), **scores})
    return rows


def output_rows(
    inputs: Sequence[str], references: Sequence[str], outputs: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl; `sentence_scores` are sentence-level chrF."""
    chrf = sacrebleu.CHRF()
    return [
        {
            "index": i,
            "input": text,
            "reference": reference,
            "outputs": {name: rows[i] for name, rows in outputs.items()},
            "sentence_scores": {
                name: round(chrf.sentence_score(rows[i], [reference]).score, 1) for name, rows in outputs.items()
            },
        }
        for i, (text, reference) in enumerate(zip(inputs, references, strict=True))
    ]


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by a JSON document, whole or not at all; raises `RunFailed` where it cannot be written."""
    with writing(path, RunFailed):
        write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces `path` by JSON lines, whole or not at all; raises `RunFailed` where it cannot be written."""
    with writing(path, RunFailed):
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
