"""What an examination of pointing found, beside what is reached without learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unrolled.data.answer_baselines import chance, largest_region
from unrolled.data.answer_results import results
from unrolled.data.asked import Asked
from unrolled.data.regions import Region
from unrolled.metrics import metric, share_interval
from unrolled.tasks import answering_findings
from unrolled.tasks.answering import Replied
from unrolled.tasks.answering_scores import CHOSEN
from unrolled.tasks.findings import Findings, Option, Shown, Table


def findings(
    names: Sequence[str],
    split: answering_findings.Split,
    asked: Asked,
    replied: Sequence[Replied],
    regions: Mapping[str, Region],
    look: answering_findings.Look,
) -> Findings:
    """Sums up.

    Args:
        names: of the scores, the leading one first.
        asked: the questions that were replied to, in order.
        regions: where candidates lie, by id; none where they are photographs.
    """
    found = answering_findings.findings(names, split, replied, [], look)
    shown = [_told(one, regions) for one in found.shown] if asked.boxes else []
    files = {"visual7w.json": results(asked.questions, [[one.chosen] for one in replied], boxes=True)}
    return replace(found, tables=[without_learning(asked, replied), *found.tables], shown=shown, files=files)


def without_learning(asked: Asked, replied: Sequence[Replied]) -> Table:
    """Returns the table of the model's choices beside chance and the largest region."""
    chosen = {"This model": [one.reply.chosen for one in replied]}
    if asked.boxes:
        chosen = {"The largest region": largest_region(asked)} | chosen
    rows = [["Chance", metric(CHOSEN).text(100 * chance(asked.questions)), "–"]]
    for name, places in chosen.items():
        right = sum(place == question.right for place, question in zip(places, asked.questions, strict=True))
        low, high = (metric(CHOSEN).text(100 * end) for end in share_interval(right, len(places)))
        rows.append([name, metric(CHOSEN).text(100 * right / len(places)), f"{low}–{high}"])
    note = "The largest region: the candidate with the most pixels, whatever is asked."
    return Table("With and without looking", note, ["Chosen by", metric(CHOSEN).label, "95 % interval"], rows)


def _told(shown: Shown, regions: Mapping[str, Region]) -> Shown:
    """Shows where regions lie, and names them by numbers in place of their ids."""
    names = {option.text: f"region {number}" for number, option in enumerate(shown.options, start=1)}
    options = [_placed(option, names[option.text], regions[option.text]) for option in shown.options]
    return replace(shown, options=options, answer=names[shown.answer], written=None)


def _placed(option: Option, name: str, region: Region) -> Option:
    sides = region.left, region.top, region.right - region.left, region.bottom - region.top
    return replace(option, text=name, box=sides)
