"""VQA accuracy against the official evaluation; measures of the words of outputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.errors import UserError
from unrolled.metrics import Distinct, VqaAccuracy, normalize_vqa_answer, score

# What the official evaluation (vqaEval.py of GT-Vision-Lab/VQA, 2021) says of an answer to one question.
OFFICIAL = [
    ("yes", ["yes"] * 3 + ["no"] * 7, 90),
    ("yes", ["yes"] * 2 + ["no"] * 8, 60),
    ("yes", ["yes"] + ["no"] * 9, 30),
    ("maybe", ["yes"] * 4 + ["no"] * 6, 0),
    ("two", ["2"] * 5 + ["3"] * 5, 100),
    ("The dog!", ["dog"] * 6 + ["a dog"] * 2 + ["cat"] * 2, 100),
    ("dont walk", ["don't walk"] * 4 + ["walk"] * 6, 100),
    ("1,000", ["1000"] * 5 + ["1,000"] * 2 + ["1.000"] * 3, 100),
    ("t-shirt", ["t shirt"] * 3 + ["tshirt"] * 3 + ["T-Shirt"] * 4, 100),
    ("none", ["0"] * 4 + ["zero"] * 3 + ["one"] * 3, 100),
    ("red , white", ["red, white"] * 2 + ["red white"] * 3 + ["white"] * 5, 100),
    ("it's a u.s. flag", ["us flag"] * 5 + ["it's us flag"] * 3 + ["usa"] * 2, 90),
    ("", ["yes"] * 9 + [""], 30),
    ("yes", ["yes"] * 10, 100),
    ("Yes.", ["yes"] * 10, 0),  # nothing is normalised where all agree to the letter
]


@pytest.mark.parametrize(("answer", "people", "official"), OFFICIAL)
def test_accuracy_is_that_of_the_official_evaluation(answer: str, people: list[str], official: float) -> None:
    assert score(["vqa_accuracy"], [answer], [people])["vqa_accuracy"] == pytest.approx(official)


def test_accuracy_of_several_questions_is_their_mean() -> None:
    answers, people, official = zip(*OFFICIAL, strict=True)
    assert score(["vqa_accuracy"], answers, people)["vqa_accuracy"] == pytest.approx(sum(official) / len(official))


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The Cat and a Dog", "cat and dog"),
        ("two  or TEN", "2 or 10"),
        ("dont, wont", "don't won't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("y'allll", "y'all'll"),
        ("somebody'd", "somebodyd"),
        ("hell", "hell"),
        ("3.5", "3.5"),
        ("It is.", "it is"),
        ("left/right", "left right"),
        ("left / right", "left right"),
        ("a", ""),
    ],
)
def test_answers_are_normalised(answer: str, normalised: str) -> None:
    assert normalize_vqa_answer(answer) == normalised


@given(st.lists(st.sampled_from(["yes", "no", "2", "red"]), min_size=4, max_size=10), st.sampled_from(["yes", "red"]))
def test_accuracy_is_the_mean_over_those_left_out(people: list[str], answer: str) -> None:
    left = [people[:out] + people[out + 1 :] for out in range(len(people))]
    expected = sum(min(others.count(answer) / 3, 1) for others in left) / len(people)
    assert VqaAccuracy().sentence_scores([answer], [people])[0] == pytest.approx(100 * expected)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(UserError, match=r"vqa_accuracy .* 4 at least .*question 2 has 1"):
        score(["vqa_accuracy"], ["yes", "no"], [["yes"] * 4, ["no"]])


def test_distinct_n_worked_by_hand() -> None:
    # 7 words, of them 4 different; 4 pairs, of them 3 different ("a dog" came twice).
    outputs = ["A dog runs.", "a dog", "a cat"]
    assert Distinct(1).compute(predictions=outputs, references=outputs)["distinct_1"] == pytest.approx(100 * 4 / 7)
    assert Distinct(2).compute(predictions=outputs, references=outputs)["distinct_2"] == pytest.approx(100 * 3 / 4)
    assert score(["distinct_2"], ["", "a"], ["", ""])["distinct_2"] == 0


def test_length_ratio_of_the_nearest_references() -> None:
    ratio = score(["length_ratio"], ["a b c", ""], [["a", "a b c d"], ["a b"]])["length_ratio"]
    assert ratio == pytest.approx(3 / (4 + 2))
    assert score(["length_ratio"], ["a"], [""])["length_ratio"] == float("inf")
    assert score(["length_ratio"], [""], [""])["length_ratio"] == 1
