"""Tests of cutting a ragged window into pieces, against all possible cuts."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.models import attention_feeding
from unrolled.models.attention_feeding import WindowPiece, cut_ragged_window, total_steps


def cost(pieces):
    return total_steps(pieces) + attention_feeding.PIECE_COST * len(pieces)


def all_ways(lengths, steps):
    for count in range(steps):
        for cuts in combinations(range(1, steps), count):
            edges = pairwise((0, *cuts, steps))
            yield [WindowPiece(start, end, sum(length > start for length in lengths)) for start, end in edges]


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=20), cut=st.integers(0, 40))
def test_no_way_to_cut_costs_less(lengths, cut):
    falling = sorted(lengths, reverse=True)
    steps = falling[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_feeding, "PIECE_COST", cut)
        pieces = cut_ragged_window(falling, steps)
        assert cost(pieces) == min(map(cost, all_ways(falling, steps)), default=cost(pieces))
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == steps
    for row, length in enumerate(falling):
        assert all(row < piece.rows for piece in pieces if piece.start < length)


@pytest.mark.parametrize(
    ("lengths", "steps"), [([2, 5, 1], 5), ([5, 3, 1], 6), ([], 3), ([0, 0], 0), ([4], 4), ([4, 4, 4], 4)]
)
def test_one_piece_is_all_where_lengths_do_not_fall_from_the_first_step_on(lengths, steps):
    assert cut_ragged_window(lengths, steps) == [WindowPiece(0, steps, len(lengths))]


def test_a_piece_more_must_be_worth_it():
    assert len(cut_ragged_window([20] + [10] * 3, 20)) == 1
    assert cut_ragged_window([20] + [10] * 30, 20) == [WindowPiece(0, 10, 31), WindowPiece(10, 20, 1)]
