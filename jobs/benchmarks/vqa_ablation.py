"""What looking is worth: trains variants of a config of question answering that see less, and puts them into one table
with what is had without learning.

    python jobs/benchmarks/vqa_ablation.py configs/question_answering/daquar.yaml --workers 2

Every variant is a run beside the config's own, `NAME-question`, …; one that is there already is only evaluated. Further
arguments of the form key.path=value override the config of all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, whose evaluate.py would hide the library of that name
    sys.path[0] = str(Path(__file__).resolve().parents[2] / "platform")

from unrolled.api import train
from unrolled.config.load import load_config
from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.blind_baselines import chance_accuracy, most_frequent, naive_bayes
from unrolled.data.question_readers import open_questions
from unrolled.errors import UserError
from unrolled.metrics import mean_interval, paired_bootstrap_test
from unrolled.run import Run, load

SEES = {
    "question": ("language only", ["model.sees=question", "model.attention=false", "model.encoder.places=false"]),
    "picture": ("image only", ["model.sees=picture", "model.attention=false", "model.encoder.places=false"]),
    "mean": ("image and language, no attention", ["model.attention=false", "model.encoder.places=false"]),
    "attention": ("image and language, attention", ["model.attention=true"]),
}
"""Variants by the end of their runs' names: what they are called, and what is overridden."""
BLIND = "language only"
"""Against which the others are tested."""
Scores = list[float]
"""100 where the right candidate was chosen, else 0; one a question."""


def main() -> int:
    """Runs the command; returns its exit code."""
    options = _options()
    try:
        config = load_config(options.config, options.overrides)
        if not isinstance(config, QuestionAnsweringConfig):
            raise UserError(f"{options.config}: is of task {config.task}, not question_answering.")
        rows, free = without_learning(config, options.split), {}
        for ending, (name, less) in SEES.items():
            run = _trained(options, [*options.overrides, *less, f"name={config.name}-{ending}"])
            rows[name], free[name] = answered(run, options.split, options.workers)
        for line in table(rows, free):
            print(line)
    except UserError as error:
        print(f"answering: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--split", default="validation", help="of which the table is (validation)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Ray workers of every training (1)")
    return parser.parse_args()


def without_learning(config: QuestionAnsweringConfig, split: str) -> dict[str, Scores]:
    """Returns the scores of chance, of the most frequent candidate and of naive Bayes on the question."""
    learned, asked = open_questions(config.data, "train").questions, open_questions(config.data, split).questions
    chosen = {
        "most frequent answer": most_frequent(learned, asked),
        "naive Bayes on the question": naive_bayes(learned, asked),
    }
    right = [each.answer_index for each in asked]
    found = {"chance": [100 * chance_accuracy([each]) for each in asked]}
    for name, places in chosen.items():
        found[name] = [100.0 * (place == truth) for place, truth in zip(places, right, strict=True)]
    return found


def _trained(options: argparse.Namespace, overrides: Sequence[str]) -> Run:
    config = load_config(options.config, overrides)
    folder = Path(config.storage) / config.name
    if (folder / "checkpoints").is_dir():
        return load(folder)
    return train(options.config, overrides=overrides, workers=options.workers)


def answered(run: Run, split: str, workers: int) -> tuple[Scores, float]:
    """Returns which questions a run chose the right candidate for, and the percentage of its free answers that are
    right."""
    report = run.evaluate(split=split, workers=workers)
    lines = report.path.with_name("outputs.jsonl").read_text(encoding="utf-8").splitlines()
    outputs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [100.0 * (row["chosen"] == row["answer"]) for row in outputs], report.scores["accuracy"]


def table(rows: dict[str, Scores], free: dict[str, float]) -> list[str]:
    """Returns the table in Markdown: multiple choice with its 95 % interval, p of the paired bootstrap test against the
    blind model, and the accuracy of free answers."""
    lines = [
        f"| {BLIND} is the measure | multiple choice | 95 % interval | p | free answers |",
        "|---|---|---|---|---|",
    ]
    for name, scores in rows.items():
        low, high = mean_interval(scores)
        p = "–" if name in (BLIND, "chance") else f"{paired_bootstrap_test(scores, rows[BLIND]):.4f}"
        between = "–" if name == "chance" else f"{low:.1f}–{high:.1f}"
        freely = f"{free[name]:.1f}" if name in free else "–"
        lines.append(f"| {name} | {sum(scores) / len(scores):.1f} | {between} | {p} | {freely} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
