"""The task of question answering: batches, losses, replies, and what may not matter to them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from unrolled.cli import main
from unrolled.data.visual7w_results import read_results
from unrolled.errors import UserError
from unrolled.metrics import WORDNET_VARIABLE
from unrolled.tasks.image_inputs import photo_address
from unrolled.tasks.vqa_results import check_metrics
from vqa_runs import learned, made, model_of, settings, visual7w_folder

WAYS = [(answers, attention) for answers in ("classes", "vectors", "words") for attention in (False, True)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return visual7w_folder(tmp_path_factory.mktemp("asked") / "photos")


def replies(task, model, questions, asked="validation"):
    return task.answer(model, asked, questions)


def shares(one):
    return dict(zip(one.question.choices, one.prediction.probabilities, strict=True))


@pytest.mark.parametrize("together", [False, True])
def test_an_epoch_has_every_question_once_and_no_batch_is_too_large(photos, tmp_path, together):
    task, data = made(settings(photos, training={"together": together}), tmp_path)
    corpus = data.split("train")
    for epoch in (0, 1):
        batches = task.plan(data, epoch)
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(corpus)))
        assert all(corpus.lengths[batch.rows].sum(1).max() * len(batch.rows) <= 60 for batch in batches)
    orders = [[batch.rows.tolist() for batch in task.plan(data, epoch)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_photograph_is_read_once_however_many_questions_it_has(photos, tmp_path):
    task, data = made(settings(photos, training={"together": True}), tmp_path)
    for batch in task.plan(data, 0):
        shard = batch.shard(0, 1)
        assert len(shard.photos) == len(shard.photo_index) // 2 == len(set(shard.photo_index.tolist()))


@pytest.mark.parametrize(("answers", "attention"), WAYS)
def test_two_workers_have_the_loss_of_one(photos, tmp_path, answers, attention):
    task, data = made(settings(photos, answers=answers, attention=attention), tmp_path)
    model = model_of(task)
    for batch in task.plan(data, 0):
        whole, *shards = (batch.shard(rank, size) for rank, size in ((0, 1), (0, 2), (1, 2)))
        losses = [task.head.loss(model, _double(shard)) for shard in (whole, *shards) if shard is not None]
        torch.testing.assert_close(losses[0], sum(losses[1:]))


def _double(batch):
    return replace(batch, photos=batch.photos.double())


@pytest.fixture
def seen(monkeypatch):
    """Features in double precision, as the models here."""

    def make(task):
        given = task.images.read
        monkeypatch.setattr(task.images, "read", lambda *args: given(*args).double())

    return make


@pytest.mark.parametrize(("answers", "attention"), WAYS)
def test_the_order_of_candidates_never_changes_a_choice(photos, tmp_path, seen, answers, attention):
    task, data = made(settings(photos, answers=answers, attention=attention), tmp_path)
    model, corpus = model_of(task), data.split("validation")
    seen(task)
    asked = corpus.questions(range(len(corpus)))
    unknown = [replace(each, choices=("zebra", "ostrich", *each.choices), answer_index=-1) for each in asked]
    generator = random.Random(1)
    for questions in (asked, unknown):
        before = replies(task, model, questions)
        for _ in range(3):
            shuffled = [
                replace(one, choices=tuple(generator.sample(one.choices, len(one.choices)))) for one in questions
            ]
            after = replies(task, model, shuffled)
            assert [one.chosen for one in after] == [one.chosen for one in before]
            for one, other in zip(before, after, strict=True):
                shares = dict(zip(one.question.choices, one.prediction.probabilities, strict=True))
                assert dict(zip(other.question.choices, other.prediction.probabilities, strict=True)) == pytest.approx(
                    shares
                )


@pytest.mark.parametrize(("answers", "attention"), WAYS)
def test_candidates_of_questions_beside_it_never_change_a_probability(photos, tmp_path, seen, answers, attention):
    task, data = made(settings(photos, answers=answers, attention=attention), tmp_path)
    model, corpus = model_of(task), data.split("validation")
    seen(task)
    asked = corpus.questions(range(len(corpus)))
    more = ("dark red", "dark green and then some more words", "blue", "green")
    crowded = [asked[0], *(replace(one, choices=tuple(dict.fromkeys(one.choices + more))) for one in asked[1:])]
    together, alone = replies(task, model, crowded), replies(task, model, asked[:1])
    assert together[0].prediction.probabilities == pytest.approx(alone[0].prediction.probabilities)
    assert sum(together[0].prediction.probabilities) == pytest.approx(1)


def test_a_candidate_that_no_training_answer_is_cannot_be_chosen_by_classes(photos, tmp_path, seen):
    task, data = made(settings(photos, answers="classes"), tmp_path)
    seen(task)
    (question,) = data.split("validation").questions([0])
    (one,) = replies(task, model_of(task), [replace(question, choices=("zebra", *question.choices))])
    assert one.prediction.probabilities[0] == 0 and one.chosen != "zebra"


def test_the_loss_among_candidates_is_that_of_a_softmax_over_them(photos, tmp_path):
    task, data = made(settings(photos, answers="classes", training={"candidates": 0.9}), tmp_path)
    model, corpus = model_of(task), data.split("train")
    batch = _double(task.plan(data, 0)[0].shard(0, 1))
    joined = model(batch.photos, batch.photo_index, batch.tokens, batch.mask)
    logits, expected = model.head.logits(joined.vector), 0.0
    for row, right, own in zip(logits, batch.target.correct, batch.target.candidates, strict=True):
        expected -= (row[right] - row[own[own >= 0]].logsumexp(0)).item()
    found = model.choice_loss(joined, batch.target.correct, batch.target.candidates)
    assert found.item() == pytest.approx(expected)
    assert (batch.target.candidates >= 0).any() and len(corpus)


def test_a_new_candidate_of_known_words_can_be_chosen_by_vectors(photos, tmp_path, seen):
    task, data = made(settings(photos, answers="vectors"), tmp_path)
    seen(task)
    (question,) = data.split("validation").questions([0])
    asked = replace(question, choices=("red green", "zebra", *question.choices))
    (one,) = replies(task, model_of(task), [asked])
    new, unknown, *_ = one.prediction.probabilities
    assert new > 0 and unknown == 0


@pytest.mark.parametrize(("answers", "share"), [("vectors", 0.9), ("words", 0.4)])
def test_the_loss_among_candidates_is_that_of_their_likelihoods(photos, tmp_path, seen, answers, share):
    task, data = made(settings(photos, answers=answers, training={"candidates": share}), tmp_path)
    model, corpus = model_of(task), data.split("train")
    batch = task.plan(data, 0)[0]
    shard = _double(batch.shard(0, 1))
    alone = task.head.loss(model, shard).item()
    seen(task)
    replied = task.answer(model, "train", corpus.questions(batch.rows))
    chosen = -sum(np.log(one.prediction.probabilities[one.question.answer_index]) for one in replied)
    model.train()
    assert task.head.loss(model, shard).item() == pytest.approx((1 - share) * alone + share * chosen)


@pytest.mark.parametrize("sees", ["question", "picture"])
def test_baselines_do_without_what_they_do_not_see(photos, tmp_path, sees):
    task, data = made(settings(photos, answers="words", sees=sees, attention=False), tmp_path)
    (batch, *_) = task.plan(data, 0)
    shard = batch.shard(0, 1)
    assert (shard.photos.abs().sum() == 0) == (sees == "question")
    asked = shard.target.decoder_inputs.shape[1] > 3
    assert asked == (sees == "question")


def test_without_candidates_multiple_choice_is_refused(photos, tmp_path):
    task, _ = made(settings(photos), tmp_path)
    bare = [replace(each, choices=(), answer_index=-1) for each in task.open("validation").questions]
    with pytest.raises(UserError, match=f"multiple_choice, but question {bare[0].id} .* has no candidates"):
        check_metrics(task.config, bare)


@pytest.mark.parametrize("command", ["train", "tune"])
def test_wups_without_wordnet_is_refused_before_the_data_is_read(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv(WORDNET_VARIABLE, str(tmp_path))  # a folder without WordNet's files
    config = tmp_path / "config.yaml"
    text = "task: question_answering\ndata: {source: missing}\nmodel: {features: {backbone: small}}\n"
    text += "evaluation: {metrics: ['wups@0.9']}\ntuning: {space: {seed: {choice: [1, 2]}}}\n"
    config.write_text(text + f"storage: {tmp_path / 'runs'}\n", encoding="utf-8")
    assert main([command, str(config), *(["--local"] if command == "train" else [])]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("unrolled: WUPS needs WordNet, which is not here: `apt-get install wordnet-base`")
    assert said.err.count("\n") == 1 and said.out == "" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("answers", ["classes", "vectors", "words"])
def test_a_run_learns_is_evaluated_and_answers(photos, tmp_path, capsys, answers):
    training = {"epochs": 60, "batch_tokens": 200, "optimizer": {"learning_rate": 0.02}, "precision": "float32"}
    training |= {"metric": "multiple_choice", "validate_every": 60}
    run = learned(photos, answers=answers, storage=str(tmp_path), training=training)
    report = run.evaluate(split="validation", local=True)
    assert report.scores["multiple_choice"] >= 70
    page = report.path.read_text(encoding="utf-8")
    assert "With and without looking" in page and "What colour is it?" in page and "attention-data" in page
    capsys.readouterr()
    photo = str(photos / "images" / "v7w_0.jpg")
    assert main(["generate", str(run.path), photo, "What colour is it?", "--choices", "red", "blue"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {line[1] for line in lines} == {"red", "blue"} and sum(float(line[0]) for line in lines) == pytest.approx(
        1, abs=0.01
    )
    assert main(["generate", str(run.path), photo, "What colour is it?"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["generate", str(run.path), photo]) == 2
    assert "a question about it" in capsys.readouterr().err
    task = run._task()
    opened = task.open("validation")
    answered = read_results(report.path.with_name("visual7w.json"), opened.questions, "validation")
    assert len(answered) == len(opened.questions) and all(len(each) == 4 for each in answered)
    assert np.isfinite(report.scores["accuracy"]) and photo_address("validation", 0, opened.names[0]) == opened.address(
        opened.questions[0]
    )
