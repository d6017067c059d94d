"""What an examination of a model found, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows for the report, such as the hardest characters."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Option:
    """One of the answers that a question allows.

    Attributes:
        text: as people read it.
        share: its probability.
        right, chosen: whether it is the right one, and the model's.
        box: where it is on the photograph, if it is a region: left, top, width and height as shares of its sides.
    """

    text: str
    share: float
    right: bool
    chosen: bool
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Shown:
    """A photograph with a question about it, for the report.

    Attributes:
        heading: of the group in which it stands.
        photo: as `Asker.photo` takes it.
        answer: the right one.
        options: the candidates.
        written: what the model answered freely; None if it does not.
        weights: of attention, on a square grid row by row.
    """

    heading: str
    photo: str
    question: str
    answer: str
    options: Sequence[Option] = ()
    written: str | None = None
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Findings:
    """What an examination found.

    Attributes:
        scores: by name.
        intervals: 95 % intervals of scores, as far as known.
        targets: how many the scores are means of.
        outputs: rows of outputs.jsonl.
        tables: for the report.
        samples: heading and text of what the model wrote, side by side in the report.
        shown: photographs for the report's gallery, those of one heading together.
        files: further files beside the report, their texts by name.
    """

    scores: dict[str, float]
    targets: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    outputs: Sequence[dict[str, Any]] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[tuple[str, str]] = ()
    shown: Sequence[Shown] = ()
    files: Mapping[str, str] = field(default_factory=dict)
