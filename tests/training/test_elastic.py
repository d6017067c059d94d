"""Elastic training on a cluster whose nodes join and leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from ray_clusters import WORKER, cluster, of_session, wait_until
from unrolled.training import checkpoint

pytestmark = pytest.mark.slow
# Without a limit of steps: Ray looks for new nodes once a minute, and steps per minute vary by machine.
CONFIG = """\
task: translation
name: elastic
data: {source: dates, limit: 600}
model:
  encoder: {hidden: 24, embedding: 16}
  decoder: {hidden: 24, embedding: 16}
training:
  {batch_tokens: 600, epochs: 999999, validate_every: 999999, checkpoint_every: 20, log_every: 1}
"""


@pytest.fixture
def running():
    pytest.importorskip("aiohttp_cors", reason="the test cluster is reached through its job server")
    with cluster(cpus=1) as started:
        yield started
    assert not [pid for node in started.nodes for pid in of_session(node.session)]


class Training:
    """`unrolled train` on a cluster, observed by the files that it writes."""

    def __init__(self, folder, on):
        self.folder, config = folder / "runs" / "elastic", folder / "elastic.yaml"
        config.write_text(f"{CONFIG}storage: {folder / 'runs'}\n", encoding="utf-8")
        words = ["train", str(config), "--workers", "1..2", "--address", on.address]
        self.said = folder / "said.txt"
        # Time for which Ray waits for a lost node before it counts again; default: a minute.
        environment = on.environment | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}
        with self.said.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unrolled", *words],
                env=environment,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rows(self, kind):
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [row for row in rows if row["kind"] == kind]

    def wait_for_steps(self, starts):
        """Waits until training has resumed `starts` times and made a step since."""

        def made():
            assert self.process.poll() is None, self.said.read_text(encoding="utf-8")
            resumed, steps = self.rows("resume"), [row["step"] for row in self.rows("train")]
            return len(resumed) >= starts and steps and (not resumed or steps[-1] > resumed[-1]["step"])

        wait_until(made, f"steps after {starts} new starts", 240)


def test_a_run_takes_in_a_node_that_comes_and_outlives_its_loss(running, tmp_path):
    training = Training(tmp_path, running)
    try:
        wait_until(lambda: running.nodes[0].processes(WORKER), "the first worker")
        second = running.add(cpus=1)
        training.wait_for_steps(0)
        assert not training.rows("resume")
        training.wait_for_steps(1)
        assert [len(node.processes(WORKER)) for node in running.nodes] == [1, 1]
        second.kill()
        training.wait_for_steps(2)
        assert [len(node.processes(WORKER)) for node in running.nodes] == [1, 0]
        training.process.send_signal(signal.SIGINT)
        code = training.process.wait(240)
        assert code == 130, training.said.read_text(encoding="utf-8")
    finally:
        if training.process.poll() is None:
            os.killpg(training.process.pid, signal.SIGKILL)
            training.process.wait()
    assert not of_session(training.process.pid)
    progress = checkpoint.read_progress(checkpoint.last(training.folder / "checkpoints"))
    assert not progress.finished
    assert [row["step"] for row in training.rows("train")] == list(range(1, progress.step + 1))
    assert all(row["step"] % 20 == 0 and row["step"] > 0 for row in training.rows("resume"))
