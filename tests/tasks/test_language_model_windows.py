"""Language models whose windows add up their gradients over a sequence."""

from __future__ import annotations

import pytest
import torch

from training_runs import config_of_text, train, train_together, weights
from unrolled.cli import main

CONFIG = """\
task: language_modeling
name: text
data: {source: %s}
model: {hidden: 8, layers: 2, dropout: 0.0}
training: {epochs: 3, lanes: 5, truncate: 12, validate_every: 8, precision: float64, keep: 9}
"""


@pytest.fixture
def config(tmp_path):
    """A config that trains in a second; its text and runs lie beside it."""
    return config_of_text(tmp_path, CONFIG)


def losses(run):
    return [row["loss"] for row in run.history() if row["kind"] == "validation"]


def test_a_sequence_is_as_many_windows_in_one_update(config):
    """A lane's last sequence is 36 steps or less, whichever way it is read."""
    windows, done = train(config, "name=windows", "training.accumulate=3")
    sequences, same = train(config, "name=sequences", "training.sequence=36")
    assert done.step == same.step
    want = weights(windows)
    for name, got in weights(sequences).items():
        torch.testing.assert_close(got, want[name], rtol=0, atol=1e-12)
    assert losses(sequences) == pytest.approx(losses(windows), abs=1e-12)


def test_a_sequence_of_one_window_is_the_window(config):
    windows, _ = train(config, "name=windows")
    sequences, _ = train(config, "name=sequences", "training.sequence=12")
    want = weights(windows)
    assert all(torch.equal(want[name], got) for name, got in weights(sequences).items())


def test_gradients_stop_at_windows_and_not_at_sequences(config):
    """Two cuts of the same sequence differ, and an uncut one is again another."""
    options = ("training.sequence=24", "training.epochs=1")
    runs = [train(config, f"name=by{steps}", f"training.truncate={steps}", *options) for steps in (8, 12, 24)]
    steps, first = {progress.step for _, progress in runs}, [losses(run)[0] for run, _ in runs]
    assert len(steps) == 1 and len(set(first)) == 3


def test_two_workers_and_a_resumed_run_agree(config):
    options = ("training.sequence=30", "training.max_steps=17", "training.epochs=9")
    alone, _ = train(config, "name=alone", *options)
    train_together(config, 2, "name=parts", *options, "training.max_steps=7")
    resumed, _ = train(config, "name=parts", *options, resume=True)
    want = weights(alone)
    for name, got in weights(resumed).items():
        torch.testing.assert_close(got, want[name], rtol=0, atol=1e-9)


def test_a_sequence_shorter_than_its_windows_is_refused(config, capsys):
    assert main(["train", str(config), "--local", "training.sequence=11"]) == 2
    assert "training.sequence (11) is less than training.truncate (12)" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_sequences(config, capsys):
    train(config, "training.max_steps=4")
    assert main(["train", str(config), "--local", "--resume", "training.sequence=24"]) == 2
    assert "training.sequence=None" in capsys.readouterr().err
