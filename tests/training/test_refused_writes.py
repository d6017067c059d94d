"""Folders and disks that refuse writes: one sentence, and existing files are unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from small_configs import write_tiny
from training_runs import copied, start, train
from unrolled.cli import main
from unrolled.cluster.ray_session import DeferredLog
from unrolled.errors import RunFailed
from unrolled.training.distributed import SingleWorker
from unrolled.training.run_dir import RunDir
from unrolled.training.trainer import train_worker

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="needs /dev/full, a file that is always full")
SHORT = ["training.max_steps=6", "training.epochs=99", "training.validate_every=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, _ = train(write_tiny(tmp_path_factory.mktemp("trained")), *SHORT)
    return run.path


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run, next to the config `tiny`."""
    return RunDir(copied(trained, tmp_path / "runs"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, arguments, code=2):
    """Runs a command that cannot write; returns its last sentence."""
    assert main([str(argument) for argument in arguments]) == code
    said = capsys.readouterr().err
    assert said.startswith("unrolled: ") and said.count("\n") == 1
    return said


@pytest.fixture(scope="session")
def namespace():
    """Words that start a command in a mount namespace of its own."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = "mount -t tmpfs tmpfs /mnt"
    if shutil.which("unshare") is None or subprocess.run([*words, probe], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not permitted here")
    return words


def within(namespace, script, *arguments):
    """Runs an `unrolled` command as `"$@"` of a shell script; returns its exit code and standard error."""
    words = [*namespace, script, "sh", sys.executable, "-m", "unrolled", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def small_disk(place, room, saved, kept="."):
    """A script that mounts a disk with the content of `place` and `room` KiB of free space there and runs the command;
    its exit code is 99 if a file in `kept` has changed."""
    return f"""
        cp -r {place} {saved} && mount -t tmpfs -o size=1m tmpfs {place} && cp -r {saved}/. {place} &&
        free=$(df -k --output=avail {place} | tail -n 1) && head -c $((1024 * (free - {room}))) /dev/zero > {place}/fill
        "$@"
        code=$?
        cd {saved} && [ -z "$(find {kept} -type f ! -exec cmp -s {{}} {place}/{{}} ";" -print)" ] && exit $code
        exit 99
    """


@pytest.mark.parametrize("words", [["train", "--resume"], ["train", "--overwrite"], ["evaluate"]])
def test_a_read_only_disk(tiny, run, tmp_path, namespace, words):
    before, runs = contents(run.path), tmp_path / "runs"
    command, *options = words
    place = {"train": run.path, "evaluate": run.path / "evaluation" / "test"}[command]
    code, said = within(
        namespace,
        f'mount --bind {runs} {runs} && mount -o remount,bind,ro {runs} && "$@"',
        *(command, {"train": tiny, "evaluate": run.path}[command], "--local", *options),
    )
    assert (code, said) == (2, f"unrolled: {place}: cannot be written (Read-only file system).\n")
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("full", "room", "code", "sentence"),
    [
        ("", 0, 2, "tiny: cannot be written (No space left on device)."),
        ("tensorboard", 0, 1, "cannot be written (No space left on device); the checkpoints are kept."),
        ("checkpoints", 8, 1, "No space left on device (os error 28)); older checkpoints are kept."),  # model
        ("checkpoints", 32, 1, "step-9: cannot be written (No space left on device); older checkpoints are kept."),
    ],
)
def test_a_full_disk(tiny, run, tmp_path, namespace, full, room, code, sentence):
    before = contents(run.checkpoints)
    script = small_disk(run.path / full, room, tmp_path / "saved")
    got, said = within(namespace, script, *("train", tiny, "--local", "--resume", *SHORT[1:], "training.max_steps=9"))
    assert got == code and said.startswith(f"unrolled: {run.path}") and said.endswith(f"{sentence}\n")
    assert contents(run.checkpoints) == before


@pytest.mark.slow
def test_a_disk_that_fills_up_under_a_ray_worker(tiny, run, tmp_path, namespace):
    script = small_disk(run.path, 60, tmp_path / "saved", "checkpoints")
    options = [
        "training.max_steps=9999",
        "training.epochs=9999",
        "training.validate_every=9999",
        "training.log_every=1",
    ]
    code, said = within(namespace, script, "train", tiny, "--resume", *options, "training.restarts=1")
    assert code == 1 and said.startswith(f"unrolled: {run.path}") and "restarts" not in said
    assert said.endswith("cannot be written (No space left on device); the checkpoints are kept.\n")


@pytest.mark.parametrize("storage", ["file", "file/below", "/sys/unrolled"])
def test_a_storage_that_takes_no_folder(tiny, tmp_path, capsys, storage):
    if storage.startswith("/") and not Path("/sys/kernel").is_dir():
        pytest.skip("needs /sys, a file system that takes no folder")
    (tmp_path / "file").write_text("years of work", encoding="utf-8")
    place = tmp_path / storage
    said = refused(capsys, ["train", tiny, "--local", f"storage={place}"])
    assert said.startswith(f"unrolled: {place}/tiny: cannot be written (")
    if not storage.startswith("/"):
        assert f"({tmp_path / 'file'} is not a folder)" in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize("cache", ["file", "file/below"])
def test_a_cache_that_takes_no_folder(tiny, tmp_path, capsys, monkeypatch, cache):
    (tmp_path / "file").write_text("years of work", encoding="utf-8")
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / cache))
    said = refused(capsys, ["train", tiny, "--local"])
    assert said == f"unrolled: {tmp_path / cache}: cannot be written ({tmp_path / 'file'} is not a folder).\n"
    assert not (tmp_path / "runs").exists()


def test_files_in_the_place_of_folders(tiny, run, tmp_path, capsys):
    run.checkpoints.rename(tmp_path / "checkpoints")
    run.checkpoints.touch()
    said = refused(capsys, ["train", tiny, "--local", "--resume"])
    assert said == f"unrolled: {run.path}: cannot be written ({run.checkpoints} is not a folder).\n"
    run.checkpoints.unlink()
    (tmp_path / "checkpoints").rename(run.checkpoints)

    (run.path / "evaluation").touch()
    said = refused(capsys, ["evaluate", run.path, "--local"])
    assert said.endswith(f"evaluation/test: cannot be written ({run.path / 'evaluation'} is not a folder).\n")

    (run.path / "gradients.html").mkdir()
    assert "gradients.html: cannot be written (Is a directory)" in refused(capsys, ["gradients", run.path], code=1)

    shutil.rmtree(run.path / "tensorboard")
    (run.path / "tensorboard").touch()
    said = refused(capsys, ["train", tiny, "--local", "--resume", "training.epochs=99"], code=1)
    assert said.endswith("tensorboard is not a folder); the checkpoints are kept.\n")
    (run.path / "tensorboard").unlink()
    assert main(["train", str(tiny), "--local", "--resume", "training.max_steps=8", "training.epochs=99"]) == 0


@needs_full
def test_a_resume_that_finds_the_disk_full_leaves_the_run_as_it_was(tiny, run, capsys):
    before = contents(run.path)
    (run.path / f".config.yaml.{os.getpid()}").symlink_to(FULL)  # where the new file is written first
    said = refused(capsys, ["train", tiny, "--local", "--resume", "training.max_steps=9"])
    assert said == f"unrolled: {run.path}: cannot be written (No space left on device).\n"
    assert contents(run.path) == before
    assert main(["train", str(tiny), "--local", "--resume", "training.max_steps=9", "training.epochs=99"]) == 0


@needs_full
def test_metrics_on_a_full_disk_end_the_run(tiny):
    run, fingerprint = start(tiny)
    run.metrics.symlink_to(FULL)
    with pytest.raises(RunFailed, match=r"metrics\.jsonl: cannot be written \(No space left .*checkpoints are kept"):
        train_worker(run, fingerprint, SingleWorker(), device=torch.device("cpu"), threads=1)


def test_tensorboard_reads_what_was_written(tiny):
    run, _ = train(tiny, *SHORT, "training.log_every=2")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = [row for row in run.history() if row["kind"] == "train"]
    for name in ("loss", "gradient_norm"):
        read = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert read == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert {"validation/loss", "gradient/head"} <= set(events.Tags()["scalars"])


@needs_full
def test_rays_log_waits_for_a_disk_with_room(tmp_path):
    log = tmp_path / "log.txt"
    log.symlink_to(FULL)
    stream = DeferredLog(log)
    print("first", file=stream)
    log.unlink()
    print("second", file=stream)
    assert "first\nsecond\n" in log.read_text(encoding="utf-8")
