"""Training and evaluation on real Ray workers: same results as in one process, and interruptions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repository import JOBS
from unrolled import api
from unrolled.cluster.ray_session import connect
from unrolled.errors import UserError
from unrolled.training.run_dir import RunDir, choose_checkpoint

pytestmark = pytest.mark.slow
FAST = ["training.epochs=99", "training.max_steps=20", "training.validate_every=8", "training.precision=float64"]


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory):
    """One private Ray of two CPUs for the tests of this file that need no other."""
    with connect(None, tmp_path_factory.mktemp("ray") / "log.txt") as resources:
        yield resources


def weights(folder: Path):
    return load_file(choose_checkpoint(RunDir(folder), "last").folders[0] / "model.safetensors")


def test_two_ray_workers_train_and_evaluate_as_one_process_does(ray_session, tiny, capfd):
    together = api.train(tiny, workers=2, overrides=["name=together", *FAST])
    said = capfd.readouterr()
    assert said.err == "" and "2 Ray workers with 1 CPU each" in said.out
    assert all(word not in said.out for word in ("ray::", "pid=", "Controller"))
    alone = api.train(tiny, local=True, overrides=["name=alone", *FAST])
    want = weights(alone.path)
    for name, got in weights(together.path).items():
        torch.testing.assert_close(got, want[name], rtol=0, atol=1e-9)

    shared = together.evaluate(workers=2)
    outputs = (shared.path.parent / "outputs.jsonl").read_text(encoding="utf-8")
    shutil.rmtree(shared.path.parent / "decoded")
    together.evaluate(local=True)
    assert (shared.path.parent / "outputs.jsonl").read_text(encoding="utf-8") == outputs
    here, there = (together.evaluate(checkpoint="average", local=local) for local in (True, False))
    assert here.scores["greedy"]["bleu"] == there.scores["greedy"]["bleu"] != shared.scores["greedy"]["bleu"]


def test_more_workers_than_the_cluster_holds_are_refused(ray_session, tiny, tmp_path):
    with pytest.raises(UserError, match=r"--workers 64 needs 64 CPUs; the cluster has"):
        api.train(tiny, workers=64)
    assert not (tmp_path / "runs").exists()
    run = api.train(tiny, local=True, overrides=["training.max_steps=2"])
    with pytest.raises(UserError, match="--workers 64"):
        run.evaluate(workers=64)
    with pytest.raises(UserError, match="give 1 or more"):
        run.evaluate(workers=0)


def test_a_mistake_that_only_workers_can_see_is_one_sentence(ray_session, tiny, tmp_path):
    run = api.train(tiny, local=True, overrides=["training.max_steps=2"])
    (choose_checkpoint(run.folder).folders[0] / "training.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"training\.pt: is damaged.*No older checkpoint is whole"):
        api.train(tiny, workers=1, resume=True)


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_control_c_reaches_the_workers(tiny, tmp_path):
    process = command("train", tiny, "training.epochs=100000")
    wait_for((tmp_path / "runs" / "tiny" / "metrics.jsonl").exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped:" in said and "Traceback" not in said
    assert list((tmp_path / "runs" / "tiny" / "checkpoints").glob("step-*"))


def test_the_plain_scripts_do_the_same(tiny, tmp_path):
    """`python jobs/train.py …` and `python jobs/evaluate.py …`, as `ray job submit` runs them."""
    jobs = JOBS
    folder = tmp_path / "runs" / "tiny"
    for script, arguments in (("train", [tiny, "training.max_steps=4"]), ("evaluate", [folder])):
        done = subprocess.run(
            [sys.executable, str(jobs / f"{script}.py"), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
    assert (folder / "evaluation" / "test" / "report.html").is_file()
