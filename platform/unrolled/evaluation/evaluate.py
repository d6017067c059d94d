"""Evaluation of a split: decoding or measuring on workers, scores, results files and the report."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, cast

from PIL import Image

from unrolled import __version__
from unrolled.config import Config
from unrolled.config.load import dump_config
from unrolled.decoding import DEFAULT_STRATEGIES, Beam, BestOfN, Output, Strategy, parse_strategies
from unrolled.errors import UserError
from unrolled.evaluation.decode_cache import DecodeCache, fingerprint, remove_stale
from unrolled.evaluation.predictor import EnsembleMember, check_strategy
from unrolled.evaluation.results import (
    ATTENTION_EXAMPLES,
    compare_systems,
    f1_by_frequency,
    output_rows,
    score_table,
    strategy_results,
    write_json,
    write_json_lines,
    write_text,
)
from unrolled.evaluation.worker_pool import WorkerPool, chunk_by_length
from unrolled.files import explain_write_errors
from unrolled.metrics import References, as_reference_lists, metric_info
from unrolled.reports.evaluation_report import training_charts, write_report
from unrolled.reports.gallery import (
    PHOTO_SIZE,
    Picture,
    attention_data,
    choose_examples,
    embed_photos,
    question_gallery,
)
from unrolled.reports.page import Card, model_cards, report_facts, write_page
from unrolled.reports.text import rank_strategies
from unrolled.tasks import ImageInputTask, MetricResults, MetricTask, Seq2SeqTask
from unrolled.training.checkpoint import WEIGHTS, sha256
from unrolled.training.console import Console, format_score
from unrolled.training.run_dir import RunDir


@dataclass(frozen=True)
class EvaluationReport:
    """A finished evaluation.

    Attributes:
        scores: by strategy for tasks with decoded outputs, else by metric.
        path: of report.html; results.json and outputs.jsonl are in the same folder.
        title: names of the run, or of the ensemble's runs, and of the split.
        lines: the scores as printed on the console.
    """

    scores: dict[str, Any]
    path: Path
    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Evaluation(ABC):
    """The evaluation of one run, or of an ensemble, on one split.

    Attributes:
        members: the run, first, and the runs that decode with it.
        command: the equivalent command line, for the report.
    """

    members: Sequence[EnsembleMember]
    split: str
    command: str
    console: Console

    @abstractmethod
    def run(self, pool: WorkerPool) -> EvaluationReport:
        """Evaluates the split on the pool and writes results.json, outputs.jsonl and report.html to `folder`."""

    @property
    def run_dir(self) -> RunDir:
        """The folder of the first run, which takes the results."""
        return self.members[0].run

    @property
    def config(self) -> Config:
        """The first run's config with the overrides of this evaluation."""
        return self.members[0].config

    @property
    def names(self) -> str:
        """The name of the run, or those of an ensemble's runs."""
        return " + ".join(member.run.name for member in self.members)

    @property
    def title(self) -> str:
        return f"{self.names} {self.split}"

    @property
    def folder(self) -> Path:
        """The folder of the results; an ensemble's is different from that of the run alone."""
        others = "+".join(member.run.name for member in self.members[1:])
        return self.run_dir.path / "evaluation" / (f"{self.split}-with-{others}" if others else self.split)

    def make_folder(self) -> None:
        """Creates the folder; raises `UserError`, before work begins, if it cannot be written to."""
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()

    def progress(self, label: str, total: int, unit: str, done: int = 0) -> Callable[[int], None]:
        """Returns a function that adds a count to `done` and shows the progress on the console."""

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.console.show_progress(label, done, total, unit)

        return advance

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of the run's metrics.jsonl; empty for an ensemble."""
        return self.run_dir.history() if len(self.members) == 1 else []

    @property
    def config_yaml(self) -> str:
        if len(self.members) == 1:
            return dump_config(self.config)
        return "\n".join(f"# {member.run.name}\n{dump_config(member.config)}" for member in self.members)

    def provenance(self, pool: WorkerPool) -> dict[str, Any]:
        """Returns the entries of results.json that say how it was made."""
        several = len(self.members) > 1
        models = [member.task().build_model() for member in self.members]
        checkpoints = [
            f"{member.run.name} {member.checkpoint.name}" if several else member.checkpoint.name
            for member in self.members
        ]
        return {
            "run": self.names,
            **({"ensemble": [str(member.run.path) for member in self.members]} if several else {}),
            "task": self.config.task,
            "split": self.split,
            "checkpoint": "; ".join(checkpoints),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.command,
            "version": __version__,
            "device": pool.device,
            "workers": pool.workers,
            "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
        }


@dataclass(frozen=True)
class DecodingEvaluation(Evaluation):
    """Decodes a split with every strategy and compares the outputs with references.

    Outputs that an interrupted evaluation has decoded are read from the decode cache.

    Attributes:
        strategies: by their spellings.
        inputs: of the split.
        references: one or several per input.
    """

    task: Seq2SeqTask
    strategies: Mapping[str, Strategy]
    inputs: Sequence[str]
    references: References

    def run(self, pool: WorkerPool) -> EvaluationReport:
        metrics = list(self.task.metric_names)
        outputs: dict[str, Sequence[Output]] = {}
        scores: dict[str, dict[str, Any]] = {}
        caches = self._open_caches(pool)
        for name, strategy in self.strategies.items():
            advance = self.progress(name, len(self.inputs), "decoded", done=caches[name].num_examples)
            outputs[name], seconds = pool.decode(strategy, self.inputs, caches[name], advance)
            scores[name] = strategy_results(self.task, strategy, self.inputs, outputs[name], self.references, seconds)
        texts = {name: [output.text for output in each] for name, each in outputs.items()}
        compared, comparisons = compare_systems(metrics, texts, self.references)
        scores = {name: row | compared[name] for name, row in scores.items()}
        data = self.config.data.model_dump()
        results = {
            **self.provenance(pool),
            "headline": metrics[0],
            "examples": len(self.inputs),
            "data": {"source": data["source"], **data["columns"]},
            "strategies": scores,
            "comparisons": comparisons,
            "by_frequency": self._f1_by_frequency(texts),
            **(
                {"unreadable": self.task.unreadable_photos(self.split)} if isinstance(self.task, ImageInputTask) else {}
            ),
        }
        ranked = [name for name, strategy in self.strategies.items() if isinstance(strategy, Beam | BestOfN)]
        rows = output_rows(self.inputs, self.references, outputs, ranked)
        best = rank_strategies(results, metrics[0])[0]
        pictures: dict[int, Picture] = {}
        attention_rows = rows[:ATTENTION_EXAMPLES]
        if isinstance(self.task, ImageInputTask):
            examples = choose_examples(metrics[0], texts, self.references, best)
            for index, reason in examples.items():
                rows[index]["shown"] = reason
            attention_rows = [rows[index] for index in examples]
            pictures = embed_photos(self._photos(self.task, attention_rows))
        calls = [(row["input"], row["outputs"][best]) for row in attention_rows]
        for index, attended in pool.imap_unordered("attention", calls):
            if attended is not None:
                attention_rows[index]["attention"] = {"strategy": best, **attended._asdict()}
        write_json(self.folder / "results.json", results)
        write_json_lines(self.folder / "outputs.jsonl", rows)
        page = self.folder / "report.html"
        write_report(results, rows, self.history, self.config_yaml, page, pictures)
        remove_stale(self.folder / "decoded", caches.values())
        return EvaluationReport(scores, page, self.title, score_table(metrics, scores))

    def _open_caches(self, pool: WorkerPool) -> dict[str, DecodeCache]:
        """Opens the decode cache of every strategy and prints what was found there."""
        model, decoding = self._model_fingerprint(pool), self.task.decoding.model_dump()
        sizes = [len(chunk) for chunk in chunk_by_length(self.inputs)]
        caches = {}
        for name, strategy in self.strategies.items():
            key = fingerprint(model, strategy, decoding, self.inputs)
            cache = DecodeCache(self.folder / "decoded", key, sizes)
            if cache.damaged:
                lines = ", ".join(map(str, cache.damaged))
                self.console.print(f"{cache.path}: damaged in line {lines}; what was there is decoded anew")
            if found := cache.num_examples:
                self.console.print(f"{name}: {found:,} of {len(self.inputs):,} found from an earlier start")
            caches[name] = cache
        return caches

    def _model_fingerprint(self, pool: WorkerPool) -> str:
        """Returns a name of everything that determines the model, or each model of an ensemble."""
        parts = [
            (
                [sha256(folder / WEIGHTS) for folder in member.checkpoint.folders],
                [(path.name, sha256(path)) for path in sorted(member.run.vocabulary.glob("*.json"))],
                (member.config.model.model_dump(), member.config.training.parameter_type),
            )
            for member in self.members
        ]
        return json.dumps([parts, __version__, pool.device], sort_keys=True)

    def _f1_by_frequency(self, outputs: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, Any]]]:
        """Returns F1 by the words' frequency in the training split; empty if that split cannot be read, or if there
        are several references, which leave open which words were expected."""
        references = as_reference_lists(self.references)
        if any(len(each) > 1 for each in references):
            return {}
        try:
            _, training = self.task.examples("train")
        except UserError:
            return {}
        training_texts = [text for each in as_reference_lists(training) for text in each]
        return f1_by_frequency(training_texts, outputs, [text for (text,) in references])

    def _photos(self, task: ImageInputTask, rows: Sequence[Mapping[str, Any]]) -> dict[int, Image.Image]:
        """Returns the photographs of the rows by example index, and prints which can no longer be read."""
        photos = {}
        for row in rows:
            try:
                photos[row["index"]] = task.load_photo(row["input"], min_side=PHOTO_SIZE)
            except UserError as error:
                self.console.print(f"not in the gallery: {error}")
        return photos


@dataclass(frozen=True)
class MetricEvaluation(Evaluation):
    """Measures the model's predictions on a split, without a search.

    Attributes:
        data: the split as returned by `task.open`.
    """

    task: MetricTask
    data: Any

    def run(self, pool: WorkerPool) -> EvaluationReport:
        num_shards, began = self.task.num_shards(self.data), time.perf_counter()
        unit = "shares measured" if num_shards > 1 else "share measured"
        advance = self.progress(self.split, num_shards, unit)
        shards = pool.evaluate_shards(self.data, num_shards, advance)
        seconds = time.perf_counter() - began
        ((_, results),) = pool.imap_unordered("summarize", [(self.data, shards)])
        entries = {
            **self.provenance(pool),
            "targets": results.targets,
            "seconds": round(seconds, 3),
            "targets_per_second": round(results.targets / seconds, 1),
            "scores": results.scores,
            "intervals": results.intervals,
        }
        if source := self.config.data.model_dump().get("source"):
            entries["data"] = {"source": source}
        write_json(self.folder / "results.json", entries)
        write_json_lines(self.folder / "outputs.jsonl", results.outputs)
        for name, text in results.files.items():
            write_text(self.folder / name, text)
        gallery = []
        if results.gallery:
            gallery = question_gallery(results.gallery, cast(ImageInputTask, self.task).load_photo, PHOTO_SIZE)
        self._write_report(entries, results, gallery)
        return EvaluationReport(results.scores, self.folder / "report.html", self.title, _score_lines(results))

    def _write_report(self, entries: dict[str, Any], results: MetricResults, gallery: list[dict[str, Any]]) -> None:
        scores = [
            {
                "label": metric_info(name).label,
                "text": metric_info(name).format(value),
                "interval": _format_interval(results, name),
                "about": metric_info(name).about,
            }
            for name, value in results.scores.items()
        ]
        first = scores[0]
        summary = f"Measured on {results.targets:,} targets of the {self.split} split."
        if first["interval"]:
            ends = first["interval"].replace("–", " and ")
            summary += f" With 95 % confidence the {first['label'].lower()} lies between {ends}."
        write_page(
            self.folder / "report.html",
            "metrics.html.j2",
            {"training": training_charts(self.history, next(iter(results.scores)))},
            results=entries,
            headline=" and ".join(f"{row['label'].lower()} {row['text']}" for row in scores[:2]).capitalize() + ".",
            summary=summary,
            cards=[Card(row["label"], row["text"], [row["interval"]] if row["interval"] else []) for row in scores]
            + model_cards(entries, self.history),
            scores=scores,
            findings=results,
            gallery=gallery,
            attention=attention_data(gallery),
            facts=report_facts(entries),
            config_yaml=self.config_yaml,
        )


def _score_lines(results: MetricResults) -> list[str]:
    lines = [f"{results.targets:,} targets"]
    for name, value in results.scores.items():
        interval = _format_interval(results, name)
        lines.append(f"{format_score(name, value)}" + (f"  (95 % interval {interval})" if interval else ""))
    return lines


def _format_interval(results: MetricResults, name: str) -> str:
    if name not in results.intervals:
        return ""
    low, high = (metric_info(name).format(end) for end in results.intervals[name])
    return f"{low}–{high}"


def prepare_evaluation(
    members: Sequence[EnsembleMember], split: str, decode: Sequence[str], command: str, console: Console
) -> Evaluation:
    """Opens the split and returns its evaluation, checked as far as possible before work begins.

    Args:
        decode: strategies, such as `beam` or `beam:size=10`; `DEFAULT_STRATEGIES` if empty.

    Raises:
        UserError: an unknown strategy or split, settings that contradict a strategy, or strategies for a task without
            decoding.
    """
    task = members[0].task()
    if isinstance(task, Seq2SeqTask):
        strategies = parse_strategies(decode or DEFAULT_STRATEGIES, task.decoding)
        for strategy in strategies.values():
            check_strategy(members, strategy)
        return DecodingEvaluation(members, split, command, console, task, strategies, *task.examples(split))
    name = members[0].config.task
    if decode:
        raise UserError(f"--decode: task {name} is measured on the data themselves; leave --decode out.")
    assert isinstance(task, MetricTask), f"task {name} is neither a Seq2SeqTask nor a MetricTask"
    return MetricEvaluation(members, split, command, console, task, task.open(split))
