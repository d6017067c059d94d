"""Plans of batches, padding and collation."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.batching import collate, padding_fraction, plan
from unrolled.data.tokenizer import BEGIN, END


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=80),
    budget=st.integers(1, 120),
    longest=st.integers(5, 30),
    seed=st.integers(0, 5),
)
def test_a_plan_holds_every_usable_example_once_within_the_budget(lengths, budget, longest, seed):
    array = np.array(lengths)
    batches = plan(array, batch_tokens=budget, max_length=longest, seed=seed, epoch=0)
    usable = [i for i, pair in enumerate(lengths) if max(pair) <= longest]
    assert sorted(int(i) for batch in batches for i in batch) == usable
    for batch in batches:
        assert len(batch) == 1 or array[batch].max() * len(batch) <= budget


def test_a_plan_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 30, (500, 2))
    options = {"batch_tokens": 200, "max_length": 30}
    once = plan(lengths, seed=1, epoch=0, **options)
    again = plan(lengths, seed=1, epoch=0, **options)
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    for seed, epoch in ((2, 0), (1, 1)):
        other = plan(lengths, seed=seed, epoch=epoch, **options)
        assert [batch.tolist() for batch in other] != [batch.tolist() for batch in once]


def test_batches_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 30, (3000, 1)).repeat(2, axis=1)
    batches = plan(lengths, batch_tokens=600, max_length=30, seed=1, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert lengths[:, 0].sum() / padded > 0.95


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_padding_fraction_counts_padded_positions(lengths):
    array = np.array(lengths)
    batches = plan(array, batch_tokens=30, max_length=9, seed=0, epoch=0)
    texts = [[[np.full(length - 1, 7) for length in side] for side in array[batch].T] for batch in batches]
    masks = [mask for both in texts for mask in attrgetter("input_mask", "target_mask")(collate(*both))]
    empty, places = sum(int((~mask).sum()) for mask in masks), sum(mask.numel() for mask in masks)
    assert padding_fraction(array, batches) == pytest.approx(empty / places)


def test_collate_places_begin_and_end():
    batch = collate([np.array([5, 6]), np.array([7])], [np.array([8]), np.array([9, 10])])
    assert batch.inputs.tolist() == [[5, 6, END], [7, END, 0]]
    assert batch.decoder_inputs.tolist() == [[BEGIN, 8, 0], [BEGIN, 9, 10]]
    assert batch.targets.tolist() == [[8, END, 0], [9, 10, END]]
    assert batch.target_mask.tolist() == [[True, True, False], [True, True, True]]
