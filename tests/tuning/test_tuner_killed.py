"""A sweep whose driver is killed goes on: nothing that ended is trained again, and a running trial loses little.

As a script: `python tests/tuning/test_tuner_killed.py [KILLS] [SEED]`.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ray_clusters import of_session
from small_sweeps import MEMORY, sweep_config, trained_steps
from unrolled.training import checkpoint

pytestmark = pytest.mark.slow
STEPS, INTERVAL = 3000, 50
SLOW = MEMORY.replace("epoch_steps: 60", f"epoch_steps: {STEPS}").replace(
    "validate_every: 6", f"validate_every: 500\n  checkpoint_every: {INTERVAL}"
)
TUNING = {"space": {"model.cell": {"choice": ["rnn", "lstm", "gru"]}, "model.hidden": {"choice": [6, 8]}}, "trials": 6}


class InterruptedSweep:
    """A sweep, its driver, and what it had when it was killed."""

    def __init__(self, folder: Path) -> None:
        self.config, self.sweep = sweep_config(folder, SLOW, TUNING), folder / "runs" / "sweep"
        self.log = (folder / "said.txt").open("ab")
        self.driver = self.start()

    def start(self, *options):
        words = [sys.executable, "-m", "unrolled", "tune", str(self.config), *options]
        return subprocess.Popen(words, stdout=self.log, stderr=self.log, start_new_session=True)

    def rows(self):
        """The rows of trials.jsonl."""
        try:
            text = (self.sweep / "trials.jsonl").read_text(encoding="utf-8")
        except OSError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self):
        """Steps that all trials together are known to have made, and those in checkpoints, by trial."""
        made, saved = {}, {}
        for run in (self.sweep / "trials").glob("0*"):
            rows = [json.loads(line) for line in _lines(run / "metrics.jsonl")]
            newest = checkpoint.last(run / "checkpoints")
            saved[run.name] = 0 if newest is None else checkpoint.step_of(newest)
            made[run.name] = max([saved[run.name], *(row["step"] for row in rows)])
        return made, saved

    def kill(self, more):
        """Kills the driver when the trials have made so many more steps; returns the largest number of steps that any
        trial lost, or None if the sweep has ended before."""
        goal = sum(self.steps()[0].values()) + more
        deadline = time.monotonic() + 240
        while sum(self.steps()[0].values()) < goal and self.driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.driver.poll() is not None:
            return None
        self.driver.kill()
        self.driver.wait()
        while of_session(self.driver.pid, "ray::Trial") and time.monotonic() < deadline:
            time.sleep(0.1)
        made, saved = self.steps()
        self.driver = self.start("--resume")
        return max(made[name] - saved[name] for name in made)


def _lines(path):
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    except OSError:
        return []


def disturb(folder, kills, seed):
    random.seed(seed)
    disturbed, lost = InterruptedSweep(folder), []
    while len(lost) < kills:
        steps = disturbed.kill(random.randrange(200, STEPS * TUNING["trials"] // kills))
        if steps is None:
            break
        lost.append(steps)
        print(f"{len(lost)}: {steps} steps lost", flush=True)
    if disturbed.driver.wait(600) != 0:
        raise RuntimeError((folder / "said.txt").read_text(encoding="utf-8")[-3000:])
    return disturbed, lost


def check(disturbed, lost):
    ended = set()
    for row in disturbed.rows():
        if row["state"] == "running":
            assert row["name"] not in ended, f"trial {row['name']} was trained again"
        else:
            ended.add(row["name"])
    assert ended == {f"000{number}" for number in range(1, TUNING["trials"] + 1)}
    assert all(trained_steps(disturbed.sweep / "trials" / name) == STEPS for name in ended)
    assert max(lost) <= 2 * INTERVAL  # one interval, and one that was being written
    summary = json.loads((disturbed.sweep / "sweep.json").read_text(encoding="utf-8"))
    assert {trial["state"] for trial in summary["trials"]} == {"finished"} and summary["best"]


def test_a_killed_driver_costs_no_trial(tmp_path):
    disturbed, lost = disturb(tmp_path, kills=2, seed=1)
    assert len(lost) == 2
    check(disturbed, lost)


def test_ctrl_c_ends_with_checkpoints_and_says_how_to_go_on(tmp_path):
    config = sweep_config(tmp_path, SLOW, TUNING | {"trials": 2})
    words = [sys.executable, "-m", "unrolled", "tune", str(config)]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    trials, deadline = tmp_path / "runs" / "sweep" / "trials", time.monotonic() + 120
    while not _lines(trials / "0001" / "metrics.jsonl") and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert "stopped: 0 trials" in said and f"unrolled tune {trials.parent} --resume" in said and "Traceback" not in said
    assert 0 < trained_steps(trials / "0001") < STEPS
    done = subprocess.run([*words[:-1], str(trials.parent), "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "searched: 2 trials" in done.stdout and trained_steps(trials / "0001") == STEPS


if __name__ == "__main__":
    kills, seed = [int(word) for word in (*sys.argv[1:], *("5", "1")[len(sys.argv) - 1 :])]
    with tempfile.TemporaryDirectory() as scratch:
        disturbed, lost = disturb(Path(scratch), kills, seed)
        check(disturbed, lost)
        print(f"{len(lost)} kills, {max(lost)} steps lost at most (a checkpoint every {INTERVAL})")
