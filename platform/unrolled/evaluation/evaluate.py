"""Evaluation of a split.

What every evaluation of a run is given and gives back.

The evaluation of a task that answers in text: decode a split with every strategy, score, and write the report.

The evaluation of a task that is measured on the data themselves.

From a task to the evaluation that suits it, with everything checked that can be before work begins.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, cast

from PIL import Image

from unrolled.config import Config
from unrolled.config.load import dump_config
from unrolled.decoding import DEFAULT_STRATEGIES, Beam, BestOfN, Output, Strategy, parse_strategies
from unrolled.errors import UserError
from unrolled.evaluation.decode_cache import DecodeCache, fingerprint, forget_others
from unrolled.evaluation.ensemble import EnsembleMember, check_strategy
from unrolled.evaluation.results import (
    ATTENDED,
    compare_all,
    f1_by_frequency,
    output_rows,
    score_table,
    strategy_results,
    write_json,
    write_lines,
)
from unrolled.evaluation.worker_pool import Advance, WorkerPool, chunks, examine, write
from unrolled.files import explain_write_errors, write_atomic
from unrolled.metrics import References, as_reference_lists, metric_info
from unrolled.reports.evaluation_report import training_charts, write_report
from unrolled.reports.gallery import SIDE, Picture, choose_examples, embedded, question_gallery
from unrolled.reports.page import Card, facts, size_and_training, write_page
from unrolled.reports.text import ranking
from unrolled.tasks import Findings, ImageInputTask, MetricTask, Seq2SeqTask, Task, VQATask
from unrolled.training.checkpoint import sha256, weights_sha256
from unrolled.training.console import format_score
from unrolled.training.run_dir import RunDir


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one split.

    Attributes:
        members: the run, first, and those that decode with it.
        command: the command line, for the report.
        show: told what is done, how often, of how many, and in what word.
        say: told what a person should know besides.
    """

    members: Sequence[EnsembleMember]
    split: str
    command: str
    version: str
    show: Callable[[str, int, int, str], None]
    say: Callable[[str], None]

    @property
    def run(self) -> RunDir:
        """The run whose folder takes the results."""
        return self.members[0].run

    @property
    def config(self) -> Config:
        """The run's, with the settings of this evaluation."""
        return self.members[0].config

    @property
    def folder(self) -> Path:
        """Where its files go; an ensemble's do not replace those of the run alone."""
        others = "+".join(member.run.name for member in self.members[1:])
        return self.run.path / "evaluation" / (f"{self.split}-with-{others}" if others else self.split)

    @property
    def decoded(self) -> Path:
        """Where what was decoded is kept, so that it need not be decoded again."""
        return self.folder / "decoded"

    def make_folder(self) -> None:
        """Makes sure, before work begins, that its files can be written.

        Raises:
            UserError: they cannot.
        """
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()

    def progress(self, what: str, total: int, word: str, done: int = 0) -> Advance:
        """Returns what counts on from `done` to `total` and shows it."""

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.show(what, done, total, word)

        return advance

    @property
    def of(self) -> tuple[str, str]:
        """Names the run, or all of an ensemble, and the split."""
        return " + ".join(member.run.name for member in self.members), self.split

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of the training; none of an ensemble, which was not trained as one."""
        return self.run.history() if len(self.members) == 1 else []

    @property
    def config_yaml(self) -> str:
        """The configs, as the report shows them."""
        if len(self.members) == 1:
            return dump_config(self.config)
        return "\n".join(f"# {member.run.name}\n{dump_config(member.config)}" for member in self.members)


@dataclass(frozen=True)
class EvaluationReport:
    """A finished evaluation.

    Attributes:
        scores: by strategy where there are strategies, else by name.
        path: of report.html; results.json and outputs.jsonl lie beside it.
        of: what was evaluated: run and split.
        lines: the scores as a person reads them.
    """

    scores: dict[str, Any]
    path: Path
    of: tuple[str, str]
    lines: Sequence[str]


def provenance(evaluation: Evaluation, workforce: WorkerPool) -> dict[str, Any]:
    """Returns what results.json says of how it was made."""
    members = evaluation.members
    several = len(members) > 1
    models = [member.task().build_model() for member in members]
    checkpoints = [
        f"{member.run.name} {member.checkpoint.name}" if several else member.checkpoint.name for member in members
    ]
    return {
        "run": evaluation.of[0],
        **({"ensemble": [str(member.run.path) for member in members]} if several else {}),
        "task": evaluation.config.task,
        "split": evaluation.split,
        "checkpoint": "; ".join(checkpoints),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": evaluation.command,
        "version": evaluation.version,
        "device": workforce.device,
        "workers": workforce.workers,
        "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
    }


def evaluate_decoded(
    evaluation: Evaluation,
    workforce: WorkerPool,
    *,
    task: Seq2SeqTask,
    strategies: dict[str, Strategy],
    texts: tuple[list[str], References],
) -> EvaluationReport:
    """Decodes a split with each strategy and writes `evaluation/<split>/` of the run.

    What an earlier evaluation that was cut off had decoded is not decoded again.

    Args:
        texts: inputs of the split and the references of each.
    """
    inputs, references = texts
    metrics = list(task.shown)
    answers: dict[str, Sequence[Output]] = {}
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
        **({"unreadable": task.unreadable(evaluation.split)} if isinstance(task, ImageInputTask) else {}),
    }
    ranked = [name for name, strategy in strategies.items() if isinstance(strategy, Beam | BestOfN)]
    rows = output_rows(inputs, references, answers, ranked)
    leader = ranking(results, metrics[0])[0]
    pictures: dict[int, Picture] = {}
    attended = rows[:ATTENDED]
    if isinstance(task, ImageInputTask):
        shown = choose_examples(metrics[0], outputs, references, leader)
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
    return EvaluationReport(scores, page, evaluation.of, score_table(metrics, scores))


def _kept(
    evaluation: Evaluation,
    workforce: WorkerPool,
    task: Seq2SeqTask,
    strategies: Mapping[str, Strategy],
    inputs: Sequence[str],
) -> dict[str, DecodeCache]:
    """Opens what there is of every strategy, and says what of it can be used."""
    model, decoding = _model_name(evaluation, workforce), task.decoding.model_dump()
    sizes = [len(chunk) for chunk in chunks(inputs)]
    kept = {}
    for name, strategy in strategies.items():
        one = DecodeCache(evaluation.decoded, fingerprint(model, strategy, decoding, inputs), sizes)
        if one.damaged:
            lines = ", ".join(map(str, one.damaged))
            evaluation.say(f"{one.path}: damaged in line {lines}; what was there is decoded anew")
        if found := sum(len(chunk.answers) for chunk in one.chunks.values()):
            evaluation.say(f"{name}: {found:,} of {len(inputs):,} found from an earlier start")
        kept[name] = one
    return kept


def _model_name(evaluation: Evaluation, workforce: WorkerPool) -> str:
    """Names all that the model, or each of an ensemble, is made of."""
    parts = [
        (
            [weights_sha256(folder) for folder in member.checkpoint.folders],
            [(path.name, sha256(path)) for path in sorted(member.run.vocabulary.glob("*.json"))],
            (member.config.model.model_dump(), member.config.training.parameter_type),
        )
        for member in evaluation.members
    ]
    return json.dumps([parts, evaluation.version, workforce.device], sort_keys=True)


def _by_frequency(
    task: Seq2SeqTask, outputs: Mapping[str, Sequence[str]], references: References
) -> dict[str, list[dict[str, Any]]]:
    """Returns scores of words by their frequency in the training split; nothing where that is not at hand, or where
    several references leave open which words were wanted."""
    wanted = as_reference_lists(references)
    if any(len(each) > 1 for each in wanted):
        return {}
    try:
        _, training = task.texts("train")
    except UserError:
        return {}
    learned = [text for each in as_reference_lists(training) for text in each]
    return f1_by_frequency(learned, outputs, [text for (text,) in wanted])


def _photos(evaluation: Evaluation, task: ImageInputTask, rows: Sequence[Mapping[str, Any]]) -> dict[int, Image.Image]:
    """Returns the photographs of the rows by their index; says which are not there any more."""
    photos = {}
    for row in rows:
        try:
            photos[row["index"]] = task.photo(row["input"], least=SIDE)
        except UserError as error:
            evaluation.say(f"not in the gallery: {error}")
    return photos


def _add_attention(workforce: WorkerPool, rows: Sequence[dict[str, Any]], strategy: str) -> None:
    """Adds to the rows where the model looks while it writes what the strategy found."""
    calls = [(row["input"], row["outputs"][strategy]) for row in rows]
    for place, attended in workforce.each("attention", calls):
        if attended is not None:
            rows[place]["attention"] = {"strategy": strategy, **attended._asdict()}


def evaluate_examined(
    evaluation: Evaluation, workforce: WorkerPool, *, task: MetricTask, data: Any
) -> EvaluationReport:
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
        write_atomic(evaluation.folder / name, text)
    page = evaluation.folder / "report.html"
    gallery = question_gallery(findings.shown, cast(VQATask, task).photo, SIDE) if findings.shown else []
    _write_report(evaluation, results, findings, gallery)
    return EvaluationReport(findings.scores, page, evaluation.of, _lines(findings))


def _lines(findings: Findings) -> list[str]:
    lines = [f"{findings.targets:,} targets"]
    for name, value in findings.scores.items():
        interval = _interval(findings, name)
        lines.append(f"{format_score(name, value)}" + (f"  (95 % interval {interval})" if interval else ""))
    return lines


def _interval(findings: Findings, name: str) -> str:
    if name not in findings.intervals:
        return ""
    low, high = (metric_info(name).format(end) for end in findings.intervals[name])
    return f"{low}–{high}"


def _write_report(
    evaluation: Evaluation, results: dict[str, Any], findings: Findings, gallery: list[dict[str, Any]]
) -> None:
    history = evaluation.history
    scores = [
        {
            "label": metric_info(name).label,
            "text": metric_info(name).format(value),
            "interval": _interval(findings, name),
            "about": metric_info(name).about,
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


Conduct = Callable[[Evaluation, WorkerPool], EvaluationReport]


def prepare_evaluation(task: Task, members: Sequence[EnsembleMember], split: str, decode: Sequence[str]) -> Conduct:
    """Opens the split and returns what conducts the evaluation.

    Args:
        task: of the first member.
        decode: strategies, such as `beam` or `beam:size=10`; the usual ones if empty.

    Raises:
        UserError: an unknown strategy or split, settings that contradict a strategy, or strategies for a task that is
            not decoded.
    """
    if isinstance(task, Seq2SeqTask):
        strategies = parse_strategies(decode or DEFAULT_STRATEGIES, task.decoding)
        for strategy in strategies.values():
            task.check(strategy)
            check_strategy(members[1:], strategy)
        texts = task.texts(split)
        return partial(evaluate_decoded, task=task, strategies=strategies, texts=texts)
    if decode:
        raise UserError(
            f"--decode: task {members[0].config.task} is measured on the data themselves; leave --decode out."
        )
    assert isinstance(task, MetricTask), f"nobody knows how to evaluate {members[0].config.task}"
    return partial(evaluate_examined, task=task, data=task.open(split))
