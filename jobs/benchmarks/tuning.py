"""What a sweep costs beside its trainings: Ray's actors, Tune, folders and the report against the bare loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from measure import Figure, cores, figure

ROOT = Path(__file__).resolve().parents[2]
CONCURRENT = 2
"""Trials at a time, and bare trainings too: what runs side by side shares caches and memory bandwidth."""
# A trial of 240 updates takes about 10 s on one core. No value of the space changes how long.
SWEEP = """\
task: memory
data: {{problem: adding, length: 200}}
model: {{cell: lstm, hidden: 64}}
training: {{epochs: 10, epoch_steps: {epoch}, metric: mse}}
tuning:
  space: {{training.optimizer.learning_rate: {{loguniform: [1.0e-4, 1.0e-2]}}}}
  trials: {trials}
  concurrent: {concurrent}
"""


def tuning(quick: bool) -> Iterator[Figure]:
    """Seconds of sweeps against those of their trials' configs trained by the bare loop, in turn, two at once each.

    `tuning/sweep`: from when Ray is up to when the report is written, so with the start of the actors, against half of
    the sum of the bare seconds. `tuning/trial`: of steady running, the seconds from a trial's last row to that of the
    next one in its place, less what that one says it trained.
    """
    rounds, trials, epoch = (1, 6, 8) if quick else (2, 20, 24)
    wholes, steady = [], []
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "sweep.yaml"
        config.write_text(SWEEP.format(epoch=epoch, trials=trials, concurrent=CONCURRENT), encoding="utf-8")
        for turn in range(rounds):
            sweep = tune(config, f"storage={scratch}", f"name=sweep{turn}")
            bare = _bare(sweep, Path(scratch) / f"bare{turn}")
            whole = _written(sweep / "report.html") - _written(sweep / "sweep.yaml")
            wholes.append(whole / (sum(bare) / CONCURRENT))
            ends = sorted((_written(run / "metrics.jsonl"), _trained(run)) for run in _runs(sweep))
            steady += [
                after - end - seconds for (end, _), (after, seconds) in zip(ends, ends[CONCURRENT:], strict=False)
            ]
    goal = None if quick else 1.25  # which is one of trainings that are long enough
    yield figure("tuning/sweep", wholes, goal=goal, better="lower", baseline="bare trainings")
    yield figure("tuning/trial", steady, goal=2.0, better="lower", baseline="one second")


def tune(config: Path, *overrides: str) -> Path:
    """Runs a sweep by the command, in a process of its own; returns the folder that it prints first."""
    command = [sys.executable, "-m", "unrolled", "tune", str(config), *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    return Path(done.stdout.splitlines()[0].removeprefix("sweep").strip())


def _runs(sweep: Path) -> list[Path]:
    return sorted(path for path in (sweep / "trials").iterdir() if (path / "config.yaml").is_file())


def _written(path: Path) -> float:
    """When a file was written last, in seconds."""
    return path.stat().st_mtime


def _trained(run: Path) -> float:
    """The seconds of its training."""
    row = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(row)["seconds"])


def _bare(sweep: Path, storage: Path) -> Sequence[float]:
    """Seconds that `unrolled train --local` takes for every trial's config, in processes that have all modules."""
    warm = partial(_warm_up, _runs(sweep)[0], storage)
    with ProcessPoolExecutor(CONCURRENT, get_context("spawn"), initializer=warm) as processes:
        return list(processes.map(partial(_train, storage=storage), _runs(sweep)))


def _warm_up(trial: Path, storage: Path) -> None:
    import torch

    torch.set_num_threads(max(1, cores() // CONCURRENT))  # as many as a trial has
    _train(trial, storage / f"warm-{os.getpid()}", smoke=True)


def _train(trial: Path, storage: Path, *, smoke: bool = False) -> float:
    import unrolled
    from unrolled.training.console import Console

    began = time.perf_counter()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(stream=nowhere)
        overrides = [f"storage={storage}"]
        unrolled.train(trial / "config.yaml", overrides=overrides, local=True, smoke=smoke, console=console)
    return time.perf_counter() - began
