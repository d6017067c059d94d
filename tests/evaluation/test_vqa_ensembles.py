"""Ensembles of question-answering runs: mean probabilities."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import unrolled
from unrolled.cli import main
from unrolled.evaluation import ensemble_members, load_task_and_model
from vqa_runs import COLOURS, settings, visual7w_folder

WAYS = ("classes", "vectors", "words")
QUESTION = "What colour is it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return visual7w_folder(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two runs a way of answering, one that sees the mean of a photograph's positions, and one that sees nothing."""
    kinds = {f"{way}-{seed}": (seed, {"answers": way}) for way in WAYS for seed in (1, 2)}
    kinds |= {"mean": (3, {"answers": "classes", "attention": False})}
    kinds |= {"blind": (3, {"answers": "classes", "sees": "question"})}
    storage, found = str(tmp_path_factory.mktemp("runs")), {}
    for name, (seed, model) in kinds.items():
        training = {"epochs": 4, "optimizer": {"learning_rate": 0.01}}
        config = settings(folder, storage=storage, training=training, **model)
        found[name] = unrolled.train(config.model_copy(update={"name": name, "seed": seed}), local=True)
    return found


def read(report):
    rows = (report.path.parent / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row) for row in rows]


@pytest.mark.parametrize("way", WAYS)
def test_candidates_have_the_mean_of_their_probabilities(runs, folder, way):
    pair, photo = [runs[f"{way}-{seed}"] for seed in (1, 2)], str(folder / "images" / "v7w_13.jpg")
    each = [one.ask(photo, [QUESTION], COLOURS)[0].probabilities for one in pair]
    (together,) = pair[0].ask(photo, [QUESTION], COLOURS, ensemble=pair[1:])
    want = [(one + other) / 2 for one, other in zip(*each, strict=True)]
    assert each[0] != pytest.approx(each[1], abs=1e-3)
    assert together.probabilities == pytest.approx(want, abs=1e-9)
    assert together.chosen == max(range(len(COLOURS)), key=want.__getitem__)


@pytest.mark.parametrize("way", ["classes", "vectors"])
def test_the_free_answer_is_that_of_the_best_mean_probability(runs, folder, way):
    pair, photo = [runs[f"{way}-{seed}"] for seed in (1, 2)], str(folder / "images" / "v7w_13.jpg")
    task, both = load_task_and_model(
        ensemble_members(pair[0].folder, [pair[1].folder], (), "best"), torch.device("cpu")
    )
    assert isinstance(both, nn.ModuleList) and len(both) == 2
    batch = task._single(photo, QUESTION)
    with torch.no_grad():
        found = [one.log_probabilities(one(batch.photos, batch.photo_index, batch.tokens, batch.mask)) for one in both]
    best = int(sum(logs.exp() for logs in found)[0].argmax())
    (together,) = pair[0].ask(photo, [QUESTION], ensemble=pair[1:])
    assert together.answer == task.head._answers[best] and together.probabilities == ()


@pytest.mark.parametrize("way", WAYS)
def test_a_run_with_itself_answers_as_alone(runs, way):
    run = runs[f"{way}-1"]
    alone = run.evaluate("validation", local=True)
    together = run.evaluate("validation", local=True, ensemble=[run])
    assert together.path.parent.name == f"validation-with-{way}-1" != alone.path.parent.name
    assert together.scores == alone.scores and read(together) == read(alone)
    results = json.loads((together.path.parent / "results.json").read_text(encoding="utf-8"))
    single = json.loads((alone.path.parent / "results.json").read_text(encoding="utf-8"))
    assert results["parameters"] == 2 * single["parameters"]


def test_the_command_line_asks_all(runs, folder, capsys):
    one, two = (str(runs[f"classes-{seed}"].path) for seed in (1, 2))
    photo = str(folder / "images" / "v7w_13.jpg")
    assert main(["generate", one, photo, QUESTION, "--ensemble", two, "--choices", *COLOURS]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    (want,) = runs["classes-1"].ask(photo, [QUESTION], COLOURS, ensemble=[runs["classes-2"]])
    ranked = sorted(zip(want.probabilities, COLOURS, strict=True), key=lambda pair: -pair[0])
    assert lines == [[f"{share:.4f}", colour] for share, colour in ranked]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("words-1", "the one has model.answers=words, the other classes"),
        ("blind", "the one has model.sees=question, the other both"),
        ("mean", "of a photograph the one reads the mean of its positions"),
    ],
)
def test_runs_that_cannot_answer_together_are_one_sentence(runs, other, says, capsys):
    words = ["evaluate", str(runs["classes-1"].path), "--ensemble", str(runs[other].path), "--split", "validation"]
    assert main([*words, "--local"]) == 2
    error = capsys.readouterr().err
    assert "cannot answer together" in error and says in error and error.count("\n") == 1, error
