"""Results of question answering and grounding: metrics, tables and galleries of the report."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.blind_baselines import chance_accuracy, largest_region, most_frequent, naive_bayes
from unrolled.data.image_sets import Region
from unrolled.data.questions import Box, Question
from unrolled.data.visual7w_results import format_results
from unrolled.errors import UserError
from unrolled.metrics import (
    METRICS,
    MIN_ANSWERS,
    SummedMetric,
    mean_interval,
    metric_info,
    proportion_interval,
    wordnet_nouns,
)
from unrolled.tasks.base import Choice, GalleryItem, MetricResults, Prediction, Table

CHOICE_ACCURACY = "multiple_choice"
"""Percentage of questions whose correct candidate is the most probable one; all other metrics score free answers."""
GALLERY_SIZE = 12
"""Photographs per heading of the gallery."""
CORRECT = 50.0
"""Score from which on an answer counts as correct in the gallery: people may agree with it in part."""


class AnsweredQuestion(NamedTuple):
    """A question and the model's prediction."""

    question: Question
    prediction: Prediction

    @property
    def chosen(self) -> str:
        """The candidate that was chosen."""
        return self.question.choices[self.prediction.chosen]


Address = Callable[[Question], str]
"""Returns the address of a question's photograph."""
Attention = Callable[[AnsweredQuestion], Sequence[float] | None]
"""Returns the attention weights over the grid for a question, if the model has any."""


def score_answers(names: Sequence[str], answered: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """Returns the mean of every metric."""
    return {name: sum(_scores(name, answered)) / len(answered) for name in names}


def _scores(name: str, answered: Sequence[AnsweredQuestion]) -> list[float]:
    """Returns the score of every answer, 0 to 100."""
    if name == CHOICE_ACCURACY:
        return [100.0 * (one.prediction.chosen == one.question.answer_index) for one in answered]
    measure = METRICS[name]()
    assert isinstance(measure, SummedMetric), f"{name} has no scores of single examples"
    answers, references = [one.prediction.answer for one in answered], [list(one.question.answers) for one in answered]
    scores: list[float] = measure.sentence_scores(answers, references).tolist()
    return scores


def check_wordnet(config: QuestionAnsweringConfig) -> None:
    """Raises `UserError` where a metric needs WordNet and that is not installed."""
    if any(name.startswith("wups") for name in config.evaluation.metrics):
        wordnet_nouns()


def check_metrics(config: QuestionAnsweringConfig, questions: Sequence[Question]) -> None:
    """Raises `UserError` where a metric needs what is missing: candidates, answers of several people, or WordNet."""
    names = config.evaluation.metrics
    check_wordnet(config)
    for question in questions:
        if CHOICE_ACCURACY in names and not question.choices:
            lacks, name = "has no candidates", CHOICE_ACCURACY
        elif "vqa_accuracy" in names and len(question.answers) < MIN_ANSWERS:
            lacks, name = f"has {len(question.answers)} answers and not {MIN_ANSWERS} or more", "vqa_accuracy"
        else:
            continue
        raise UserError(
            f"evaluation.metrics has {name}, but question {question.id} of data.source {config.data.source} {lacks}."
        )


def vqa_results(
    names: Sequence[str],
    address: Address,
    answered: Sequence[AnsweredQuestion],
    training: Sequence[Question],
    attention: Attention,
) -> MetricResults:
    """Returns the results of question answering.

    Args:
        names: of the metrics, the leading one first.
        training: questions of the training split, from which the baselines learn; empty where there are no candidates.
    """
    scores = {name: _scores(name, answered) for name in names}
    questions = [one.question for one in answered]
    tables = [_by_kind(answered, scores)]
    if training:
        baselines = {
            "Most frequent answer": most_frequent(training, questions),
            "Naive Bayes on the question": naive_bayes(training, questions),
        }
        note = (
            "Most frequent answer: the candidate that most training questions have. Naive Bayes knows the question's "
            "words."
        )
        tables.insert(0, _baseline_table(answered, baselines, note))
    return MetricResults(
        scores={name: sum(values) / len(values) for name, values in scores.items()},
        targets=len(answered),
        intervals={name: mean_interval(values) for name, values in scores.items()},
        outputs=[_row(address, one) for one in answered],
        tables=tables,
        gallery=_gallery(address, answered, scores, attention),
        files={"visual7w.json": format_results(questions, [_ranked(one) for one in answered], boxes=False)},
    )


def grounding_results(
    names: Sequence[str],
    address: Address,
    boxes: Mapping[str, Box],
    answered: Sequence[AnsweredQuestion],
    regions: Mapping[str, Region],
    attention: Attention,
) -> MetricResults:
    """Returns the results of grounding.

    Args:
        names: of the metrics, the leading one first.
        boxes: of the candidates by id; empty where these are photographs.
        regions: the candidates by id.
    """
    found = vqa_results(names, address, answered, [], attention)
    questions = [one.question for one in answered]
    baselines = {"The largest region": largest_region(questions, boxes)} if boxes else {}
    note = "The largest region: the candidate with the most pixels, whatever is asked."
    return replace(
        found,
        tables=[_baseline_table(answered, baselines, note), *found.tables],
        gallery=[_with_boxes(item, regions) for item in found.gallery] if boxes else [],
        files={"visual7w.json": format_results(questions, [[one.chosen] for one in answered], boxes=True)},
    )


def _ranked(one: AnsweredQuestion) -> list[str]:
    """Returns the candidates, the most probable first, or the free answer."""
    order = sorted(range(len(one.question.choices)), key=lambda i: -one.prediction.probabilities[i])
    return [one.question.choices[i] for i in order] or [one.prediction.answer]


def _baseline_table(answered: Sequence[AnsweredQuestion], baselines: Mapping[str, Sequence[int]], note: str) -> Table:
    """Returns the table of choice accuracies of chance, baselines (which candidate each chooses) and the model."""
    accuracy, questions = metric_info(CHOICE_ACCURACY), [one.question for one in answered]
    rows = [["Chance", accuracy.format(100 * chance_accuracy(questions)), "–"]]
    for name, chosen in {**baselines, "This model": [one.prediction.chosen for one in answered]}.items():
        right = sum(choice == question.answer_index for choice, question in zip(chosen, questions, strict=True))
        low, high = (accuracy.format(100 * end) for end in proportion_interval(right, len(questions)))
        rows.append([name, accuracy.format(100 * right / len(questions)), f"{low}–{high}"])
    return Table("With and without looking", note, ["Chosen by", accuracy.label, "95 % interval"], rows)


def _row(address: Address, one: AnsweredQuestion) -> dict[str, Any]:
    """Returns a row of outputs.jsonl."""
    question, prediction = one
    row: dict[str, Any] = {
        "qa_id": question.id,
        "photo": address(question),
        "kind": question.kind,
        "question": question.question,
        "answer": question.answer,
        "output": prediction.answer,
    }
    if question.choices:
        probabilities = [round(probability, 4) for probability in prediction.probabilities]
        row |= {"chosen": one.chosen, "candidates": dict(zip(question.choices, probabilities, strict=True))}
    return row


def _by_kind(answered: Sequence[AnsweredQuestion], scores: Mapping[str, Sequence[float]]) -> Table:
    kinds: dict[str, list[int]] = {}
    for i, one in enumerate(answered):
        kinds.setdefault(one.question.kind or "other", []).append(i)
    rows = []
    for kind, indices in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        row = [kind, f"{len(indices):,}"]
        for name, values in scores.items():
            own = [values[i] for i in indices]
            low, high = (metric_info(name).format(end) for end in mean_interval(own))
            row += [metric_info(name).format(sum(own) / len(own)), f"{low}–{high}"]
        rows.append(row)
    columns = [column for name in scores for column in (metric_info(name).label, "95 % interval")]
    return Table(
        "By kind of question", "A kind is the question's first word of its sort.", ["Kind", "Questions", *columns], rows
    )


def _gallery(
    address: Address, answered: Sequence[AnsweredQuestion], scores: Mapping[str, Sequence[float]], attention: Attention
) -> list[GalleryItem]:
    """Returns right and wrong answers, the most confident first (without candidates in random order), and a random
    sample."""
    leading = next(iter(scores))
    order = list(range(len(answered)))
    random.Random(1).shuffle(order)
    order.sort(key=lambda i: -max(answered[i].prediction.probabilities, default=0.0))
    sure = " and sure" if leading == CHOICE_ACCURACY else ""
    right = [i for i in order if scores[leading][i] >= CORRECT][:GALLERY_SIZE]
    wrong = [i for i in order if scores[leading][i] < CORRECT][:GALLERY_SIZE]
    drawn = random.Random(2).sample(range(len(answered)), min(GALLERY_SIZE, len(answered)))
    groups = {f"Right{sure}": right, f"Wrong{sure}": wrong, "Drawn at random": sorted(drawn)}
    return [_item(heading, address, answered[i], attention) for heading, indices in groups.items() for i in indices]


def _item(heading: str, address: Address, one: AnsweredQuestion, attention: Attention) -> GalleryItem:
    question, prediction = one
    choices = [
        Choice(text, probability, i == question.answer_index, i == prediction.chosen)
        for i, (text, probability) in enumerate(zip(question.choices, prediction.probabilities, strict=True))
    ]
    weights = attention(one)
    rounded = None if weights is None else [round(weight, 4) for weight in weights]
    asked, answer = question.question, question.answer
    return GalleryItem(heading, address(question), asked, answer, choices, prediction.answer, rounded)


def _with_boxes(item: GalleryItem, regions: Mapping[str, Region]) -> GalleryItem:
    """Adds the boxes of regions, and names these by numbers in place of their ids."""
    names = {choice.text: f"region {number}" for number, choice in enumerate(item.choices, start=1)}
    choices = [replace(choice, text=names[choice.text], box=_box(regions[choice.text])) for choice in item.choices]
    return replace(item, choices=choices, answer=names[item.answer], prediction=None)


def _box(region: Region) -> tuple[float, float, float, float]:
    return region.left, region.top, region.right - region.left, region.bottom - region.top
