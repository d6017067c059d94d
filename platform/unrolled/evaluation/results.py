"""Scores of decoded outputs: computed, written to files, shown on the console.

Scores of decoded outputs, and the files of an evaluation.

How well words are found, by how often the training split has them.

Scores of texts that were made elsewhere: files with one text a line.

Scores of several systems as a person reads them on a console of 100 columns.
"""

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


BANDS = 5
"""Groups of equal size into which the examples are cut by the length of their input."""
ATTENDED = 6
"""Examples of which outputs.jsonl says where the model looked."""
WORDS = ("distinct_1", "distinct_2", "length_ratio")
"""Measures of the outputs' words, besides the metrics that the config names."""


def strategy_results(
    task: Seq2SeqTask,
    strategy: Strategy,
    inputs: Sequence[str],
    answers: Sequence[Output],
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
        "by_length": [] if isinstance(task, ImageInputTask) else _by_length(task, inputs, outputs, references),
    }


def _samples(
    task: Seq2SeqTask,
    strategy: Strategy,
    answers: Sequence[Output],
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
    task: Seq2SeqTask, inputs: Sequence[str], outputs: Sequence[str], references: References
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
    inputs: Sequence[str], references: References, answers: Mapping[str, Sequence[Output]], ranked: Sequence[str]
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
    with explain_write_errors(path, RunFailed):
        write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces `path` by JSON lines, whole or not at all; raises `RunFailed` where it cannot be written."""
    with explain_write_errors(path, RunFailed):
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


BINS = (("never", 0), ("1–9 times", 9), ("10–99 times", 99), ("100–999 times", 999), ("1,000 times or more", None))
"""What each bin is called, and the largest count in it."""


def words(text: str) -> list[str]:
    """Returns the words of a text as BLEU counts them."""
    return str(Tokenizer13a()(text)).split()


def f1_by_frequency(
    training: Iterable[str], outputs: Mapping[str, Sequence[str]], references: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Returns for every system a row a bin: `label`, the `words` of the references in it, and `f1`, 0 to 1: the
    harmonic mean of the shares of its written words that the reference has and of the reference's that are written, a
    word counting as often as both have it. Bins without words of the references are left out.

    Args:
        training: target texts of the training split.
        outputs: by the names of the systems.
    """
    counts = Counter(word for text in training for word in words(text))
    expected = [Counter(words(text)) for text in references]
    wanted = _binned(counts, expected)
    rows = {}
    for name, texts in outputs.items():
        written = [Counter(words(text)) for text in texts]
        right = _binned(counts, [one & other for one, other in zip(written, expected, strict=True)])
        emitted = _binned(counts, written)
        rows[name] = [
            {"label": label, "words": wanted[place], "f1": 2 * right[place] / (wanted[place] + emitted[place])}
            for place, (label, _) in enumerate(BINS)
            if wanted[place]
        ]
    return rows


def _binned(counts: Mapping[str, int], sentences: Iterable[Counter[str]]) -> Counter[int]:
    """Returns how many words are in every bin."""
    total: Counter[int] = Counter()
    for sentence in sentences:
        for word, times in sentence.items():
            total[_bin(counts.get(word, 0))] += times
    return total


def _bin(count: int) -> int:
    return next(place for place, (_, most) in enumerate(BINS) if most is None or count <= most)


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


COLUMNS = 100
NAME = 28
"""The widest name that stands beside its numbers; a wider one stands above them."""


def score_table(metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a row a system and the signatures behind the scores.

    Scores come with 95 % intervals, where the line has room for them, and with letters where several systems are
    compared; those of several samples with their standard deviation instead.

    Args:
        systems: rows of results.json's `strategies` by name; `sentences_per_second` may be missing.
    """
    lines = _laid_out(_cells(metrics, systems, intervals=True))
    if max(map(len, lines)) > COLUMNS:
        lines = _laid_out(_cells(metrics, systems, intervals=False))
    signatures: dict[str, None] = {}
    for row in systems.values():
        signatures |= dict.fromkeys(f"signature of {name}: {text}" for name, text in row["signatures"].items())
    several = "the same letter: no significant difference (paired randomization, Holm, 5 %)"
    return [*lines, *([several] if _lettered(systems) else []), *signatures]


def merge_tables(reports: Sequence[EvaluationReport]) -> list[str]:
    """Returns the lines of several reports: one table, where all were decoded and scored alike."""
    systems: dict[str, dict[str, Any]] = {}
    kinds = set()
    for report in reports:
        for name, row in report.scores.items():
            if not isinstance(row, dict):
                break
            kinds.add(tuple(row["intervals"]))
            # Tests were made within each report, so letters of different ones say nothing of each other.
            systems[" ".join((*report.of, name))] = {key: value for key, value in row.items() if key != "letters"}
    if len(kinds) == 1 and len(systems) == sum(len(report.scores) for report in reports):
        return score_table(list(kinds.pop()), systems)
    return [line for report in reports for line in (" ".join(report.of), *report.lines)]


def _lettered(systems: Mapping[str, Mapping[str, Any]]) -> bool:
    return len(systems) > 1 and any("letters" in row for row in systems.values())


def _cells(
    metrics: Sequence[str], systems: Mapping[str, Mapping[str, Any]], *, intervals: bool
) -> list[tuple[str, ...]]:
    timed = any("sentences_per_second" in row for row in systems.values())
    cells = [("", *(name.replace("_", " ") for name in metrics), *(["sentences/s"] if timed else []))]
    for name, row in systems.items():
        speed = row.get("sentences_per_second")
        scores = (_score(one, row, letters=_lettered(systems), interval=intervals) for one in metrics)
        cells.append((name, *scores, *([f"{speed:,.0f}" if speed else ""] if timed else [])))
    return cells


def _score(name: str, row: Mapping[str, Any], *, letters: bool, interval: bool) -> str:
    def text(value: float) -> str:
        return metric_info(name).format(value).rstrip("\N{NO-BREAK SPACE}%")

    if samples := row.get("samples"):
        parts = [f"{text(samples['mean'][name])} ± {text(samples['deviation'][name])}"]
    else:
        parts = [text(row[name])]
        if interval and name in row["intervals"]:
            parts.append("–".join(map(text, row["intervals"][name])))
    if letters and name in row["letters"]:
        parts.append(row["letters"][name])
    return " ".join(parts)


def _laid_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    first = max(len(row[0]) for row in rows if len(row[0]) <= NAME)
    widths = [first, *(max(map(len, column)) for column in list(zip(*rows, strict=True))[1:])]
    lines = []
    for name, *cells in rows:
        beside = name if len(name) <= NAME else ""
        if name != beside:
            lines.append(name)
        parts = [cell.ljust(width) for cell, width in zip((beside, *cells), widths, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines
