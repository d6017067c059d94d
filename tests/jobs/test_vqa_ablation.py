"""The job that says what looking is worth: its table, by hand."""

from __future__ import annotations

import sys

from repository import JOBS

sys.path.append(str(JOBS / "benchmarks"))

from vqa_ablation import BLIND, table, without_learning
from vqa_runs import settings, visual7w_folder


def test_the_table_tests_every_row_against_the_blind_model():
    right, wrong = [100.0] * 30, [0.0] * 30
    rows = {
        "chance": [25.0] * 60,
        BLIND: right + wrong,
        "image and language, attention": right + right[:15] + wrong[:15],
    }
    chance, blind, both = table(rows, {BLIND: 20.0, "image and language, attention": 26.5})[2:]
    assert chance == "| chance | 25.0 | – | – | – |"
    assert blind.startswith(f"| {BLIND} | 50.0 | ") and blind.endswith(" | – | 20.0 |")
    *_, p, free, _ = (cell.strip() for cell in both.split("|"))
    assert float(p) < 0.01 and free == "26.5"


def test_what_is_had_without_learning(tmp_path):
    rows = without_learning(settings(visual7w_folder(tmp_path / "photos")), "validation")
    assert rows["chance"] == [25.0] * 12
    assert set(rows["most frequent answer"]) <= {0.0, 100.0}
    assert list(rows) == ["chance", "most frequent answer", "naive Bayes on the question"]
