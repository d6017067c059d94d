"""Damaged checkpoints, and disks that refuse new ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from small_configs import write_tiny
from training_runs import copied, train, weights
from unrolled.errors import RunFailed, UserError
from unrolled.training import checkpoint
from unrolled.training.run_dir import RunDir


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def shorten(path):
    path.write_bytes(path.read_bytes()[:-9])


OPTIONS = ["training.epochs=99", "training.checkpoint_every=3", "training.validate_every=99", "training.keep=9"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run, _ = train(write_tiny(tmp_path_factory.mktemp("whole")), *OPTIONS, "training.max_steps=9")
    return weights(run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run, _ = train(write_tiny(tmp_path_factory.mktemp("trained")), *OPTIONS, "training.max_steps=6")
    return run.path


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "progress.json"])
@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, trained, tiny, tmp_path, file, damage):
    run = RunDir(copied(trained, tmp_path / "runs"))
    damage(run.checkpoints / "step-6" / file)
    with pytest.raises(UserError, match="step-6/" if damage is flip else rf"step-6/{file}"):
        checkpoint.verify(run.checkpoints / "step-6")
    run, _ = train(tiny, *OPTIONS, "training.max_steps=9", resume=True)
    (row,) = (row for row in run.history() if row["kind"] == "resume")
    assert row["step"] == 3 and "step-6" in row["damaged"][0]
    assert all(torch.equal(weights(run)[name], value) for name, value in whole.items())


def test_without_a_whole_checkpoint_nothing_is_resumed(tiny):
    run, _ = train(tiny, "training.max_steps=3", "training.epochs=99")
    flip(run.checkpoints / "step-3" / "model.safetensors")
    with pytest.raises(UserError, match="No older checkpoint is whole"):
        train(tiny, "training.max_steps=6", "training.epochs=99", resume=True)


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_the_older_ones(tiny, background):
    options = ["training.epochs=99", "training.checkpoint_every=3", f"training.checkpoint_in_background={background}"]
    run, _ = train(tiny, *options, "training.max_steps=3")
    before = weights(run)
    (run.checkpoints / "step-6").mkdir()
    (run.checkpoints / f".step-6.{os.getpid()}").write_text("in the way")
    with pytest.raises(RunFailed, match=r"step-6: cannot be written .*older checkpoints are kept"):
        train(tiny, *options, "training.max_steps=9", resume=True)
    assert all(torch.equal(weights(run, "step-3")[name], value) for name, value in before.items())


def test_progress_with_other_values_or_other_keys_is_refused(tiny):
    run, _ = train(tiny, "training.max_steps=3", "training.epochs=99")
    path = run.checkpoints / "step-3" / "progress.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"step": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_progress(path.parent)
    sums = values.pop("sha256")
    del values["regular_best"]
    sums["progress.json"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(values | {"sha256": sums}), encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a checkpoint's progress \('regular_best'\)"):
        checkpoint.read_progress(path.parent)
