"""Scores of decoded outputs, and the files of an evaluation."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from unrolled.decoding import Answer, Sample, Strategy
from unrolled.errors import RunFailed
from unrolled.files import write_whole, writing
from unrolled.metrics import ChrF, References, compare, score
from unrolled.tasks import Answerer, Viewer

BANDS = 5
"""Groups of equal size into which the examples are cut by the length of their input."""
ATTENDED = 6
"""Examples of which outputs.jsonl says where the model looked."""
WORDS = ("distinct_1", "distinct_2", "length_ratio")
"""Measures of the outputs' words, besides the metrics that the config names."""


def strategy_results(
    task: Answerer,
    strategy: Strategy,
    inputs: Sequence[str],
    answers: Sequence[Answer],
    references: References,
    seconds: float,
) -> dict[str, Any]:
    """Returns everything that results.json says of one strategy alone: scores by name, `signatures`, `settings`,
    speed, the model's own score, and scores `by_length` of the input in words, which photographs do not have."""
    outputs = [answer.text for answer in answers]
    known = [answer.log_probability for answer in answers if answer.log_probability is not None]
    scores, words = task.score(outputs, references), score(WORDS, outputs, references)
    return {
        **scores,
        **{name: words[name] for name in WORDS},
        **({"model_score": sum(known) / len(known)} if known else {}),
        **({"samples": samples} if (samples := _samples(task, strategy, answers, references, scores)) else {}),
        "kind": strategy.name(),
        "settings": dataclasses.asdict(strategy),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(inputs) / seconds, 1),
        "by_length": [] if isinstance(task, Viewer) else _by_length(task, inputs, outputs, references),
    }


def _samples(
    task: Answerer,
    strategy: Strategy,
    answers: Sequence[Answer],
    references: References,
    first: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Returns mean and standard deviation of the scores of several samples of the whole split; `first` are those of
    the first one."""
    if not isinstance(strategy, Sample) or strategy.name() != Sample.name() or strategy.samples == 1:
        return None
    count = strategy.samples
    others = (task.score([answer.candidates[i].text for answer in answers], references) for i in range(1, count))
    each = [first, *others]
    table = {name: [scores[name] for scores in each] for name in task.shown}
    return {
        "count": count,
        "mean": {name: statistics.mean(values) for name, values in table.items()},
        "deviation": {name: statistics.stdev(values) for name, values in table.items()},
    }


def compare_all(
    metrics: Sequence[str], outputs: Mapping[str, Sequence[str]], references: References
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Compares systems by every metric.

    Args:
        outputs: by the names of the systems.

    Returns:
        95 % bootstrap `intervals` and significance `letters` of every system, and what results.json says of every
        metric: the `systems`, and `p` and `corrected`, the p-values of every two before and after Holm's correction.
    """
    compared = {name: compare(name, outputs, references) for name in metrics}
    rows: dict[str, dict[str, Any]] = {system: {"intervals": {}, "letters": {}} for system in outputs}
    for name, comparison in compared.items():
        letters = comparison.letters()
        for system, interval in zip(comparison.systems, comparison.intervals.tolist(), strict=True):
            rows[system]["intervals"][name] = interval
            rows[system]["letters"][name] = letters[system]
    pairs = {
        name: {
            "systems": list(comparison.systems),
            "p": comparison.p_values.tolist(),
            "corrected": comparison.corrected().tolist(),
        }
        for name, comparison in compared.items()
    }
    return rows, pairs


def _by_length(
    task: Answerer, inputs: Sequence[str], outputs: Sequence[str], references: References
) -> list[dict[str, Any]]:
    lengths = np.array([len(text.split()) for text in inputs])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BANDS + 1)).astype(int))
    rows = []
    for low, high in itertools.pairwise(edges.tolist()):
        last = high == int(edges[-1])
        chosen = np.flatnonzero((lengths >= low) & (lengths <= high if last else lengths < high)).tolist()
        if len(chosen) == 0:
            continue
        scores = task.score([outputs[i] for i in chosen], cast(References, [references[i] for i in chosen]))
        del scores["signatures"]
        top = high if last else high - 1
        rows.append({"from": low, "to": top, "examples": len(chosen), **scores})
    return rows


def output_rows(
    inputs: Sequence[str], references: References, answers: Mapping[str, Sequence[Answer]], ranked: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl; `sentence_scores` are sentence-level chrF.

    Args:
        references: of several, all stand under `references`, and the first under `reference`.
        answers: by strategy.
        ranked: the strategies whose candidates are a list of the best.
    """
    chrf = ChrF()
    scores = {name: chrf.sentence_scores([one.text for one in each], references) for name, each in answers.items()}
    rows: list[dict[str, Any]] = []
    for i, (text, truths) in enumerate(zip(inputs, references, strict=True)):
        outputs = {name: each[i].text for name, each in answers.items()}
        wanted = {"reference": truths} if isinstance(truths, str) else {"reference": truths[0], "references": truths}
        best = {name: found for name in ranked if len(found := answers[name][i].candidates) > 1}
        rows.append(
            {
                "index": i,
                "input": text,
                **wanted,
                "outputs": outputs,
                "sentence_scores": {name: round(float(each[i]), 1) for name, each in scores.items()},
                **({"nbest": {name: [one._asdict() for one in each] for name, each in best.items()}} if best else {}),
            }
        )
    return rows


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by a JSON document, whole or not at all; raises `RunFailed` where it cannot be written."""
    with writing(path, RunFailed):
        write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces `path` by JSON lines, whole or not at all; raises `RunFailed` where it cannot be written."""
    with writing(path, RunFailed):
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
