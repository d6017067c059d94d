"""Scores of replies to questions, by name."""

from __future__ import annotations

from collections.abc import Sequence

from unrolled.config.answering import QuestionAnsweringConfig
from unrolled.data.asked import Question
from unrolled.errors import UserError
from unrolled.metrics import METRICS, SummedMetric
from unrolled.metrics.answers import FEWEST_ANSWERS
from unrolled.metrics.wordnet import nouns
from unrolled.tasks.answering import Replied

CHOSEN = "multiple_choice"
"""The share of questions whose right candidate was the likeliest one; all other scores are of free answers."""


def each_score(name: str, replied: Sequence[Replied]) -> list[float]:
    """Returns the score of every reply, 0 to 100."""
    if name == CHOSEN:
        return [100.0 * (one.reply.chosen == one.question.right) for one in replied]
    measure = METRICS[name]()
    assert isinstance(measure, SummedMetric), f"{name} has no scores of single examples"
    given, people = [one.reply.answer for one in replied], [list(one.question.answers) for one in replied]
    scores: list[float] = measure.sentence_scores(given, people).tolist()
    return scores


def score_replies(names: Sequence[str], replied: Sequence[Replied]) -> dict[str, float]:
    """Returns the mean of every score."""
    return {name: sum(each_score(name, replied)) / len(replied) for name in names}


def check_wordnet(config: QuestionAnsweringConfig) -> None:
    """Raises `UserError` where a score needs WordNet, which is not there."""
    if any(name.startswith("wups") for name in config.evaluation.metrics):
        nouns()


def check_scores(config: QuestionAnsweringConfig, questions: Sequence[Question]) -> None:
    """Raises `UserError` where a score needs what is not there: candidates, several people's answers, or WordNet."""
    names = config.evaluation.metrics
    check_wordnet(config)
    for question in questions:
        if CHOSEN in names and not question.choices:
            lacks, name = "has no candidates", CHOSEN
        elif "vqa_accuracy" in names and len(question.answers) < FEWEST_ANSWERS:
            lacks, name = f"has {len(question.answers)} answers and not {FEWEST_ANSWERS} or more", "vqa_accuracy"
        else:
            continue
        raise UserError(
            f"evaluation.metrics has {name}, but question {question.id} of data.source {config.data.source} {lacks}."
        )
