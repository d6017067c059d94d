"""Training in a worker of Ray against the same loop in a process without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import Figure, ratio

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "translation" / "dates.yaml"
ROW = 20
"""Updates of a row of metrics.jsonl; a run's first row is warm-up."""


def ray_path(quick: bool) -> Iterator[Figure]:
    """Seconds a target token between validations, as the runs of `unrolled train` report them, in turn by both ways."""
    rounds, steps = (1, 3 * ROW) if quick else (3, 12 * ROW)
    bare, on_ray = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            bare += _run(Path(scratch), f"bare{turn}", steps, "--local")
            on_ray += _run(Path(scratch), f"ray{turn}", steps)
    yield ratio("ray/loop", bare, on_ray, goal=0.97, better="higher", baseline="without Ray")


def _run(storage: Path, name: str, steps: int, *options: str) -> list[float]:
    overrides = [
        *(f"storage={storage}", f"name={name}", f"training.max_steps={steps}"),
        *(f"training.log_every={ROW}", f"training.validate_every={steps}"),
    ]
    command = [sys.executable, "-m", "unrolled", "train", str(CONFIG), *options, *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    lines = (storage / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    return [1 / row["tokens_per_second"] for row in rows[1:]]
