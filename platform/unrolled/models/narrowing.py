"""A window whose rows end one after the other, cut into pieces that leave out the rows that have ended."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

CUT = 32
"""Steps of a row that take as long as one piece more, whose weights are packed and whose gradients are added anew."""


class Piece(NamedTuple):
    """The steps from `start` until `end` of the first `rows`."""

    start: int
    end: int
    rows: int


def narrowed(lengths: list[int], steps: int) -> list[Piece]:
    """Returns the pieces that cost least, one after the other, in which every row has all of its steps.

    Args:
        lengths: steps of every row. If they do not fall from `steps` on, one piece is all.
        steps: of the window.
    """
    if not steps or lengths[:1] != [steps] or any(before < after for before, after in pairwise(lengths)):
        return [Piece(0, steps, len(lengths))]
    ends = sorted({length for length in lengths if length})
    alive = [(start, sum(length > start for length in lengths)) for start in (0, *ends)]
    best: list[tuple[int, list[Piece]]] = [(0, [])]  # by end: up to there, what it costs and how it is cut
    for end in ends:
        ways = [
            (cost + rows * (end - start) + CUT, [*before, Piece(start, end, rows)])
            for (cost, before), (start, rows) in zip(best, alive, strict=False)
        ]
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]


def taken(pieces: list[Piece]) -> int:
    """Returns the steps of all rows that the pieces take."""
    return sum((end - start) * rows for start, end, rows in pieces)
