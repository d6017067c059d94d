"""Scores of decoded outputs: computed, written to results files, printed as a console table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from unrolled.decoding import Output, Sample, Strategy
from unrolled.errors import RunFailed, UserError
from unrolled.files import explain_write_errors, write_atomic
from unrolled.metrics import METRICS, ChrF, References, SummedMetric, compare, metric_info, score
from unrolled.tasks import ImageInputTask, Seq2SeqTask

if TYPE_CHECKING:
    from unrolled.evaluation.evaluate import EvaluationReport


LENGTH_GROUPS = 5
"""Groups of equal size into which the examples are divided by input length."""
ATTENTION_EXAMPLES = 6
"""Number of examples whose attention weights are in outputs.jsonl."""
WORD_METRICS = ("distinct_1", "distinct_2", "length_ratio")
"""Metrics of the outputs' words, in addition to those that the config names."""


def strategy_results(
    task: Seq2SeqTask,
    strategy: Strategy,
    inputs: Sequence[str],
    outputs: Sequence[Output],
    references: References,
    seconds: float,
) -> dict[str, Any]:
    """Returns the entry of one strategy in results.json: scores by metric, `signatures`, `settings`, speed, the model's
    mean log-probability, and scores `by_length` of the input in words, unless inputs are photographs."""
    texts = [output.text for output in outputs]
    log_probabilities = [output.log_probability for output in outputs if output.log_probability is not None]
    scores, word_scores = task.score(texts, references), score(WORD_METRICS, texts, references)
    samples = _sample_statistics(task, strategy, outputs, references, scores)
    return {
        **scores,
        **{name: word_scores[name] for name in WORD_METRICS},
        **({"model_score": sum(log_probabilities) / len(log_probabilities)} if log_probabilities else {}),
        **({"samples": samples} if samples else {}),
        "kind": strategy.name(),
        "settings": dataclasses.asdict(strategy),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(inputs) / seconds, 1),
        "by_length": [] if isinstance(task, ImageInputTask) else _by_length(task, inputs, texts, references),
    }


def _sample_statistics(
    task: Seq2SeqTask, strategy: Strategy, outputs: Sequence[Output], references: References, first: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns mean and standard deviation over several samples of the whole split; `first` are the scores of the first
    sample."""
    if type(strategy) is not Sample or strategy.samples == 1:
        return None
    count = strategy.samples
    others = (task.score([output.candidates[i].text for output in outputs], references) for i in range(1, count))
    each = [first, *others]
    table = {name: [scores[name] for scores in each] for name in task.metric_names}
    return {
        "count": count,
        "mean": {name: statistics.mean(values) for name, values in table.items()},
        "deviation": {name: statistics.stdev(values) for name, values in table.items()},
    }


def compare_systems(
    metrics: Sequence[str], outputs: Mapping[str, Sequence[str]], references: References
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Compares systems by every metric.

    Args:
        outputs: by system.

    Returns:
        By system 95 % bootstrap `intervals` and significance `letters`; and by metric the `systems`, and `p` and
        `corrected`, the p-values of all pairs before and after Holm's correction.
    """
    comparisons = {name: compare(name, outputs, references) for name in metrics}
    rows: dict[str, dict[str, Any]] = {system: {"intervals": {}, "letters": {}} for system in outputs}
    for name, comparison in comparisons.items():
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
        for name, comparison in comparisons.items()
    }
    return rows, pairs


def _by_length(
    task: Seq2SeqTask, inputs: Sequence[str], outputs: Sequence[str], references: References
) -> list[dict[str, Any]]:
    lengths = np.array([len(text.split()) for text in inputs])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_GROUPS + 1)).astype(int))
    rows = []
    for low, high in itertools.pairwise(edges.tolist()):
        last = high == int(edges[-1])
        chosen = np.flatnonzero((lengths >= low) & (lengths <= high if last else lengths < high)).tolist()
        if len(chosen) == 0:
            continue
        scores = task.score([outputs[i] for i in chosen], cast(References, [references[i] for i in chosen]))
        del scores["signatures"]
        rows.append({"from": low, "to": high if last else high - 1, "examples": len(chosen), **scores})
    return rows


def output_rows(
    inputs: Sequence[str], references: References, outputs: Mapping[str, Sequence[Output]], ranked: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl; `sentence_scores` are sentence-level chrF.

    Args:
        references: if there are several, all are listed under `references` and the first under `reference`.
        outputs: by strategy.
        ranked: the strategies whose candidates are an n-best list.
    """
    chrf = ChrF()
    scores = {name: chrf.sentence_scores([one.text for one in each], references) for name, each in outputs.items()}
    rows: list[dict[str, Any]] = []
    for i, (text, own) in enumerate(zip(inputs, references, strict=True)):
        nbest = {name: found for name in ranked if len(found := outputs[name][i].candidates) > 1}
        rows.append(
            {
                "index": i,
                "input": text,
                **({"reference": own} if isinstance(own, str) else {"reference": own[0], "references": own}),
                "outputs": {name: each[i].text for name, each in outputs.items()},
                "sentence_scores": {name: round(float(each[i]), 1) for name, each in scores.items()},
                **({"nbest": {name: [one._asdict() for one in each] for name, each in nbest.items()}} if nbest else {}),
            }
        )
    return rows


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON document atomically; raises `RunFailed` if it cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes JSON lines atomically; raises `RunFailed` if they cannot be written."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a file of an evaluation; raises `RunFailed` if it cannot be written."""
    with explain_write_errors(path, RunFailed):
        write_atomic(path, text)


FREQUENCY_BINS = (
    ("never", 0),
    ("1–9 times", 9),
    ("10–99 times", 99),
    ("100–999 times", 999),
    ("1,000 times or more", None),
)
"""Label and largest count of each bin."""


def f1_by_frequency(
    training: Iterable[str], outputs: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Returns the F1 of words by their frequency in the training split, words as BLEU's tokenizer 13a cuts them.

    Args:
        training: target texts of the training split.
        outputs: by system.

    Returns:
        For every system one row per bin that has words of the references: `label`, the number of these `words`, and
        `f1`, 0 to 1. Output and reference match in as many occurrences of a word as both have.
    """
    counts = Counter(word for text in training for word in _words(text))
    expected = [Counter(_words(text)) for text in references]
    expected_totals = _count_by_bin(counts, expected)
    rows = {}
    for name, texts in outputs.items():
        written = [Counter(_words(text)) for text in texts]
        written_totals = _count_by_bin(counts, written)
        matches = _count_by_bin(counts, [one & other for one, other in zip(written, expected, strict=True)])
        rows[name] = [
            {"label": label, "words": total, "f1": 2 * matches[place] / (total + written_totals[place])}
            for place, (label, _) in enumerate(FREQUENCY_BINS)
            if (total := expected_totals[place])
        ]
    return rows


def _words(text: str) -> list[str]:
    return str(Tokenizer13a()(text)).split()


def _count_by_bin(counts: Mapping[str, int], sentences: Iterable[Counter[str]]) -> Counter[int]:
    """Returns the number of words in each bin; `counts` are the training split's."""
    totals: Counter[int] = Counter()
    for sentence in sentences:
        for word, times in sentence.items():
            count = counts.get(word, 0)
            place = next(i for i, (_, most) in enumerate(FREQUENCY_BINS) if most is None or count <= most)
            totals[place] += times
    return totals


def score_files(
    outputs: Sequence[str], references: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Scores files of outputs that were made elsewhere.

    Args:
        outputs: one UTF-8 file per system, one text per line.
        references: likewise; several files give every output several references.
        metrics: names in `unrolled.metrics.METRICS`.

    Returns:
        By file the scores by metric, their `signatures`, 95 % `intervals` and significance `letters` (these two only
        for instances of `SummedMetric`); and by metric the comparison of all pairs of files.

    Raises:
        UserError: a metric is unknown, a file cannot be read, is empty, or has another number of lines than the others.
    """
    for option, files in (("--outputs", outputs), ("--references", references), ("--metrics", metrics)):
        for file in files:
            if list(files).count(file) > 1:
                raise UserError(f"{option}: {file} is given twice.")
    texts = {file: _read_lines("--outputs", file) for file in outputs}
    reference_texts = {file: _read_lines("--references", file) for file in references}
    (first, *others) = {**reference_texts, **texts}.items()
    for file, lines in others:
        if len(lines) != len(first[1]):
            raise UserError(
                f"{first[0]} has {len(first[1]):,} lines but {file} has {len(lines):,}; outputs and references go "
                "together line by line."
            )
    expected: References = (
        reference_texts[references[0]]
        if len(references) == 1
        else [list(each) for each in zip(*reference_texts.values(), strict=True)]
    )
    scores = {file: score(metrics, lines, expected) for file, lines in texts.items()}
    summed = [name for name in metrics if isinstance(METRICS[name](), SummedMetric)]
    compared, comparisons = compare_systems(summed, texts, expected)
    return {file: row | compared[file] for file, row in scores.items()}, comparisons


def _read_lines(option: str, file: str) -> list[str]:
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


CONSOLE_WIDTH = 100
MAX_NAME_WIDTH = 28
"""A wider name gets a line of its own above its numbers."""


def score_table(metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of a console table, one row per system, followed by the signatures of the scores.

    Scores have 95 % intervals if lines stay within `CONSOLE_WIDTH`, and significance letters if several systems are
    compared. Scores of several samples have their standard deviation instead.

    Args:
        systems: rows of results.json's `strategies` by name; `sentences_per_second` may be missing.
    """
    lines = _layout(_cells(metrics, systems, intervals=True))
    if max(map(len, lines)) > CONSOLE_WIDTH:
        lines = _layout(_cells(metrics, systems, intervals=False))
    signatures: dict[str, None] = {}
    for row in systems.values():
        signatures |= dict.fromkeys(f"signature of {name}: {text}" for name, text in row["signatures"].items())
    letters = "the same letter: no significant difference (paired randomization, Holm, 5 %)"
    return [*lines, *([letters] if _have_letters(systems) else []), *signatures]


def merge_tables(reports: Sequence[EvaluationReport]) -> list[str]:
    """Returns the lines of several reports: a single table if all have the same metrics."""
    systems: dict[str, dict[str, Any]] = {}
    metrics = set()
    for report in reports:
        for name, row in report.scores.items():
            if not isinstance(row, dict):
                break
            metrics.add(tuple(row["intervals"]))
            # Tests were made within each report, so letters cannot be compared across reports.
            systems[f"{report.title} {name}"] = {key: value for key, value in row.items() if key != "letters"}
    if len(metrics) == 1 and len(systems) == sum(len(report.scores) for report in reports):
        return score_table(list(metrics.pop()), systems)
    return [line for report in reports for line in (report.title, *report.lines)]


def _have_letters(systems: Mapping[str, Mapping[str, Any]]) -> bool:
    return len(systems) > 1 and any("letters" in row for row in systems.values())


def _cells(
    metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]], *, intervals: bool
) -> list[tuple[str, ...]]:
    timed = any("sentences_per_second" in row for row in systems.values())
    cells = [("", *(name.replace("_", " ") for name in metrics), *(["sentences/s"] if timed else []))]
    for name, row in systems.items():
        speed = row.get("sentences_per_second")
        scores = (_score_cell(one, row, letters=_have_letters(systems), interval=intervals) for one in metrics)
        cells.append((name, *scores, *([f"{speed:,.0f}" if speed else ""] if timed else [])))
    return cells


def _score_cell(name: str, row: Mapping[str, Any], *, letters: bool, interval: bool) -> str:
    def format(value: float) -> str:
        return metric_info(name).format(value).rstrip("\N{NO-BREAK SPACE}%")

    if samples := row.get("samples"):
        parts = [f"{format(samples['mean'][name])} ± {format(samples['deviation'][name])}"]
    else:
        parts = [format(row[name])]
        if interval and name in row["intervals"]:
            parts.append("–".join(map(format, row["intervals"][name])))
    if letters and name in row["letters"]:
        parts.append(row["letters"][name])
    return " ".join(parts)


def _layout(rows: Sequence[tuple[str, ...]]) -> list[str]:
    first = max(len(row[0]) for row in rows if len(row[0]) <= MAX_NAME_WIDTH)
    widths = [first, *(max(map(len, column)) for column in list(zip(*rows, strict=True))[1:])]
    lines = []
    for name, *cells in rows:
        first_cell = name if len(name) <= MAX_NAME_WIDTH else ""
        if name != first_cell:
            lines.append(name)
        parts = [cell.ljust(width) for cell, width in zip((first_cell, *cells), widths, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines
