"""What an examination of question answering found, summed up for the report."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from unrolled.data.answer_baselines import chance, most_frequent, naive_bayes
from unrolled.data.answer_results import results
from unrolled.data.asked import Question
from unrolled.metrics import mean_interval, metric, share_interval
from unrolled.tasks.answering import Replied
from unrolled.tasks.answering_scores import CHOSEN, each_score
from unrolled.tasks.findings import Findings, Option, Shown, Table

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


def findings(
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
        files={"visual7w.json": results(asked, ranked, boxes=False)},
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
    rows = [["Chance", metric(CHOSEN).text(100 * chance(asked)), "–"]]
    for name, places in chosen.items():
        right = sum(place == question.right for place, question in zip(places, asked, strict=True))
        low, high = (metric(CHOSEN).text(100 * end) for end in share_interval(right, len(asked)))
        rows.append([name, metric(CHOSEN).text(100 * right / len(asked)), f"{low}–{high}"])
    note = (
        "Most frequent answer: the candidate that most training questions have. Naive Bayes knows the question's words."
    )
    return Table("With and without looking", note, ["Chosen by", metric(CHOSEN).label, "95 % interval"], rows)


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
            low, high = (metric(name).text(end) for end in mean_interval(own))
            row += [metric(name).text(sum(own) / len(own)), f"{low}–{high}"]
        rows.append(row)
    columns = [column for name in scored for column in (metric(name).label, "95 % interval")]
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
        Option(text, share, place == question.right, place == reply.chosen)
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
