"""A run whose workers and driver are killed repeatedly ends with the parameters of an undisturbed one.

As a script, with 20 kills: `python tests/training/test_training_killed.py [KILLS] [SEED]`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ray_clusters import WORKER, of_session, wait_until
from unrolled.training import checkpoint

pytestmark = pytest.mark.slow
INTERVAL = 40
CONFIG = """\
task: translation
data: {source: dates, limit: 600}
model:
  encoder: {hidden: 24, embedding: 16}
  decoder: {hidden: 24, embedding: 16}
training: {batch_tokens: 600, epochs: 9999, validate_every: 800, checkpoint_every: 40, restarts: 99, keep: 3}
"""


class Disturbed:
    """A run, its driver, and the steps lost by each kill."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.config, self.run, self.steps = folder / "disturbed.yaml", folder / "runs" / "disturbed", steps
        self.config.write_text(CONFIG, encoding="utf-8")
        self.lost: list[int] = []
        self.driver = self.start()

    def start(self, *options, name="disturbed"):
        words = [sys.executable, "-m", "unrolled", "train", str(self.config), "--workers", "2"]
        words += [f"training.max_steps={self.steps}", f"name={name}", f"storage={self.run.parent}", *options]
        log = (self.config.parent / f"{name}.txt").open("ab")
        return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def step(self):
        """The newest step in metrics or checkpoints."""
        try:
            rows = (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            logged = json.loads(rows[-1])["step"] if rows else 0
        except (OSError, ValueError):
            logged = 0
        return max(logged, self.saved())

    def saved(self):
        newest = checkpoint.last(self.run / "checkpoints")
        return 0 if newest is None else checkpoint.step_of(newest)

    def kill(self, kind, more):
        """Kills a worker or the driver after `more` steps; returns False if the run ended before."""
        goal = self.step() + more
        wait_until(lambda: self.step() >= goal or self.driver.poll() is not None, "progress")
        if self.driver.poll() is not None:
            return False
        workers = of_session(self.driver.pid, WORKER)
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            # Workers die shortly after their driver; only then is the folder free for the next one.
            wait_until(lambda: not of_session(self.driver.pid, WORKER), "the workers' end", 60)
            self.lost.append(self.step() - self.saved())
            self.driver = self.start("--resume")
        elif workers:
            os.kill(random.choice(workers), signal.SIGKILL)
            self.lost.append(self.step() - self.saved())
        return bool(workers) or kind == "driver"


def disturb(folder, kills, seed, steps):
    random.seed(seed)
    disturbed, done = Disturbed(folder, steps), 0
    while done < kills and disturbed.kill(("worker", "driver")[done % 2], random.randrange(20, steps // kills // 2)):
        done += 1
        print(f"{done}: step {disturbed.step()}, {disturbed.lost[-1]} steps lost", flush=True)
    if disturbed.driver.wait(900) != 0:
        raise RuntimeError((folder / "disturbed.txt").read_text(encoding="utf-8")[-3000:])
    spared = disturbed.start(name="spared")
    if spared.wait(900) != 0:
        raise RuntimeError((folder / "spared.txt").read_text(encoding="utf-8")[-3000:])
    drivers = (disturbed.driver, spared)
    wait_until(lambda: not any(of_session(one.pid, "ray::") for one in drivers), "the end of every process of Ray", 60)
    runs = (folder / "runs" / name / "checkpoints" / f"step-{steps}" for name in ("disturbed", "spared"))
    return done, disturbed.lost, [load_file(run / "model.safetensors") for run in runs]


def test_kills_at_random_moments_change_nothing(tmp_path):
    done, lost, (got, want) = disturb(tmp_path, kills=4, seed=1, steps=1000)
    assert done == 4
    said = (tmp_path / "disturbed.txt").read_text(encoding="utf-8")
    assert said.count("continuing from step") >= done
    assert max(lost) <= 2 * INTERVAL  # one interval, and one that was being written
    assert all(torch.equal(got[name], value) for name, value in want.items())


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        count, lost, (got, want) = disturb(Path(folder), *(*given, *(20, 1)[len(given) :]), steps=5000)
    same = all(torch.equal(got[name], value) for name, value in want.items())
    print(f"{count} kills, {max(lost)} steps lost at most, parameters {'equal' if same else 'DIFFERENT'}")
    sys.exit(0 if same else 1)
