"""Cross-validation of questions with candidates.

    python jobs/benchmarks/cross_validate.py configs/pointing/coco.yaml --folds 5

Every fold of the photographs is held out once, while a model learns from the others. Predictions are pooled, so that
each question is answered once, by a model that has seen neither it nor its photograph. key=value arguments override the
config, in every fold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# In place of this folder, whose evaluate.py would hide the library of that name.
sys.path[0] = str(Path(__file__).resolve().parents[2] / "platform")

from unrolled.api import train
from unrolled.config.load import load_config
from unrolled.data.blind_baselines import largest_region
from unrolled.data.question_readers import FOLD_SPLITS, open_questions
from unrolled.data.questions import join_question_sets
from unrolled.errors import UserError
from unrolled.files import write_atomic
from unrolled.metrics import metric_info, proportion_interval
from unrolled.run import Run, evaluate, load

NAME = "multiple_choice"


def main(arguments: list[str]) -> int:
    """Trains and evaluates every fold; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of question_answering or pointing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--folds", type=int, default=5, metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Ray workers of each training")
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    parser.add_argument("--overwrite", action="store_true", help="replace runs; else those that are there are kept")
    options = parser.parse_args(arguments)
    try:
        print(*cross_validate(options), sep="\n")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def cross_validate(options: argparse.Namespace) -> list[str]:
    """Returns the lines of the pooled table, and writes predictions and scores beside the runs."""
    whole = load_config(options.config, options.overrides)
    rows: list[dict[str, Any]] = []
    for fold in range(options.folds):
        own = _answers(_trained(options, whole.name, fold), options)
        print(f"fold {fold + 1}: {_share(own)} of {len(own)} questions", flush=True)
        rows += own
    drawn = 100 * sum(1 / len(row["candidates"]) for row in rows) / len(rows)
    table = [
        f"{'':22}{metric_info(NAME).label:>16}  95 % interval",
        f"{'Chance':22}{metric_info(NAME).format(drawn):>16}",
    ]
    chosen = _baselines(whole.data) | {"This model": [row["chosen"] == row["answer"] for row in rows]}
    for name, right in chosen.items():
        low, high = (metric_info(NAME).format(100 * end) for end in proportion_interval(sum(right), len(right)))
        table.append(f"{name:22}{metric_info(NAME).format(100 * sum(right) / len(right)):>16}  {low}–{high}")
    path = Path(whole.storage) / f"{whole.name}-{options.folds}-folds.jsonl"
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return [*table, f"predictions: {path}"]


def _trained(options: argparse.Namespace, name: str, fold: int) -> Run:
    """Trains on all folds but one, unless that was done."""
    given = [f"name={name}-fold-{fold + 1}", f"data.folds={options.folds}", f"data.fold={fold}"]
    config = load_config(options.config, [*options.overrides, *given])
    path = Path(config.storage) / config.name
    if path.exists() and not options.overwrite:
        return load(path)
    return train(config, workers=options.workers, local=options.local, overwrite=options.overwrite)


def _answers(run: Run, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the run answers to the questions that were held out: as it ended, since its best checkpoint would be the one
    that happens to suit these."""
    (report,) = evaluate([run], ["validation"], checkpoint="last", local=options.local)
    text = (report.path.parent / "outputs.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    if not all("chosen" in row for row in rows):
        raise UserError(f"{run.path}: questions have no candidates; cross-validation counts right choices.")
    return rows


def _baselines(data: Any) -> dict[str, list[bool]]:
    """Which questions the largest region answers, where candidates are regions."""
    whole = data.model_copy(update={"folds": None, "fold": 0})
    asked = join_question_sets([open_questions(whole, split) for split in FOLD_SPLITS])
    if not asked.boxes:
        return {}
    places = largest_region(asked.questions, asked.boxes)
    return {"The largest region": [p == each.answer_index for p, each in zip(places, asked.questions, strict=True)]}


def _share(rows: list[dict[str, Any]]) -> str:
    return metric_info(NAME).format(100 * sum(row["chosen"] == row["answer"] for row in rows) / len(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
