"""Pointing that begins with words of captions, and its cross-validation."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import unrolled
from repository import JOBS
from unrolled.config.load import load_config
from unrolled.config.vqa import PointingData
from unrolled.data.caption_readers import open_captions
from unrolled.data.question_readers import open_questions
from unrolled.errors import UserError
from unrolled.tasks import prepare

sys.path.append(str(JOBS / "benchmarks"))

import cross_validate

COLOURS = ("red", "green", "blue", "yellow", "purple")
SPLITS = {"train": 40, "validation": 20}
WORDS = """\
task: pointing
name: words
data: {{source: {photos}, captions: true, also: [{squares}]}}
model:
  sees: question
  features: {{backbone: small}}
  encoder: {{size: 8}}
  attention: false
  question: {{hidden: 12, embedding: 8, dropout: 0.0}}
  regions: {{dropout: 0.0}}
training: {{epochs: 25, batch_tokens: 100, against: batch, metric: multiple_choice, optimizer: {{learning_rate: 0.02}}}}
"""
COCO = """\
task: pointing
name: squares
data: {{source: {squares}, words: {words}}}
model:
  features: {{backbone: small}}
  encoder: {{size: 8}}
  attention: false
  question: {{hidden: 12, embedding: 8, dropout: 0.0}}
  regions: {{dropout: 0.0}}
training: {{start_from: {run}, epochs: 2, batch_tokens: 100, optimizer: {{learning_rate: 0.002}}}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Captioned photographs of one colour each, and Visual7W's files about squares of these colours."""
    place = tmp_path_factory.mktemp("place")
    for split, count in SPLITS.items():
        folder = place / "photos" / split
        folder.mkdir(parents=True)
        rows = []
        for number in range(count):
            colour = COLOURS[number % len(COLOURS)]
            Image.new("RGB", (40, 40), colour).save(folder / f"{split}{number}.png")
            rows.append({"file_name": f"{split}{number}.png", "captions": [f"A {colour} wall.", f"It is {colour}"]})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (place / "squares" / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(10):
        generator = random.Random(number)
        photo, colours = Image.new("RGB", (80, 60), (200, 200, 200)), generator.sample(COLOURS, 4)
        for spot, colour in enumerate(colours):
            x, y = 4 + 40 * (spot % 2), 4 + 30 * (spot // 2)
            ImageDraw.Draw(photo).rectangle((x, y, x + 19, y + 14), colour)
            where = {"x": x, "y": y, "width": 20, "height": 15}
            boxes.append({"box_id": 4 * number + spot, "image_id": number, "name": colour} | where)
        photo.save(place / "squares" / "images" / f"v7w_{number}.png")
        right, ids = generator.randrange(4), [4 * number + spot for spot in range(4)]
        pair = {
            "qa_id": number,
            "image_id": number,
            "type": "which",
            "question": f"Which region shows the {colours[right]}?",
        }
        pair |= {"answer": ids[right], "multiple_choices": [id for id in ids if id != ids[right]]}
        split = "train" if number < 5 else "validation"
        images.append({"image_id": number, "filename": f"v7w_{number}.png", "split": split, "qa_pairs": [pair]})
    content = {"dataset": "squares", "images": images, "boxes": boxes}
    (place / "squares" / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def words(place) -> unrolled.Run:
    config = place / "words.yaml"
    config.write_text(WORDS.format(photos=place / "photos", squares=place / "squares"), encoding="utf-8")
    return unrolled.train(config, overrides=[f"storage={place / 'runs'}"], local=True)


@pytest.fixture(scope="module")
def squares(place, words) -> Path:
    config = place / "squares.yaml"
    given = {"squares": place / "squares", "words": words.folder.vocabulary / "words.json", "run": words.path}
    config.write_text(COCO.format(**given) + f"storage: {place / 'runs'}\n", encoding="utf-8")
    return config


def test_questions_of_captions(place):
    data = PointingData(source=str(place / "photos"), captions=True)
    asked = open_questions(data, "train")
    assert {each.question for each in asked.questions if each.photo == 0} == {
        f"which region shows the {words}?" for words in ("red", "wall", "red wall")
    }
    for each in asked.questions:
        assert each.answer == asked.names[each.photo]
        assert len(each.choices) == 4
        assert set(each.choices) <= set(asked.names)
        assert each.choices[each.answer_index] == each.answer
    assert open_questions(data, "train").questions == asked.questions
    assert asked.fingerprint == caption_set_fingerprint(place)


def caption_set_fingerprint(place: Path) -> str:
    """Of the same photographs with their captions: features of both are the same ones."""
    from unrolled.config.captioning import CaptionData

    return open_captions(CaptionData(source=str(place / "photos")), "train").fingerprint


def test_words_of_captions_choose_regions(words, squares):
    """Nobody has told the model which region is red; it knows what a red photograph looks like."""
    learned = {json.loads(line).get("multiple_choice") for line in words.folder.metrics.read_text().splitlines()}
    assert max(score for score in learned if score is not None) > 40
    config = load_config(squares, ["training.max_steps=1", "training.optimizer.learning_rate=1e-9", "name=untouched"])
    report = unrolled.train(config, local=True).evaluate("validation", local=True)
    assert report.scores["multiple_choice"] >= 60


def test_other_words_cannot_be_gone_on_from(place, squares):
    with pytest.raises(UserError, match=r"has another words\.json"):
        unrolled.train(squares, overrides=["data.words=null", "name=other"], local=True)
    with pytest.raises(UserError, match=r"data\.words: .*: no such file"):
        prepare(load_config(squares, ["data.words=nowhere.json"]))


def test_every_question_is_answered_once(place, squares, capsys):
    assert cross_validate.main([str(squares), "--folds", "3", "--local"]) == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in ("fold 3: ", "Chance", "The largest region", "This model"))
    rows = (place / "runs" / "squares-3-folds.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(int(json.loads(row)["qa_id"]) for row in rows) == list(range(10))
    assert cross_validate.main([str(squares), "--folds", "3", "--local"]) == 0  # which trains nothing again
    assert capsys.readouterr().out.splitlines()[-4:] == printed.splitlines()[-4:]


def test_a_mistake_is_one_sentence(squares, capsys):
    assert cross_validate.main([str(squares), "model.sees=nothing", "--local"]) == 2
    assert "model.sees" in capsys.readouterr().err
