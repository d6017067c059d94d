"""Features of photographs: made once, in blocks, by one process or by Ray Data, and kept."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from PIL import Image

from pictures import RED, encoded
from unrolled import api
from unrolled.cluster.ray_session import connect
from unrolled.config import Config, Section, vqa
from unrolled.config.captioning import CaptionData, CaptioningConfig, FeatureConfig
from unrolled.data.image_sets import view_split
from unrolled.data.images import read_image
from unrolled.errors import UserError
from unrolled.features import (
    extract_features,
    extract_locally,
    feature_job,
    feature_jobs,
    open_features,
    pretrained_backbone,
)
from unrolled.features.ray_job import extract_on_ray
from unrolled.tasks.image_inputs import ImageInputs
from visual7w_samples import TELLING, folder, pair


class Model(Section):
    features: FeatureConfig


class Settings(Config):
    data: CaptionData
    model: Model


class Answering(Config):
    data: vqa.QuestionData
    model: Model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(limit=150, **data):
    data = CaptionData(**({"source": "scenes", "limit": limit} | data))
    return Settings(task="captioning", name="tiny", data=data, model=Model(features=FeatureConfig(backbone="small")))


def ignore(done, of):
    pass


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_features_are_the_networks(cache):
    made = open_features(config(), "train")
    assert (len(made), made.positions, made.channels, made.unreadable) == (150, 49, 128, {})
    backbone, photographs = (
        pretrained_backbone(FeatureConfig(backbone="small")).eval(),
        feature_job(config(), "train").photographs,
    )
    rows = torch.tensor([149, 3])
    pixels = torch.stack([backbone.preprocess(read_image(photographs.images[row])) for row in rows])
    with torch.inference_mode():
        grids = backbone(pixels)
    torch.testing.assert_close(made.grids(rows), grids, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(made.globals(rows), grids.mean(1), atol=1e-4, rtol=1e-4)


def test_made_once(cache):
    open_features(config(), "train")

    def never(job, missing):
        raise AssertionError("made again")

    extract_features(feature_job(config(), "train"), never, ignore)
    assert feature_job(config(limit=151), "train").folder != feature_job(config(), "train").folder


def test_an_attempt_that_ended_goes_on(cache):
    job = feature_job(config(), "train")

    def interrupted(job, missing):
        for number, block in extract_locally(job, missing):
            yield number, block
            if number == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(job, interrupted, ignore)
    assert not job.folder.exists()
    with (job.folder.with_name(f".{job.folder.name}") / "blocks.jsonl").open("a") as torn:
        torn.write("[1, {")
    asked = []

    def rest(job, missing):
        asked.extend(missing)
        return extract_locally(job, missing)

    extract_features(job, rest, ignore)
    resumed = files(job.folder)
    assert asked == [1, 2]
    shutil.rmtree(job.folder)
    extract_features(job, extract_locally, ignore)
    assert files(job.folder) == resumed


def test_unreadable_photographs_are_named(cache, tmp_path):
    photo = encoded(Image.new("RGB", (12, 12), RED), "JPEG")
    images = [{"bytes": one, "path": f"{n}.jpg"} for n, one in enumerate([photo, photo[:300], b"", photo])]
    Dataset.from_dict({"image": images, "captions": ["one", "two", "three", "four"]}).to_parquet(
        tmp_path / "data" / "train.parquet"
    )
    made = open_features(config(source=str(tmp_path / "data")), "train")
    assert set(made.unreadable) == {1, 2}
    assert made.unreadable[2] == ("2.jpg", "is empty")
    assert made.grids(torch.tensor([1, 2])).abs().sum() == 0


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        open_features(config(), "train")


@pytest.mark.slow
def test_ray_data_makes_the_same_file(cache, tmp_path):
    job = feature_job(config(), "train")
    extract_features(job, extract_locally, ignore)
    alone = files(job.folder)
    shutil.rmtree(job.folder)
    counts = []
    with connect(None, tmp_path / "log.txt"):
        extract_features(job, extract_on_ray(2), lambda done, of: counts.append(done))
    assert files(job.folder) == alone
    assert sorted(counts) == counts and counts[-1] == 150


@pytest.mark.slow
def test_all_splits_with_words(cache, tmp_path, capsys):
    settings = config(limit=70)
    for _ in range(2):
        with connect(None, tmp_path / "log.txt"):
            api.make_features(settings, workers=2)
    printed, _ = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0] == "features of train: 70 photographs"
    assert "70 photographs, 70 made in" in lines[1]
    assert "nothing to do" in lines[4] and "nothing to do" in lines[5]
    assert len(lines) == 6


def test_photographs_of_questions_are_read_once_and_the_missing_named(cache, tmp_path):
    content = copy.deepcopy(TELLING)
    other = {"image_id": 9, "filename": "v7w_9.jpg", "split": "train", "qa_pairs": [pair(9, "hat", ["cap"])]}
    content["images"].append(other)
    source = folder(tmp_path, content)
    (tmp_path / "images" / "v7w_9.jpg").unlink()
    data, model = vqa.QuestionData(source=source), Model(features=FeatureConfig(backbone="small"))
    made = open_features(Answering(task="question_answering", name="tiny", data=data, model=model), "train")
    assert len(made) == 2 and made.unreadable == {1: ("v7w_9.jpg", "no such file")}


def test_an_epoch_draws_one_of_the_views_that_are_kept(cache):
    settings = CaptioningConfig.model_validate(
        {
            "task": "captioning",
            "name": "views",
            "data": {"source": "scenes", "limit": 40},
            "model": {"features": {"backbone": "small", "views": 3}, "decoder": {"conditioning": "attention"}},
        }
    )
    jobs = feature_jobs(settings, ["train", "validation"])
    assert [job.split for job in jobs] == ["train", "validation", "view 1 of train", "view 2 of train"]
    rows, inputs = list(range(40)), ImageInputs(settings, grid=True)
    views = torch.stack(
        [open_features(settings, view_split("train", view)).grids(torch.tensor(rows)) for view in range(3)]
    )
    assert not torch.equal(views[1], views[2])
    epochs = [inputs.read("train", rows, epoch) for epoch in range(12)]
    same = torch.stack([(epoch == views).all(-1).all(-1) for epoch in epochs])  # (epoch, view, photograph)
    assert bool((same.sum(1) == 1).all()) and bool(same.any(0).all()), "each time one view, and each at some time"
    torch.testing.assert_close(inputs.read("train", rows[3:9], 7), epochs[7][3:9], rtol=0, atol=0)
    torch.testing.assert_close(inputs.read("train", rows), views[0], rtol=0, atol=0)


def test_the_size_that_a_network_sees(cache):
    seen = FeatureConfig(backbone="small", size=112, grid=14)
    settings = config().model_copy(update={"model": Model(features=seen)})
    made = open_features(settings, "train")
    assert (made.positions, made.channels) == (196, 128)
    assert feature_job(settings, "train").folder != feature_job(config(), "train").folder
