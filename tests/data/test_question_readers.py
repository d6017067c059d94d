"""Questions about photographs in every form of files and tables, and what is refused."""

from __future__ import annotations

import copy
import json
import random

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from pydantic import ValidationError

from pictures import RED, encoded
from unrolled.config.common import Splits
from unrolled.config.vqa import PointingData, QuestionColumns, QuestionData
from unrolled.data.builtin_scenes import SIDE
from unrolled.data.image_sets import open_photos
from unrolled.data.images import image_size, read_image
from unrolled.data.question_readers import open_questions
from unrolled.errors import UserError
from visual7w_samples import PHOTO, POINTING, TELLING, folder, pair


def test_telling(tmp_path):
    asked = open_questions(QuestionData(source=folder(tmp_path, TELLING)), "train")
    first, second = asked.questions
    assert (first.id, first.photo, first.kind, first.question) == ("1", 0, "what", "What is this?")
    assert (first.answer, first.answers, first.choices[first.answer_index]) == ("dog", ("dog",), "dog")
    assert sorted(first.choices) == ["cat", "cow", "dog", "pig"] and second.kind == "how"
    assert list(asked.names) == ["v7w_7.jpg"] and read_image(asked.images[0]).size == (40, 30)
    assert open_questions(QuestionData(source=str(tmp_path)), "validation").questions[0].answer == "hat"
    assert open_photos(QuestionData(source=str(tmp_path)), "train").fingerprint == asked.fingerprint


def test_candidate_order_does_not_reveal_the_answer(tmp_path):
    content = copy.deepcopy(TELLING)
    content["images"][0]["qa_pairs"] = [pair(id, "dog", ["cat", "cow", "pig"]) for id in range(10, 410)]
    asked = open_questions(QuestionData(source=folder(tmp_path, content)), "train")
    counts = [sum(each.answer_index == place for each in asked.questions) for place in range(4)]
    assert min(counts) > 70
    generator = random.Random(1)
    for each in content["images"][0]["qa_pairs"]:
        generator.shuffle(each["multiple_choices"])
    again = open_questions(QuestionData(source=folder(tmp_path, content)), "train")
    assert again.questions == asked.questions


def test_pointing(tmp_path):
    asked = open_questions(PointingData(source=folder(tmp_path, POINTING)), "train")
    (question,) = asked.questions
    assert (question.answer, sorted(question.choices)) == ("11", ["11", "12", "13"])
    assert asked.boxes["12"] == (5.0, 1.5, 10.0, 20.0)


def broken(edit, content=TELLING):
    content = copy.deepcopy(content)
    edit(content, content["images"][0]["qa_pairs"][0])
    return content


BAD = {
    "has no candidates": broken(lambda _, asked: asked.pop("multiple_choices")),
    r"qa_id 1: type 'whta' is not known; accepted is what, .* Did you mean 'what'\?": broken(
        lambda _, asked: asked.update(type="whta")
    ),
    "qa_id 2 stands there twice": broken(lambda _, asked: asked.update(qa_id=2)),
    "qa_id 3 stands there twice": broken(lambda _, asked: asked.update(qa_id=3)),
    "qa_id 1: question holds 5, not text": broken(lambda _, asked: asked.update(question=5)),
    "qa_id 1: has no answer": broken(lambda _, asked: asked.update(answer=None)),
    "there is no photograph v7w_9.jpg": broken(lambda all, _: all["images"][0].update(filename="v7w_9.jpg")),
    "is answered in words, and the task wants boxes": TELLING,
}
BAD_POINTING = {
    "candidate 99 is not among the boxes": broken(lambda _, asked: asked.update(multiple_choices=[12, 99]), POINTING),
    "box 12 is of image 8, not of 7": broken(lambda all, _: all["boxes"][1].update(image_id=8), POINTING),
    r"box 13: x 35, y 1.5, 10 × 20 reaches beyond v7w_7.jpg, 40 × 30": broken(
        lambda all, _: all["boxes"][2].update(x=35), POINTING
    ),
    "box 13: x 10, y -9, 10 × 20 reaches beyond": broken(lambda all, _: all["boxes"][2].update(y=-9), POINTING),
    "box 13: .* holds no pixel": broken(lambda all, _: all["boxes"][2].update(width=0), POINTING),
    "box 13: x holds nothing, not a number": broken(lambda all, _: all["boxes"][2].pop("x"), POINTING),
    "box_id 11 stands there twice": broken(lambda all, _: all["boxes"][2].update(box_id=11), POINTING),
    "is answered by boxes, and the task wants words": POINTING,
}


@pytest.mark.parametrize("sentence", [*BAD, *BAD_POINTING])
def test_invalid_files_are_refused(tmp_path, sentence):
    content = (BAD | BAD_POINTING)[sentence]
    source = folder(tmp_path, content)
    if "there is no photograph" in sentence:
        (tmp_path / "images" / "v7w_9.jpg").unlink()
    wants_boxes = (sentence in BAD_POINTING) != sentence.startswith("is answered")
    with pytest.raises(UserError, match=sentence) as error:
        open_questions((PointingData if wants_boxes else QuestionData)(source=source), "train")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_missing_photographs_are_not_refused(tmp_path):
    content = broken(lambda all, _: all["images"].append(all["images"][1] | {"split": "train", "qa_pairs": []}))
    content["images"][2] = content["images"][2] | {"filename": "v7w_9.jpg", "qa_pairs": [pair(5, "x", ["y"])]}
    source = folder(tmp_path, content)
    (tmp_path / "images" / "v7w_9.jpg").unlink()
    assert len(open_questions(QuestionData(source=source), "train")) == 2


def test_empty_answers_are_left_out_and_named(tmp_path):
    asked = open_questions(
        QuestionData(source=folder(tmp_path, broken(lambda _, asked: asked.update(answer=" ")))), "train"
    )
    assert [each.id for each in asked.questions] == ["2"]
    assert "1 question without text or answer left out (1)" in asked.dropped[0]


def test_splits(tmp_path):
    source = folder(tmp_path, TELLING)
    with pytest.raises(UserError, match=r"has no split 'odd'; it has train or val"):
        open_questions(QuestionData(source=source), "odd")


def vqa(path, version="v2_", form="OpenEnded_"):
    (path / "images").mkdir(exist_ok=True)
    for split, ids in (("train", (9, 5)), ("val", (3,))):
        rows = [{"question_id": id * 10 + n, "image_id": id, "question": "Is it?"} for id in ids for n in range(2)]
        if form != "OpenEnded_":
            rows = [row | {"multiple_choices": ["yes", "no", "2"]} for row in rows]
        answers = [{"answer": text} for text in ["no"] * 4 + ["yes"] * 6]
        known = [{"question_id": row["question_id"], "answer_type": "yes/no", "answers": answers} for row in rows]
        about = {"data_type": "mscoco", "data_subtype": f"{split}2014"}
        file = path / f"{version}{form}mscoco_{split}2014_questions.json"
        file.write_text(json.dumps(about | {"questions": rows}))
        file = path / f"{version}mscoco_{split}2014_annotations.json"
        file.write_text(json.dumps(about | {"annotations": known[:3]}))
        for id in ids:
            (path / "images" / f"COCO_{split}2014_{id:012d}.jpg").write_bytes(PHOTO)


@pytest.mark.parametrize(("version", "form"), [("v2_", "OpenEnded_"), ("", "MultipleChoice_")])
def test_vqa(tmp_path, version, form):
    vqa(tmp_path, version, form)
    asked = open_questions(QuestionData(source=str(tmp_path)), "train")
    assert [each.id for each in asked.questions] == ["50", "90", "91"]
    assert list(asked.names) == ["COCO_train2014_000000000005.jpg", "COCO_train2014_000000000009.jpg"]
    first = asked.questions[0]
    assert (first.answer, len(first.answers), first.kind, first.photo) == ("yes", 10, "yes/no", 0)
    assert sorted(first.choices) == ([] if form == "OpenEnded_" else ["2", "no", "yes"])
    assert "1 question without text or answer left out (51)" in asked.dropped[0]
    assert len(open_questions(QuestionData(source=str(tmp_path)), "validation").questions) == 2


def test_vqa_of_both_forms_is_named(tmp_path):
    for form in ("OpenEnded_", "MultipleChoice_"):
        vqa(tmp_path, "", form)
    with pytest.raises(UserError, match=r"several files for split 'train'; name one of MultipleChoice_mscoco_train"):
        open_questions(QuestionData(source=str(tmp_path)), "train")
    named = Splits(train="MultipleChoice_mscoco_train2014")
    assert open_questions(QuestionData(source=str(tmp_path), splits=named), "train").questions[0].choices
    (tmp_path / "mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match=r"there is no mscoco_val2014_annotations.json with its answers"):
        open_questions(QuestionData(source=str(tmp_path), splits=Splits(test="OpenEnded_mscoco_val2014")), "test")


def table(path, **columns):
    other = encoded(Image.new("RGB", (8, 8), RED), "JPEG")
    rows = {"image": [{"bytes": each, "path": None} for each in (PHOTO, other, PHOTO)], "question": ["What?"] * 3}
    Dataset.from_dict(rows | columns).to_parquet(path / "train.parquet")
    return str(path)


def test_tables_share_photographs(tmp_path):
    source = table(tmp_path, answer=["a", "b", "c"])
    asked = open_questions(QuestionData(source=source), "train")
    assert len(asked) == 2 and len(asked.images) == 2
    assert [(each.id, each.photo, each.answer) for each in asked.questions] == [
        ("train-0", 0, "a"),
        ("train-2", 0, "c"),
        ("train-1", 1, "b"),
    ]
    assert len(open_questions(QuestionData(source=source, limit=1), "train").questions) == 2


@pytest.mark.parametrize(
    "answers", [[["no", "yes", "yes"]] * 3, [[{"answer": text, "id": 1} for text in ("no", "yes", "yes")]] * 3]
)
def test_tables_with_several_answers(tmp_path, answers):
    (first, *_) = open_questions(QuestionData(source=table(tmp_path, answer=answers)), "train").questions
    assert (first.answer, first.answers) == ("yes", ("no", "yes", "yes"))


def test_tables_with_candidates(tmp_path):
    source = table(tmp_path, answer=[0, 1, 1], own=[["a", "b"]] * 3, type=["what", "who", None], number=[4, 5, 6])
    columns = QuestionColumns(choices="own", kind="type", id="number")
    asked = open_questions(QuestionData(source=source, columns=columns), "train")
    assert [(each.id, each.answer, each.kind) for each in asked.questions] == [
        ("4", "a", "what"),
        ("6", "b", "what"),
        ("5", "b", "who"),
    ]
    for bad, sentence in (
        ({"answer": [0, 2, 1], "own": [["a", "b"]] * 3}, "row 1: answer 2 is no place among 2 candidates"),
        ({"answer": ["a"] * 3, "own": [["a"], [], ["b"]]}, r"row 1: has no candidates \(data.columns.choices\)"),
        ({"answer": [1.5] * 3, "own": [["a"]] * 3}, "row 0: column of data.columns.answer holds float, not text"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_questions(QuestionData(source=table(tmp_path, **bad), columns=QuestionColumns(choices="own")), "train")
    with pytest.raises(UserError, match="qa_id 4 stands there twice"):
        source = table(tmp_path, answer=["a"] * 3, number=[4, 5, 4])
        open_questions(QuestionData(source=source, columns=QuestionColumns(id="number")), "train")


def test_tables_with_classes(tmp_path):
    rows = {"image": ["a.jpg", "b.jpg"], "question": ["Is it?", "Why?"], "answer": [0, 1]}
    kinds = Features(image=Value("string"), question=Value("string"), answer=ClassLabel(names=["no", "yes"]))
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    asked = open_questions(QuestionData(source=str(tmp_path)), "train")
    assert [(each.answer, each.kind) for each in asked.questions] == [("no", ""), ("yes", "why")]
    assert asked.images[1] == tmp_path / "b.jpg"


def test_scenes():
    asked = open_questions(QuestionData(source="scenes", limit=20), "validation")
    assert len(asked) == 20 and {each.kind for each in asked.questions} == {"what", "where", "which", "how"}
    pointing = open_questions(PointingData(source="scenes"), "validation")
    assert all(each.answer in pointing.boxes and len(each.choices) == 4 for each in pointing.questions)
    assert all(max(x + width, y + height) <= SIDE for x, y, width, height in pointing.boxes.values())
    assert {each.photo for each in pointing.questions} == set(range(len(pointing)))


def test_easy_vqa():
    pytest.importorskip("easy_vqa")
    train, validation, test = (
        open_questions(QuestionData(source="easy-vqa"), name) for name in ("train", "validation", "test")
    )
    assert (len(train), len(validation), len(test)) == (3600, 400, 1000)
    assert len(train.questions) + len(validation.questions) == 38_575 and len(test.questions) == 9_673
    assert len({each.answer for each in train.questions}) == 13
    assert {each.kind for each in test.questions} == {"yes/no", "shape", "colour"}
    assert image_size(test.images[3]) == (64, 64)


def test_folds(tmp_path):
    content = copy.deepcopy(TELLING)
    content["images"] = [
        {"image_id": n, "filename": f"{n}.jpg", "split": ("train", "val")[n % 2], "qa_pairs": [pair(n, "a", ["b"])]}
        for n in range(11)
    ]
    source, seen = folder(tmp_path, content), []
    for fold in range(5):
        train, validation = (
            open_questions(QuestionData(source=source, folds=5, fold=fold), name) for name in ("train", "validation")
        )
        assert not set(train.names) & set(validation.names) and len(train) + len(validation) == 11
        assert [validation.names[each.photo] for each in validation.questions] == [
            f"{each.id}.jpg" for each in validation.questions
        ]
        assert validation.images[0].name == validation.names[0]
        seen += validation.names
    assert len(set(seen)) == len(seen) == 11
    assert len(open_questions(QuestionData(source=source, splits=Splits(test="val")), "test")) == 5
    with pytest.raises(ValidationError, match=r"data.fold is 5: accepted is 0 to 4"):
        QuestionData(source=source, folds=5, fold=5)
    with pytest.raises(UserError, match=r"data.folds: 12 is more than the 11 photographs"):
        open_questions(QuestionData(source=source, folds=12, fold=11), "validation")


def test_real_files(shared_data):
    telling = open_questions(QuestionData(source=str(shared_data / "daquar_telling")), "validation")
    assert (len(telling), len(telling.questions)) == (99, 854)
    pointing = [
        open_questions(PointingData(source=str(shared_data / "coco_pointing")), name) for name in ("train", "val")
    ]
    assert [(len(each), len(each.questions)) for each in pointing] == [(54, 128), (63, 124)]
    assert sum(len(each.boxes) for each in pointing) == 1_227
