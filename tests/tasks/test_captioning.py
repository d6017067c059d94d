"""The task of captioning on drawn scenes: batches, losses, what it writes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrolled.api import train
from unrolled.config.captioning import CaptioningConfig
from unrolled.data.caption_readers import CaptionSet, open_captions
from unrolled.data.photo_corpus import CaptionSplit, prepare_captions
from unrolled.decoding import Beam, Greedy
from unrolled.errors import UserError
from unrolled.tasks import Captioning
from unrolled.tasks.captioning import normalize_caption

DECODER = {"hidden": 16, "embedding": 8, "dropout": 0.0, "picture": 8, "recall": 8}


def settings(*, decoder=None, data=None, **more):
    values = {
        "task": "captioning",
        "name": "scenes",
        "data": {"source": "scenes", "limit": 48, "vocabulary": {"min_frequency": 1}, **(data or {})},
        "model": {"features": {"backbone": "small"}, "decoder": DECODER | (decoder or {})},
        "training": {"batch_tokens": 120, "metric": "exact_match", "epochs": 1, **more.pop("training", {})},
        "evaluation": {"metrics": ["exact_match", "cider_d"]},
    }
    return CaptioningConfig.model_validate(values | more)


def made(config, folder):
    data = Captioning.prepare(config)
    data.save(folder)
    return Captioning(config, folder), data


def captions_of(batches):
    return sorted(int(i) for batch in batches for i in batch.rows)


def test_an_epoch_uses_every_caption_once_and_no_batch_is_too_large(tmp_path):
    task, data = made(settings(), tmp_path)
    corpus = data.split("train")
    for epoch in (0, 1):
        batches = task.plan(data, epoch)
        assert captions_of(batches) == list(range(len(corpus)))
        assert all(corpus.lengths[batch.rows].max() * len(batch.rows) <= 120 for batch in batches)
    orders = [[batch.rows.tolist() for batch in task.plan(data, epoch)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_captions_of_a_photograph_can_stay_together(tmp_path, monkeypatch):
    photos = 40
    texts = [[" ".join(["word"] * (1 + (photo * caption) % 7)) for caption in range(5)] for photo in range(photos)]
    read = CaptionSet([b""] * photos, [f"{photo}.jpg" for photo in range(photos)], texts)
    monkeypatch.setattr("unrolled.data.photo_corpus.open_captions", lambda data, split: read)
    task, data = made(settings(training={"together": True}, data={"limit": 40}), tmp_path)
    corpus = data.split("train")
    batches = task.plan(data, 0)
    assert captions_of(batches) == list(range(5 * photos)) and len(batches) > 3
    for batch in batches:
        assert all(count == 5 for count in np.unique(corpus.photo_index[batch.rows], return_counts=True)[1])
        assert batch.tokens <= 120
    assert any(len(set(corpus.lengths[batch.rows])) > 3 for batch in batches)


def test_captions_of_an_unreadable_photograph_are_left_out(tmp_path, monkeypatch):
    task, data = made(settings(), tmp_path)
    monkeypatch.setattr(data.images.stored("train"), "unreadable", dict.fromkeys((3, 5), ("", "")), raising=False)
    corpus = data.split("train")
    learned = captions_of(task.plan(data, 0))
    assert set(corpus.photo_index[learned].tolist()) == set(range(len(corpus.names))) - {3, 5}


def test_parts_hold_each_photograph_once_and_together_the_batch(tmp_path):
    task, data = made(settings(), tmp_path)
    corpus, features = data.split("train"), data.images.stored("train")
    (batch, *_) = task.plan(data, 0)
    for rank in range(2):
        photos = np.unique(corpus.photo_index[batch.rows])[rank::2]
        shard, mine = batch.shard(rank, 2), batch.rows[np.isin(corpus.photo_index[batch.rows], photos)]
        torch.testing.assert_close(shard.photos, features.grids(torch.from_numpy(photos)))
        assert (photos[shard.photo_index] == corpus.photo_index[mine]).all()
        for row, tokens in enumerate(corpus.tokens("caption_tokens", mine)):
            assert shard.decoder_inputs[row, 1 : len(tokens) + 1].tolist() == shard.targets[row, : len(tokens)].tolist()
            assert shard.targets[row, : len(tokens)].tolist() == tokens.tolist()
            assert int(shard.mask[row].sum()) == len(tokens) + 1
    assert batch.shard(len(batch.rows), len(batch.rows) + 1) is None


CONDITIONINGS = ("first", "once", "every", "output", "reconstruct", "attention")


@pytest.mark.parametrize("truncate", [None, 4])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_losses_can_be_walked_back(conditioning, truncate, tmp_path):
    config = settings(decoder={"conditioning": conditioning}, training={"truncate": truncate})
    task, data = made(config, tmp_path)
    torch.manual_seed(0)
    model = task.build_model()
    for window_loss in task.losses(model, task.plan(data, 0)[0].shard(0, 1), None):
        window_loss.loss.backward()
    assert window_loss.last
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_validation_does_not_depend_on_the_number_of_workers(tmp_path):
    task, data = made(settings(), tmp_path)
    torch.manual_seed(0)
    model = task.build_model()
    scores = [
        task.validation_scores([task.validate(model, data, rank, size) for rank in range(size)]) for size in (1, 3)
    ]
    assert scores[0] == pytest.approx(scores[1])
    assert {"loss", "perplexity", "exact_match", "cider_d"} <= scores[0].keys()


def test_a_photograph_may_have_several_captions(tmp_path, monkeypatch):
    captions = [["A dog.", "the Dog runs!"], ["a cat"], ["two cats", "A cat sits, alone.", "cats"]]

    read = CaptionSet([b"", b"", b""], ["a.jpg", "b.jpg", "c.jpg"], captions)
    monkeypatch.setattr("unrolled.data.photo_corpus.open_captions", lambda data, split: read)
    folder = prepare_captions(settings().data, normalize_caption)
    corpus = folder.split("train")
    assert isinstance(corpus, CaptionSplit) and len(corpus) == 6
    assert corpus.photo_index.tolist() == [0, 0, 1, 2, 2, 2]
    assert corpus.lengths.tolist() == [3, 4, 3, 3, 5, 2]
    assert corpus.texts() == [["a dog", "the dog runs"], ["a cat"], ["two cats", "a cat sits alone", "cats"]]
    assert folder.vocabulary.decode([corpus.tokens("caption_tokens", [4])[0].tolist()]) == ["a cat sits alone"]
    assert corpus.without({0}).tolist() == [2, 3, 4, 5]


def test_what_it_writes_is_compared_with_all_references(tmp_path):
    task, _ = made(settings(), tmp_path)
    scores = task.score(["a dog", "a cat"], [["the dog", "a dog"], ["two cats"]])
    assert scores["exact_match"] == 50 and scores["signatures"]["cider_d"].startswith("nrefs:var")


@pytest.mark.parametrize("conditioning", ["attention", "first"])
def test_attention_tells_a_weight_for_every_position(conditioning, tmp_path):
    task, _ = made(settings(decoder={"conditioning": conditioning}), tmp_path)
    attended = task.attention(task.build_model(), "validation:0", "a red circle")
    if conditioning == "first":
        assert attended is None
        return
    assert attended.output == ["▁a", "▁red", "▁circle", "</s>"] and len(attended.input) == 49
    assert all(sum(row) == pytest.approx(1, abs=0.03) for row in attended.weights)


def test_photographs_are_named_by_their_place_or_their_file(tmp_path):
    task, _ = made(settings(), tmp_path)
    photo = tmp_path / "photo.png"
    photo.write_bytes(open_captions(task.config.data, "validation").images[7])
    torch.manual_seed(0)
    model, strategy = task.build_model(), Greedy(max_length=8)
    by_place, _, by_file = task.predict(model, ["validation:7", "validation:8", str(photo)], strategy)
    assert by_place == by_file
    with pytest.raises(UserError, match=r"validation:48: the split has 48"):
        task.predict(model, ["validation:48"], strategy)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.jpg"):
        task.predict(model, [str(tmp_path / "text.jpg")], strategy)


def test_what_does_not_go_with_photographs_is_refused(tmp_path):
    task, _ = made(settings(decoder={"conditioning": "first"}), tmp_path)
    with pytest.raises(UserError, match="coverage_penalty wants attention"):
        task.check_strategy(Beam(coverage_penalty=0.2))
    with pytest.raises(UserError, match="length_factor"):
        task.check_strategy(Beam(length_factor=2.0))
    with pytest.raises(ValueError, match="layer is 2"):
        settings(decoder={"layer": 2})


def test_a_run_learns_evaluates_and_describes(tmp_path):
    config = settings(storage=str(tmp_path), training={"epochs": 2}, decoder={"conditioning": "every"})
    run = train(config, local=True)
    report = run.evaluate("validation", ["greedy", "beam:size=2"], local=True)
    assert set(report.scores) == {"greedy", "beam:size=2"} and report.path.is_file()
    assert len(run.generate(["validation:0", "test:1"])) == 2
