"""Scores of texts that were made elsewhere: files with one text a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.errors import UserError
from unrolled.evaluation.results import compare_all
from unrolled.metrics import METRICS, References, SummedMetric, score


def score_files(
    outputs: Sequence[str], references: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Scores files of outputs.

    Args:
        outputs: files in UTF-8, one text a line, each of one system.
        references: likewise; of several, each output has as many references.
        metrics: names in `unrolled.metrics.METRICS`.

    Returns:
        By file the scores by name, their `signatures`, 95 % `intervals` and significance `letters` (the last two of
        metrics that are functions of sums over sentences); and by metric the comparison of every two files.

    Raises:
        UserError: an unknown metric, a file that cannot be read, is empty, or has not as many lines as the others.
    """
    for option, files in (("--outputs", outputs), ("--references", references), ("--metrics", metrics)):
        for file in files:
            if list(files).count(file) > 1:
                raise UserError(f"{option}: {file} is given twice.")
    texts = {file: _lines("--outputs", file) for file in outputs}
    truths = {file: _lines("--references", file) for file in references}
    (first, *others) = {**truths, **texts}.items()
    for file, lines in others:
        if len(lines) != len(first[1]):
            raise UserError(
                f"{first[0]} has {len(first[1]):,} lines but {file} has {len(lines):,}; outputs and references go "
                "together line by line."
            )
    expected: References = (
        truths[references[0]] if len(references) == 1 else [list(r) for r in zip(*truths.values(), strict=True)]
    )
    scores = {file: score(metrics, lines, expected) for file, lines in texts.items()}
    summed = [name for name in metrics if isinstance(METRICS[name](), SummedMetric)]
    compared, pairs = compare_all(summed, texts, expected)
    return {file: row | compared[file] for file, row in scores.items()}, pairs


def _lines(option: str, file: str) -> list[str]:
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{option} {file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{option} {file}, line {line}: is not UTF-8 text.") from None
    if not text:
        raise UserError(f"{option} {file}: is empty; accepted is one text a line.")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
