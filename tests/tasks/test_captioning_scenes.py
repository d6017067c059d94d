"""The shipped example of captioning, as a person runs it: two Ray workers learn to read drawn scenes."""

from __future__ import annotations

import pytest

from repository import CONFIGS
from unrolled import api
from unrolled.config.load import load_config

CONFIG = CONFIGS / "captioning" / "scenes.yaml"


@pytest.mark.slow
def test_scenes_are_described_word_for_word(tmp_path):
    run = api.train(load_config(CONFIG, [f"storage={tmp_path}"]), workers=2)
    best = max(row["exact_match"] for row in run.folder.history() if row["kind"] == "validation")
    assert best >= 95
    report = run.evaluate("test", ["greedy"], workers=2)
    assert report.scores["greedy"]["exact_match"] >= 95
