"""The evaluation of a task that answers in text: decode a split with every strategy, score, and write the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from unrolled.decoding import Answer, Beam, Best, Strategy
from unrolled.errors import UserError
from unrolled.evaluation.evaluation import Evaluation, Report, provenance
from unrolled.evaluation.frequency import f1_by_frequency
from unrolled.evaluation.gallery import SIDE, Picture, choose, embedded
from unrolled.evaluation.job import Workforce, chunks, write
from unrolled.evaluation.kept import Kept, fingerprint, forget_others
from unrolled.evaluation.report import write_report
from unrolled.evaluation.results import (
    ATTENDED,
    compare_all,
    output_rows,
    strategy_results,
    write_json,
    write_lines,
)
from unrolled.evaluation.table import table
from unrolled.evaluation.wording import ranking
from unrolled.metrics import References, grouped
from unrolled.tasks import Answerer, Viewer
from unrolled.training.checkpoint import file_sum, weights_sum


def evaluate_decoded(
    evaluation: Evaluation,
    workforce: Workforce,
    *,
    task: Answerer,
    strategies: dict[str, Strategy],
    texts: tuple[list[str], References],
) -> Report:
    """Decodes a split with each strategy and writes `evaluation/<split>/` of the run.

    What an earlier evaluation that was cut off had decoded is not decoded again.

    Args:
        texts: inputs of the split and the references of each.
    """
    inputs, references = texts
    metrics = list(task.shown)
    answers: dict[str, Sequence[Answer]] = {}
    scores: dict[str, dict[str, Any]] = {}
    kept = _kept(evaluation, workforce, task, strategies, inputs)
    for name, strategy in strategies.items():
        found = sum(len(chunk.answers) for chunk in kept[name].chunks.values())
        advance = evaluation.progress(name, len(inputs), "decoded", done=found)
        answers[name], seconds = write(workforce, strategy, inputs, kept[name], advance)
        scores[name] = strategy_results(task, strategy, inputs, answers[name], references, seconds)
    outputs = {name: [answer.text for answer in each] for name, each in answers.items()}
    compared, pairs = compare_all(metrics, outputs, references)
    scores = {name: row | compared[name] for name, row in scores.items()}
    data = evaluation.config.data.model_dump()
    results = {
        **provenance(evaluation, workforce),
        "headline": metrics[0],
        "examples": len(inputs),
        "data": {"source": data["source"], **data["columns"]},
        "strategies": scores,
        "comparisons": pairs,
        "by_frequency": _by_frequency(task, outputs, references),
        **({"unreadable": task.unreadable(evaluation.split)} if isinstance(task, Viewer) else {}),
    }
    ranked = [name for name, strategy in strategies.items() if isinstance(strategy, Beam | Best)]
    rows = output_rows(inputs, references, answers, ranked)
    leader = ranking(results, metrics[0])[0]
    pictures: dict[int, Picture] = {}
    attended = rows[:ATTENDED]
    if isinstance(task, Viewer):
        shown = choose(metrics[0], outputs, references, leader)
        for place, why in shown.items():
            rows[place]["shown"] = why
        attended = [rows[place] for place in shown]
        pictures = embedded(_photos(evaluation, task, attended))
    _add_attention(workforce, attended, leader)
    write_json(evaluation.folder / "results.json", results)
    write_lines(evaluation.folder / "outputs.jsonl", rows)
    page = evaluation.folder / "report.html"
    write_report(results, rows, evaluation.history, evaluation.config_yaml, page, pictures)
    forget_others(evaluation.decoded, kept.values())
    return Report(scores, page, evaluation.of, table(metrics, scores))


def _kept(
    evaluation: Evaluation,
    workforce: Workforce,
    task: Answerer,
    strategies: Mapping[str, Strategy],
    inputs: Sequence[str],
) -> dict[str, Kept]:
    """Opens what there is of every strategy, and says what of it can be used."""
    model, decoding = _model_name(evaluation, workforce), task.decoding.model_dump()
    sizes = [len(chunk) for chunk in chunks(inputs)]
    kept = {}
    for name, strategy in strategies.items():
        one = Kept(evaluation.decoded, fingerprint(model, strategy, decoding, inputs), sizes)
        if one.damaged:
            lines = ", ".join(map(str, one.damaged))
            evaluation.say(f"{one.path}: damaged in line {lines}; what was there is decoded anew")
        if found := sum(len(chunk.answers) for chunk in one.chunks.values()):
            evaluation.say(f"{name}: {found:,} of {len(inputs):,} found from an earlier start")
        kept[name] = one
    return kept


def _model_name(evaluation: Evaluation, workforce: Workforce) -> str:
    """Names all that the model, or each of an ensemble, is made of."""
    parts = [
        (
            [weights_sum(folder) for folder in member.checkpoint.folders],
            [(path.name, file_sum(path)) for path in sorted(member.run.vocabulary.glob("*.json"))],
            (member.config.model.model_dump(), member.config.training.parameter_type),
        )
        for member in evaluation.members
    ]
    return json.dumps([parts, evaluation.version, workforce.device], sort_keys=True)


def _by_frequency(
    task: Answerer, outputs: Mapping[str, Sequence[str]], references: References
) -> dict[str, list[dict[str, Any]]]:
    """Returns scores of words by their frequency in the training split; nothing where that is not at hand, or where
    several references leave open which words were wanted."""
    wanted = grouped(references)
    if any(len(each) > 1 for each in wanted):
        return {}
    try:
        _, training = task.texts("train")
    except UserError:
        return {}
    learned = [text for each in grouped(training) for text in each]
    return f1_by_frequency(learned, outputs, [text for (text,) in wanted])


def _photos(evaluation: Evaluation, task: Viewer, rows: Sequence[Mapping[str, Any]]) -> dict[int, Image.Image]:
    """Returns the photographs of the rows by their index; says which are not there any more."""
    photos = {}
    for row in rows:
        try:
            photos[row["index"]] = task.photo(row["input"], least=SIDE)
        except UserError as error:
            evaluation.say(f"not in the gallery: {error}")
    return photos


def _add_attention(workforce: Workforce, rows: Sequence[dict[str, Any]], strategy: str) -> None:
    """Adds to the rows where the model looks while it writes what the strategy found."""
    calls = [(row["input"], row["outputs"][strategy]) for row in rows]
    for place, attended in workforce.each("attention", calls):
        if attended is not None:
            rows[place]["attention"] = {"strategy": strategy, **attended._asdict()}
