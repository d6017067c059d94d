"""Choices made without looking, on drawn and on the real data, and result files of Visual7W's toolkit."""

from __future__ import annotations

import json

import pytest

from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data.blind_baselines import (
    chance_accuracy,
    largest_region,
    most_common_answer,
    most_frequent,
    naive_bayes,
)
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import make_question
from unrolled.data.visual7w_io import read_results, write_results
from unrolled.errors import UserError
from unrolled.metrics import score

TRAIN = [
    make_question("1", 0, "What is on the wall?", ["picture"]),
    make_question("2", 0, "What hangs on the wall?", ["picture"]),
    make_question("3", 0, "What stands on the floor?", ["sofa"]),
    make_question("4", 0, "What do we sit on?", ["sofa"]),
    make_question("5", 0, "What is it?", ["sofa"]),
]
ASKED = [
    make_question("6", 0, "What is on that wall?", ["picture"], ["sofa", "whale"]),
    make_question("7", 0, "What stands?", ["sofa"], ["picture"]),
]


def share(chosen, asked):
    return sum(place == each.answer_index for place, each in zip(chosen, asked, strict=True)) / len(asked)


def test_baselines():
    assert chance_accuracy(ASKED) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert most_common_answer(TRAIN) == "sofa"
    assert [each.choices[place] for place, each in zip(most_frequent(TRAIN, ASKED), ASKED, strict=True)] == ["sofa"] * 2
    assert share(naive_bayes(TRAIN, ASKED), ASKED) == 1
    boxes = {"1": (0.0, 0.0, 4.0, 4.0), "2": (5.0, 5.0, 2.0, 9.0)}
    (place,) = largest_region([make_question("1", 0, "Which?", ["1"], ["2"])], boxes)
    assert place == make_question("1", 0, "Which?", ["1"], ["2"]).choices.index("2")


def test_baselines_on_the_real_data_are_as_its_readme_says(shared_data):
    data = QuestionData(source=str(shared_data / "daquar_telling"))
    train, asked = (open_questions(data, split).questions for split in ("train", "validation"))
    assert chance_accuracy(asked) == pytest.approx(0.25, abs=1e-3)
    assert share(most_frequent(train, asked), asked) == pytest.approx(0.293, abs=0.003)  # ties fall either way
    assert share(naive_bayes(train, asked), asked) == pytest.approx(0.486, abs=0.003)
    unknown = {each.answer for each in asked} - {each.answer for each in train}
    assert sum(each.answer in unknown for each in asked) / len(asked) == pytest.approx(0.125, abs=1e-3)


def test_the_largest_region_of_the_real_data(shared_data):
    data = PointingData(source=str(shared_data / "coco_pointing"))
    splits = [open_questions(data, split) for split in ("train", "validation")]
    right = sum(
        round(share(largest_region(each.questions, each.boxes), each.questions) * len(each.questions))
        for each in splits
    )
    assert (right, sum(len(each.questions) for each in splits)) == (93, 252)
    folds = [open_questions(data.model_copy(update={"folds": 5, "fold": fold}), "validation") for fold in range(5)]
    assert sum(len(each.questions) for each in folds) == 252


def test_results_come_back_as_they_were_written(tmp_path):
    file = tmp_path / "result.json"
    write_results(file, ASKED, [["picture", "sofa"], ["Söfa"]], boxes=False)
    assert read_results(file, ASKED, "validation") == [["picture", "sofa"], ["Söfa"]]
    assert read_results(file, ASKED[::-1], "validation") == [["Söfa"], ["picture", "sofa"]]
    first = json.loads(file.read_text())[0]
    assert first == {
        "qa_id": 6,
        "question": "What is on that wall?",
        "candidates": [{"answer": "picture"}, {"answer": "sofa"}],
    }
    write_results(file, ASKED, [["12"], ["13"]], boxes=True)
    assert json.loads(file.read_text())[1]["candidates"] == [{"answer": 13}]
    assert read_results(file, ASKED, "validation") == [["12"], ["13"]]


def toolkit_accuracy(dataset, results, split):
    """What evaluate.py of Visual7W's toolkit computes in its mode mc."""
    pairs = {
        each["qa_id"]: each for image in dataset["images"] if image["split"] == split for each in image["qa_pairs"]
    }
    right = [
        str(entry["candidates"][0]["answer"]).lower() == str(pairs[entry["qa_id"]]["answer"]).lower()
        for entry in results
    ]
    return sum(right) / len(pairs)


@pytest.mark.parametrize("name", ["daquar_telling", "coco_pointing"])
def test_the_toolkit_counts_as_we_do(shared_data, tmp_path, name):
    pointing = name == "coco_pointing"
    asked = open_questions(
        (PointingData if pointing else QuestionData)(source=str(shared_data / name)), "validation"
    ).questions
    answers = [[each.choices[0]] for each in asked]
    write_results(tmp_path / "result.json", asked, answers, boxes=pointing)
    dataset = json.loads((shared_data / name / "dataset.json").read_text())
    counted = toolkit_accuracy(dataset, json.loads((tmp_path / "result.json").read_text()), "val")
    assert 100 * counted == pytest.approx(
        score(["accuracy"], [first for first, *_ in answers], [each.answer for each in asked])["accuracy"]
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"qa_id": 9}], "qa_id 9 is not in split 'validation'; the results are those of another split"),
        ([{"qa_id": 6, "candidates": [{"answer": "a"}]}] * 2, "qa_id 6 stands there twice"),
        ([{"qa_id": 6, "candidates": [{"answer": "a"}]}], "answers 1 of the 2 questions .* is qa_id 7"),
        ([{"qa_id": 6, "candidates": []}], "qa_id 6: has no candidates"),
        ([{"qa_id": 6, "candidates": [{}]}], "qa_id 6: has a candidate without answer"),
        ({"qa_id": 6}, "is not a result file of Visual7W's toolkit"),
    ],
)
def test_result_files_that_are_refused(tmp_path, rows, sentence):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=sentence) as error:
        read_results(file, ASKED, "validation")
    assert str(file) in str(error.value) and json.loads(file.read_text()) == rows


def test_accuracy_of_answers():
    people = ["yes", "Yes", "no"]
    assert score(["accuracy"], ["YES", "no", "dog "], [people, people, ["dog"]])["accuracy"] == pytest.approx(200 / 3)
    assert score(["accuracy"], ["a", "b"], [["a", "b"], ["a", "b"]])["accuracy"] == 100
