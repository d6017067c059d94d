"""A killed evaluation continues where it stopped; the number of workers makes no difference."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_evaluate import LIMIT, break_for, read, trained, without_times

import unrolled
from unrolled.cluster.ray_session import connect
from unrolled.errors import RunFailed
from unrolled.run import evaluate

pytestmark = pytest.mark.slow
DECODE = ["greedy", "mbr:samples=12", "beam"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory):
    """One private Ray for the tests of this file that kill nothing."""
    with connect(None, tmp_path_factory.mktemp("ray") / "log.txt") as resources:
        yield resources


@pytest.fixture(scope="module")
def undisturbed(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "tiny"
    shutil.copytree(original, folder)
    return outcome(unrolled.load(folder).evaluate(decode=DECODE, local=True))


def outcome(report):
    results, rows = read(report.path.parent)
    return without_times(results), rows


def start(run, *words):
    command = [sys.executable, "-m", "unrolled", "evaluate", str(run), "--decode", ",".join(DECODE), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def kept(run):
    """Whole lines of what was decoded so far."""
    files = (run / "evaluation" / "test" / "decoded").glob("*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


@pytest.mark.parametrize("words", [["--local"], ["--workers", "2"]], ids=["local", "ray"])
def test_a_killed_evaluation_decodes_only_what_is_missing(original, undisturbed, tmp_path, words):
    run = tmp_path / "tiny"
    shutil.copytree(original, run)
    process = start(run, *words)
    deadline = time.monotonic() + 200
    while kept(run) < 4 and process.poll() is None and time.monotonic() < deadline:  # the second strategy has begun
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None and process.stdout.read() is not None
    before = {path.name: path.read_bytes() for path in (run / "evaluation" / "test" / "decoded").iterdir()}
    assert not (run / "evaluation" / "test" / "results.json").exists()
    assert 4 <= sum(content.count(b"\n") for content in before.values()) < 9

    again = start(run, *words)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"greedy: {LIMIT} of {LIMIT} found from an earlier start" in said and "greedy: 300 decoded" not in said
    assert "mbr:samples=12: " in said and "of 300 found" in said and "beam: 300 decoded" in said
    for name, content in before.items():
        whole = content[: content.rindex(b"\n") + 1]
        assert (run / "evaluation" / "test" / "decoded" / name).read_bytes().startswith(whole)
    results, rows = read(run / "evaluation" / "test")
    assert (without_times(results), rows) == undisturbed


def test_one_and_two_workers_give_the_same(ray_session, original, undisturbed, tmp_path):
    for workers in (1, 2):
        run = tmp_path / str(workers) / "tiny"
        shutil.copytree(original, run)
        assert outcome(unrolled.load(run).evaluate(decode=DECODE, workers=workers)) == undisturbed


def test_several_runs_follow_each_other_on_ray(ray_session, original, tmp_path):
    runs = [tmp_path / name for name in ("one", "other")]
    for run in runs:
        shutil.copytree(original, run)
    reports = evaluate([unrolled.load(run) for run in runs], ["test"], ["greedy"], workers=2)
    assert reports[0].scores["greedy"]["chrf"] == reports[1].scores["greedy"]["chrf"]


def test_nan_on_a_worker_is_one_sentence(ray_session, original, tmp_path):
    run = tmp_path / "tiny"
    shutil.copytree(original, run)
    break_for(run, "1")
    with pytest.raises(RunFailed, match=r"^the model gave NaN as a logit at step 1 of sentence \d+$"):
        unrolled.load(run).evaluate(decode=["greedy"], workers=2)
