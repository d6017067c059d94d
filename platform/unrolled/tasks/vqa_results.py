"""Results of question answering and grounding for reports.

Scores of replies to questions, by name.

What an examination of question answering found, summed up for the report.

What an examination of pointing found, beside what is reached without learning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.data.blind_baselines import chance_accuracy, largest_region, most_frequent, naive_bayes
from unrolled.data.image_sets import Region
from unrolled.data.questions import Question, QuestionSet
from unrolled.data.visual7w_io import format_results
from unrolled.errors import UserError
from unrolled.metrics import METRICS, SummedMetric, mean_interval, metric_info, proportion_interval
from unrolled.metrics.answers import MIN_ANSWERS, wordnet_nouns
from unrolled.tasks.base import Findings, Option, Shown, Table
from unrolled.tasks.vqa_heads import Replied

CHOSEN = "multiple_choice"
"""The share of questions whose right candidate was the likeliest one; all other scores are of free answers."""


def each_score(name: str, replied: Sequence[Replied]) -> list[float]:
    """Returns the score of every reply, 0 to 100."""
    if name == CHOSEN:
        return [100.0 * (one.reply.chosen == one.question.answer_index) for one in replied]
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
        wordnet_nouns()


def check_scores(config: QuestionAnsweringConfig, questions: Sequence[Question]) -> None:
    """Raises `UserError` where a score needs what is not there: candidates, several people's answers, or WordNet."""
    names = config.evaluation.metrics
    check_wordnet(config)
    for question in questions:
        if CHOSEN in names and not question.choices:
            lacks, name = "has no candidates", CHOSEN
        elif "vqa_accuracy" in names and len(question.answers) < MIN_ANSWERS:
            lacks, name = f"has {len(question.answers)} answers and not {MIN_ANSWERS} or more", "vqa_accuracy"
        else:
            continue
        raise UserError(
            f"evaluation.metrics has {name}, but question {question.id} of data.source {config.data.source} {lacks}."
        )


EACH = 12
"""Photographs of each heading."""
HALF = 50.0
"""A score from which on a reply counts as right: people may agree with it in part."""
Look = Callable[[Replied], Sequence[float] | None]
"""Where the model looks for its answer to a question."""


class Split(Protocol):
    """Where questions come from."""

    def address(self, question: Question) -> str:
        """Names the photograph of a question."""
        ...


def vqa_findings(
    names: Sequence[str], split: Split, replied: Sequence[Replied], learned: Sequence[Question], look: Look
) -> Findings:
    """Sums up.

    Args:
        names: of the scores, the leading one first.
        learned: the questions of the training split, by which is chosen without looking; none where there are no
            candidates.
    """
    scored = {name: each_score(name, replied) for name in names}
    asked, ranked = [one.question for one in replied], [_ranked(one) for one in replied]
    return Findings(
        scores={name: sum(each) / len(each) for name, each in scored.items()},
        targets=len(replied),
        intervals={name: mean_interval(each) for name, each in scored.items()},
        outputs=[_row(split, one) for one in replied],
        tables=([_baselines(replied, learned)] if learned else []) + [_by_kind(replied, scored)],
        shown=_shown(split, replied, scored, look),
        files={"visual7w.json": format_results(asked, ranked, boxes=False)},
    )


def _ranked(one: Replied) -> list[str]:
    """Returns the candidates, the likeliest first, or the free answer."""
    order = sorted(range(len(one.question.choices)), key=lambda place: -one.reply.probabilities[place])
    return [one.question.choices[place] for place in order] or [one.reply.answer]


def _baselines(replied: Sequence[Replied], learned: Sequence[Question]) -> Table:
    """Shares of questions whose right candidate is chosen, by the model and without looking."""
    asked = [one.question for one in replied]
    chosen = {
        "Most frequent answer": most_frequent(learned, asked),
        "Naive Bayes on the question": naive_bayes(learned, asked),
        "This model": [one.reply.chosen for one in replied],
    }
    rows = [["Chance", metric_info(CHOSEN).format(100 * chance_accuracy(asked)), "–"]]
    for name, places in chosen.items():
        right = sum(place == question.answer_index for place, question in zip(places, asked, strict=True))
        low, high = (metric_info(CHOSEN).format(100 * end) for end in proportion_interval(right, len(asked)))
        rows.append([name, metric_info(CHOSEN).format(100 * right / len(asked)), f"{low}–{high}"])
    note = (
        "Most frequent answer: the candidate that most training questions have. Naive Bayes knows the question's words."
    )
    return Table("With and without looking", note, ["Chosen by", metric_info(CHOSEN).label, "95 % interval"], rows)


def _row(split: Split, one: Replied) -> dict[str, Any]:
    """Returns a row of outputs.jsonl."""
    question, reply = one
    row: dict[str, Any] = {
        "qa_id": question.id,
        "photo": split.address(question),
        "kind": question.kind,
        "question": question.question,
        "answer": question.answer,
        "output": reply.answer,
    }
    if question.choices:
        shares = [round(share, 4) for share in reply.probabilities]
        row |= {"chosen": one.chosen, "candidates": dict(zip(question.choices, shares, strict=True))}
    return row


def _by_kind(replied: Sequence[Replied], scored: dict[str, list[float]]) -> Table:
    kinds: dict[str, list[int]] = {}
    for place, one in enumerate(replied):
        kinds.setdefault(one.question.kind or "other", []).append(place)
    rows = []
    for kind, places in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        row = [kind, f"{len(places):,}"]
        for name, each in scored.items():
            own = [each[place] for place in places]
            low, high = (metric_info(name).format(end) for end in mean_interval(own))
            row += [metric_info(name).format(sum(own) / len(own)), f"{low}–{high}"]
        rows.append(row)
    columns = [column for name in scored for column in (metric_info(name).label, "95 % interval")]
    return Table(
        "By kind of question", "A kind is the question's first word of its sort.", ["Kind", "Questions", *columns], rows
    )


def _shown(split: Split, replied: Sequence[Replied], scored: dict[str, list[float]], look: Look) -> list[Shown]:
    """Returns right and wrong replies, those that the model was surest of first; without candidates drawn at random."""
    leading = next(iter(scored))
    order = list(range(len(replied)))
    random.Random(1).shuffle(order)
    order.sort(key=lambda place: -max(replied[place].reply.probabilities, default=0.0))
    sure = " and sure" if leading == CHOSEN else ""
    right = [place for place in order if scored[leading][place] >= HALF][:EACH]
    wrong = [place for place in order if scored[leading][place] < HALF][:EACH]
    drawn = random.Random(2).sample(range(len(replied)), min(EACH, len(replied)))
    groups = {f"Right{sure}": right, f"Wrong{sure}": wrong, "Drawn at random": sorted(drawn)}
    return [_one(heading, split, replied[place], look) for heading, places in groups.items() for place in places]


def _one(heading: str, split: Split, one: Replied, look: Look) -> Shown:
    question, reply = one
    options = [
        Option(text, share, place == question.answer_index, place == reply.chosen)
        for place, (text, share) in enumerate(zip(question.choices, reply.probabilities, strict=True))
    ]
    weights = look(one)
    return Shown(
        heading,
        split.address(question),
        question.question,
        question.answer,
        options,
        reply.answer,
        None if weights is None else [round(weight, 4) for weight in weights],
    )


def grounding_findings(
    names: Sequence[str],
    split: Split,
    asked: QuestionSet,
    replied: Sequence[Replied],
    regions: Mapping[str, Region],
    look: Look,
) -> Findings:
    """Sums up.

    Args:
        names: of the scores, the leading one first.
        asked: the questions that were replied to, in order.
        regions: where candidates lie, by id; none where they are photographs.
    """
    found = vqa_findings(names, split, replied, [], look)
    shown = [_told(one, regions) for one in found.shown] if asked.boxes else []
    files = {"visual7w.json": format_results(asked.questions, [[one.chosen] for one in replied], boxes=True)}
    return replace(found, tables=[without_learning(asked, replied), *found.tables], shown=shown, files=files)


def without_learning(asked: QuestionSet, replied: Sequence[Replied]) -> Table:
    """Returns the table of the model's choices beside chance and the largest region."""
    chosen = {"This model": [one.reply.chosen for one in replied]}
    if asked.boxes:
        chosen = {"The largest region": largest_region(asked)} | chosen
    rows = [["Chance", metric_info(CHOSEN).format(100 * chance_accuracy(asked.questions)), "–"]]
    for name, places in chosen.items():
        right = sum(place == question.answer_index for place, question in zip(places, asked.questions, strict=True))
        low, high = (metric_info(CHOSEN).format(100 * end) for end in proportion_interval(right, len(places)))
        rows.append([name, metric_info(CHOSEN).format(100 * right / len(places)), f"{low}–{high}"])
    note = "The largest region: the candidate with the most pixels, whatever is asked."
    return Table("With and without looking", note, ["Chosen by", metric_info(CHOSEN).label, "95 % interval"], rows)


def _told(shown: Shown, regions: Mapping[str, Region]) -> Shown:
    """Shows where regions lie, and names them by numbers in place of their ids."""
    names = {option.text: f"region {number}" for number, option in enumerate(shown.options, start=1)}
    options = [_placed(option, names[option.text], regions[option.text]) for option in shown.options]
    return replace(shown, options=options, answer=names[shown.answer], written=None)


def _placed(option: Option, name: str, region: Region) -> Option:
    sides = region.left, region.top, region.right - region.left, region.bottom - region.top
    return replace(option, text=name, box=sides)
