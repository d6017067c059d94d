"""Captioned photographs in every form of files and tables."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from PIL import Image

from pictures import RED, encoded
from unrolled.config.captioning import CaptionColumns, CaptionData
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import read_image
from unrolled.errors import UserError

PHOTO = encoded(Image.new("RGB", (12, 12), RED), "JPEG")


def photos(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(PHOTO)


def opened(folder, split="train", **options):
    return open_captions(CaptionData(source=str(folder), **options), split)


def check(captioned, names, captions):
    assert list(captioned.names) == names
    assert captioned.captions == captions
    assert read_image(captioned.images[0]).size == (12, 12)


def test_karpathy(tmp_path):
    photos(tmp_path / "images", "a.jpg", "b.jpg")
    rows = [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog ."}, {"raw": "Dog"}]},
        {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "A cat ."}]},
        {"filename": "c.jpg", "split": "val", "sentences": [{"raw": "A cow ."}]},
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))
    check(opened(tmp_path), ["a.jpg"], [["A dog .", "Dog"]])
    assert len(opened(tmp_path, "train+restval")) == 2
    with pytest.raises(UserError, match=r"has no split 'odd'; it has restval, train or val"):
        opened(tmp_path, "odd")
    with pytest.raises(UserError, match=r"data.images: there is no photograph c.jpg"):
        opened(tmp_path, "validation")


def test_coco(tmp_path):
    photos(tmp_path / "train2017", "1.jpg", "2.jpg")
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"image_id": 1, "caption": "A dog."}, {"image_id": 1, "caption": "  "}],
    }
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    found = opened(tmp_path)
    check(found, ["1.jpg"], [["A dog."]])
    assert "1 photograph without caption left out (2.jpg)" in found.dropped[0]
    assert "1 photograph with empty captions" in found.dropped[1]
    with pytest.raises(UserError, match="no captions for split 'validation'; it has train2017"):
        opened(tmp_path, "validation")


def test_flickr(tmp_path):
    photos(tmp_path / "Flicker8k_Dataset", "a.jpg", "b.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg#0\tA dog .\na.jpg#1\tDog\nb.jpg#0\tA cat .\n")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    check(opened(tmp_path), ["a.jpg"], [["A dog .", "Dog"]])
    check(opened(tmp_path, "validation"), ["b.jpg"], [["A cat ."]])
    with pytest.raises(UserError, match="no list of the photographs of split 'test'"):
        opened(tmp_path, "test")
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg A dog\n")
    with pytest.raises(UserError, match="line 1"):
        opened(tmp_path)


def test_metadata(tmp_path):
    photos(tmp_path / "train", "a.jpg", "b.jpg")
    photos(tmp_path / "validation", "c.jpg")
    (tmp_path / "train" / "metadata.csv").write_text('file_name,captions\na.jpg,"A dog, running"\na.jpg,Dog\nb.jpg,\n')
    (tmp_path / "validation" / "metadata.jsonl").write_text('{"file_name": "c.jpg", "captions": ["One", "Two"]}\n')
    check(opened(tmp_path), ["a.jpg"], [["A dog, running", "Dog"]])
    check(opened(tmp_path, "validation"), ["c.jpg"], [["One", "Two"]])
    with pytest.raises(UserError, match=r"has no column 'text' \(data.columns.captions\)"):
        opened(tmp_path, columns=CaptionColumns(captions="text"))


def test_tables(tmp_path):
    rows = {
        "image": [{"bytes": PHOTO, "path": "a.jpg"}, {"bytes": PHOTO, "path": None}],
        "one": ["A dog", "A cat"],
        "two": [["Dog"], []],
    }
    Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    found = opened(tmp_path, columns=CaptionColumns(captions=["one", "two"]))
    check(found, ["a.jpg", "row 1"], [["A dog", "Dog"], ["A cat"]])
    limited = opened(tmp_path, columns=CaptionColumns(captions="one"), limit=1)
    assert len(limited) == 1 and limited.fingerprint != found.fingerprint
    with pytest.raises(UserError, match="no column 'captions'"):
        opened(tmp_path)


def test_scenes():
    found = open_captions(CaptionData(source="scenes", limit=5), "validation")
    assert len(found) == 5 and read_image(found.images[4]).size == (56, 56)
    with pytest.raises(UserError, match="no split 'odd'"):
        open_captions(CaptionData(source="scenes"), "odd")


def test_flickr8k(shared_data):
    found = open_captions(CaptionData(source=str(shared_data / "flickr8k")), "validation")
    assert len(found) == 1000 and {len(texts) for texts in found.captions} == {5}
    assert read_image(found.images[999]).size == (224, 224)
    assert found.names[0].endswith(".jpg") and found.dropped == []
