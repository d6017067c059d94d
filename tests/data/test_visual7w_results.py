"""Result files of Visual7W's toolkit."""

from __future__ import annotations

import json

import pytest

from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import make_question
from unrolled.data.visual7w_results import read_results, write_results
from unrolled.errors import UserError
from unrolled.metrics import score

QUESTIONS = [
    make_question("6", 0, "What is on that wall?", ["picture"], ["sofa", "whale"]),
    make_question("7", 0, "What stands?", ["sofa"], ["picture"]),
]


def test_result_files_round_trip(tmp_path):
    file = tmp_path / "result.json"
    write_results(file, QUESTIONS, [["picture", "sofa"], ["Söfa"]], boxes=False)
    assert read_results(file, QUESTIONS, "validation") == [["picture", "sofa"], ["Söfa"]]
    assert read_results(file, QUESTIONS[::-1], "validation") == [["Söfa"], ["picture", "sofa"]]
    first = json.loads(file.read_text())[0]
    assert first == {
        "qa_id": 6,
        "question": "What is on that wall?",
        "candidates": [{"answer": "picture"}, {"answer": "sofa"}],
    }
    write_results(file, QUESTIONS, [["12"], ["13"]], boxes=True)
    assert json.loads(file.read_text())[1]["candidates"] == [{"answer": 13}]
    assert read_results(file, QUESTIONS, "validation") == [["12"], ["13"]]


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
def test_accuracy_agrees_with_the_toolkit(shared_data, tmp_path, name):
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
def test_invalid_result_files_are_refused(tmp_path, rows, sentence):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=sentence) as error:
        read_results(file, QUESTIONS, "validation")
    assert str(file) in str(error.value) and json.loads(file.read_text()) == rows


def test_accuracy_of_answers():
    people = ["yes", "Yes", "no"]
    assert score(["accuracy"], ["YES", "no", "dog "], [people, people, ["dog"]])["accuracy"] == pytest.approx(200 / 3)
    assert score(["accuracy"], ["a", "b"], [["a", "b"], ["a", "b"]])["accuracy"] == 100
