"""Captioning whose network is trained too: gradients, what is seen of photographs, workers, resuming, and what is left
of it in a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import save_file

from pictures import encoded
from training_runs import train, train_together, weights
from unrolled import api
from unrolled.config.captioning import CaptioningConfig, FeatureConfig
from unrolled.config.load import load_config
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import CROP, View, random_view, read_image, to_pixels
from unrolled.errors import UserError
from unrolled.evaluation import ensemble_members
from unrolled.features import build_backbone, pretrained_backbone
from unrolled.files import cache_folder
from unrolled.tasks import Captioning

RUN = """
task: captioning
data: {source: scenes, limit: 48, vocabulary: {min_frequency: 1}}
model:
  features: {backbone: small, grid: 3, fine_tune: true, learning_rate: 0.5}
  encoder: {size: 12, places: true}
  decoder: {hidden: 16, embedding: 8, dropout: 0.0}
training: {batch_tokens: 200, metric: exact_match, epochs: 99, max_steps: 8, validate_every: 4, precision: float64}
evaluation: {metrics: [exact_match, cider_d]}
"""
NETWORK = "encoder.network."


@pytest.fixture
def scenes(tmp_path):
    """The path of a config; the runs lie beside it."""
    path = tmp_path / "scenes.yaml"
    path.write_text(RUN + f"storage: {tmp_path / 'runs'}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve photographs, the fourth of which is broken, with one to three captions each."""
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    noise = generator.integers(0, 256, (12, 48, 80, 3), dtype=np.uint8)
    images = [{"bytes": encoded(Image.fromarray(one), "JPEG"), "path": f"{n}.jpg"} for n, one in enumerate(noise)]
    images[3]["bytes"] = images[3]["bytes"][:200]
    captions = [[f"a photograph {'very ' * k}seen" for k in range(1 + n % 3)] for n in range(12)]
    for split in ("train", "validation"):
        Dataset.from_dict({"image": images, "captions": captions}).to_parquet(folder / f"{split}.parquet")
    return folder


def made(folder, source, **features):
    values = {
        "task": "captioning",
        "name": "photographs",
        "data": {"source": str(source), "limit": 12, "vocabulary": {"min_frequency": 1}},
        "model": {
            "features": {"fine_tune": True, **features},
            "decoder": {"hidden": 16, "embedding": 8, "dropout": 0.0},
        },
        "training": {"batch_tokens": 40},
    }
    config = CaptioningConfig.model_validate(values)
    data = Captioning.prepare(config)
    data.save(folder)
    return Captioning(config, folder), data


@pytest.mark.parametrize("conditioning", ["attention", "first"])
@pytest.mark.parametrize("truncate", ["null", "4"])
def test_gradients_reach_the_network(conditioning, truncate, scenes):
    more = [] if conditioning == "attention" else ["model.encoder.places=false"]
    options = [f"model.decoder.conditioning={conditioning}", f"training.truncate={truncate}", "training.max_steps=1"]
    run, _ = train(scenes, *options, *more)
    (row,) = [row for row in run.history() if row["kind"] == "validation"]
    first, now = pretrained_backbone(run.config().model.features).state_dict(), weights(run)
    assert row["loss"] > 0 and first.keys() == {name.removeprefix(NETWORK) for name in now if name.startswith(NETWORK)}
    assert all(not torch.equal(now[NETWORK + name], value.double()) for name, value in first.items())


def test_its_learning_rate_is_a_share_of_the_others(scenes):
    # The first step of Adam moves every parameter by the learning rate, wherever there is a gradient.
    run, _ = train(
        scenes, "training.max_steps=1", "training.optimizer.learning_rate=0.01", "training.clipping.kind=none"
    )
    torch.manual_seed(run.config().seed)
    before, after = Captioning(run.config(), run.vocabulary).build_model().state_dict(), weights(run)
    moved = {name: float((after[name] - value.double()).abs().max()) for name, value in before.items()}
    for name, most in moved.items():
        assert most == pytest.approx(0.005 if name.startswith(NETWORK) else 0.01, rel=0.05), name


def test_two_workers_and_a_resumed_run_end_where_one_does(scenes):
    alone, _ = train(scenes, "name=alone")
    together = train_together(scenes, 2, "name=together")
    for step in (5, 8):
        run, _ = train(scenes, "name=parts", f"training.max_steps={step}", resume=step > 5)
    want, got, resumed = weights(alone), weights(together), weights(run)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)
        assert torch.equal(resumed[name], value)


def test_a_run_describes_with_the_network_it_trained_and_without_files_of_features(scenes, tmp_path):
    made_before = set(cache_folder().glob("features-*"))
    save_file(pretrained_backbone(FeatureConfig(backbone="small")).network.state_dict(), tmp_path / "first.safetensors")
    options = [f"model.features.weights={tmp_path / 'first.safetensors'}", "training.optimizer.learning_rate=0.02"]
    run = api.train(load_config(scenes, options), local=True)
    (tmp_path / "first.safetensors").unlink()  # a trained run does without
    report = run.evaluate("validation", ["greedy"], local=True)
    assert "exact_match" in report.scores["greedy"]
    photo = tmp_path / "photo.png"
    photo.write_bytes(open_captions(run.folder.config().data, "validation").images[7])
    by_place, by_file = run.generate(["validation:7", str(photo)])
    assert by_place == by_file
    (member,) = ensemble_members(run.folder, (), (), "last")
    kept = {name: value for name, value in weights(run.folder).items() if name.startswith(NETWORK)}
    assert all(torch.equal(member.load().state_dict()[name], value) for name, value in kept.items())
    assert set(cache_folder().glob("features-*")) == made_before
    with pytest.raises(UserError, match=r"first\.safetensors: cannot be read"):
        api.train(load_config(scenes, options), local=True, overwrite=True)
    with pytest.raises(UserError, match="fine_tune is true"):
        api.make_features(load_config(scenes), local=True)


def test_views_are_drawn_from_seed_epoch_and_photograph_alone():
    views = {(seed, epoch, row): random_view(seed, epoch, row) for seed in (1, 2) for epoch in (0, 1) for row in (0, 1)}
    assert len(set(views.values())) == len(views)
    assert views == {place: random_view(*place) for place in views}
    sides = [random_view(1, 0, row).mirrored for row in range(400)]
    assert 160 < sum(sides) < 240


def test_a_view_is_a_part_of_the_photograph_or_its_mirror_image():
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (80, 160, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    whole, right = to_pixels(image, 40), to_pixels(image, 40, View(1.0, 0.0, False))
    assert whole.shape == (40, 40, 3) and whole.dtype == torch.uint8
    columns = right[20, :, 0].float()
    assert columns[0] == pytest.approx(160 * (1 - CROP), abs=4) and columns[-1] > 155
    assert torch.equal(to_pixels(image, 40, View(1.0, 0.0, True)), right.flip(1))


def test_a_batch_has_all_captions_of_its_photographs_in_the_views_of_its_epoch(tmp_path, photographs):
    task, data = made(tmp_path, photographs, backbone="efficientnet-lite0")
    corpus = data.split("train")
    assert data.images.stored("train").unreadable == {3: ("3.jpg", data.images.stored("train").unreadable[3][1])}
    assert "1 of them unreadable (3.jpg)" in task.describe(data)[1]
    first, again, later = task.plan(data, 0), task.plan(data, 0), task.plan(data, 1)
    in_batches = [set(corpus.photo_index[batch.rows].tolist()) for batch in first]
    assert sum(map(len, in_batches)) == 11 and set().union(*in_batches) == set(range(12)) - {3}
    assert sorted(np.concatenate([batch.rows for batch in first]).tolist()) == corpus.without({3}).tolist()
    whole = views(first, 0, 1)
    assert whole.keys() == views(again, 0, 1).keys()
    halves = views(first, 0, 2) | views(first, 1, 2)
    other = views(later, 0, 1)
    for photo, pixels in whole.items():
        assert torch.equal(halves[photo], pixels) and not torch.equal(other[photo], pixels)
        assert torch.equal(pixels, data.images.read("train", [photo], 0)[0])
    untouched = data.images.read("validation", [2])[0].permute(1, 2, 0)
    assert torch.equal(untouched, to_pixels(task.load_photo("validation:2"), 224))


def views(batches, rank, size):
    """What a worker sees of every photograph."""
    found = {}
    for batch in batches:
        photos = np.unique(batch.corpus.photo_index[batch.rows])[rank::size].tolist()
        shard = batch.shard(rank, size)
        if shard is not None:
            assert shard.photos.dtype == torch.uint8 and len(shard.photos) == len(photos)
            found |= zip(photos, shard.photos, strict=True)
    return found


def test_scenes_are_seen_as_they_are(tmp_path):
    task, data = made(tmp_path, "scenes", backbone="small")
    drawn = read_image(open_captions(task.config.data, "train").images[5])
    assert torch.equal(data.images.read("train", [5], 3)[0].permute(1, 2, 0), torch.from_numpy(np.array(drawn)))


def test_normalisation_keeps_its_statistics_and_learns_its_scale():
    backbone = build_backbone(FeatureConfig(backbone="mobilenet_v3_small")).train()
    before = {name: value.clone() for name, value in backbone.network.named_buffers()}
    backbone(torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.network.named_buffers())
    scales = [module.weight.grad for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert scales and all(gradient is not None and gradient.abs().sum() > 0 for gradient in scales)
