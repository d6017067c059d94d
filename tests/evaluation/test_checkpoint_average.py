"""Averages of several checkpoints' weights."""

from __future__ import annotations

import json

import pytest
import torch

import unrolled
from training_runs import train, weights
from unrolled.cli import main
from unrolled.errors import UserError
from unrolled.evaluation import EnsembleMember, load_task_and_model
from unrolled.training.run_dir import choose_checkpoint

OPTIONS = ["training.epochs=99", "training.max_steps=8", "training.validate_every=2"]


def loaded(run, which):
    _, model = load_task_and_model(
        [EnsembleMember(run, run.config(), choose_checkpoint(run, which))], torch.device("cpu")
    )
    return model.state_dict()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_weights_are_the_mean_of_the_checkpoints(tiny, precision):
    run, _ = train(tiny, *OPTIONS, "training.keep=9", f"training.precision={precision}")
    for which, steps in {"average": (2, 4, 6, 8), "average-3": (4, 6, 8), "average-2": (6, 8)}.items():
        parts = [weights(run, f"step-{step}") for step in steps]
        for name, got in loaded(run, which).items():
            mean = torch.stack([part[name].double() for part in parts]).mean(0)
            assert got.dtype == parts[0][name].dtype
            torch.testing.assert_close(got, mean.to(got.dtype), rtol=0, atol=1e-15 if precision == "float64" else 0)
            assert not torch.equal(got, parts[-1][name])


def test_the_average_of_one_is_the_last_checkpoint(tiny):
    run, _ = train(tiny, *OPTIONS)
    want = loaded(run, "last")
    assert all(torch.equal(want[name], got) for name, got in loaded(run, "average-1").items())


def test_the_average_takes_what_was_kept(tiny):
    """The best checkpoint is older than the newest, which are fewer."""
    options = ["training.metric=exact_match", "training.keep=2", *OPTIONS]  # never above 0 in so few steps
    run, progress = train(tiny, *options)
    assert progress.best_step == 2
    assert choose_checkpoint(run, "average").name == "average of step-2, step-6, step-8"
    assert choose_checkpoint(run, "average-2").name == "average of step-6, step-8"


def test_evaluate_generate_and_gradients_take_the_average(tiny, capsys):
    run, _ = train(tiny, *OPTIONS)
    before = {path for path in run.path.rglob("*") if path.is_file()}
    words = ["evaluate", str(run.path), "--local", "--decode", "greedy", "--checkpoint", "average-2"]
    assert main(words) == 0
    folder = run.path / "evaluation" / "test"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["checkpoint"] == "average of step-6, step-8"
    assert results["command"].endswith("--checkpoint average-2")
    assert "average of step-6, step-8" in (folder / "report.html").read_text(encoding="utf-8")
    made = {path for path in run.path.rglob("*") if path.is_file()} - before
    assert {path.name for path in made if path.parent == folder} == {"report.html", "results.json", "outputs.jsonl"}
    assert {path.parent for path in made} == {folder, folder / "decoded"}
    capsys.readouterr()
    assert main(["generate", str(run.path), "3 March 2025", "--checkpoint", "average"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == unrolled.load(run.path).generate(["3 March 2025"], checkpoint="average")
    assert main(["gradients", str(run.path), "--checkpoint", "average-2"]) == 0
    assert "tiny, checkpoint average of step-6, step-8: first" in capsys.readouterr().out


def test_an_average_that_cannot_be_taken_is_one_sentence(tiny, capsys):
    run, _ = train(tiny, *OPTIONS, "training.keep=3")
    for which in ("average-0", "average-4", "average-two", "average-", "average-1.5", "average--1", "average-²"):
        for words in (["evaluate", str(run.path), "--local"], ["generate", str(run.path), "x"]):
            assert main([*words, "--checkpoint", which]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and f"--checkpoint {which}: " in said
            assert "3 to average (step-4, step-6, step-8)" in said and "average-N with N from 1 to 3" in said
    assert not (run.path / "evaluation").exists()


def test_every_checkpoint_of_an_average_is_verified(tiny):
    run, _ = train(tiny, *OPTIONS, "training.keep=3")
    path = run.checkpoints / "step-6" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"step-6/model\.safetensors: is damaged"):
        loaded(run, "average")
    loaded(run, "average-1")
