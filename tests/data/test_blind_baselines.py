"""Baselines without the photograph, on made and on real data."""

from __future__ import annotations

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

TRAIN = [
    make_question("1", 0, "What is on the wall?", ["picture"]),
    make_question("2", 0, "What hangs on the wall?", ["picture"]),
    make_question("3", 0, "What stands on the floor?", ["sofa"]),
    make_question("4", 0, "What do we sit on?", ["sofa"]),
    make_question("5", 0, "What is it?", ["sofa"]),
]
QUESTIONS = [
    make_question("6", 0, "What is on that wall?", ["picture"], ["sofa", "whale"]),
    make_question("7", 0, "What stands?", ["sofa"], ["picture"]),
]


def share(chosen, asked):
    return sum(place == each.answer_index for place, each in zip(chosen, asked, strict=True)) / len(asked)


def test_baselines():
    assert chance_accuracy(QUESTIONS) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert most_common_answer(TRAIN) == "sofa"
    assert [each.choices[place] for place, each in zip(most_frequent(TRAIN, QUESTIONS), QUESTIONS, strict=True)] == [
        "sofa"
    ] * 2
    assert share(naive_bayes(TRAIN, QUESTIONS), QUESTIONS) == 1
    boxes = {"1": (0.0, 0.0, 4.0, 4.0), "2": (5.0, 5.0, 2.0, 9.0)}
    (place,) = largest_region([make_question("1", 0, "Which?", ["1"], ["2"])], boxes)
    assert place == make_question("1", 0, "Which?", ["1"], ["2"]).choices.index("2")


def test_baselines_of_real_data_agree_with_its_readme(shared_data):
    data = QuestionData(source=str(shared_data / "daquar_telling"))
    train, asked = (open_questions(data, split).questions for split in ("train", "validation"))
    assert chance_accuracy(asked) == pytest.approx(0.25, abs=1e-3)
    assert share(most_frequent(train, asked), asked) == pytest.approx(0.293, abs=0.003)  # ties fall either way
    assert share(naive_bayes(train, asked), asked) == pytest.approx(0.486, abs=0.003)
    unknown = {each.answer for each in asked} - {each.answer for each in train}
    assert sum(each.answer in unknown for each in asked) / len(asked) == pytest.approx(0.125, abs=1e-3)


def test_largest_region_of_real_data(shared_data):
    data = PointingData(source=str(shared_data / "coco_pointing"))
    splits = [open_questions(data, split) for split in ("train", "validation")]
    right = sum(
        round(share(largest_region(each.questions, each.boxes), each.questions) * len(each.questions))
        for each in splits
    )
    assert (right, sum(len(each.questions) for each in splits)) == (93, 252)
    folds = [open_questions(data.model_copy(update={"folds": 5, "fold": fold}), "validation") for fold in range(5)]
    assert sum(len(each.questions) for each in folds) == 252
