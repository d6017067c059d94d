"""Length limits from the training split: its outputs fit, and little more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unrolled.config.translation import TranslationDecoding
from unrolled.data.parallel_corpus import TargetLengths
from unrolled.decoding import length_limits, parse_strategies, resolve_auto


@given(
    pairs=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 120)), min_size=1, max_size=30),
    offset=st.integers(0, 20),
)
def test_every_target_of_training_is_let_through_and_one_just_so(pairs: list[tuple[int, int]], offset: int) -> None:
    lengths = np.array(pairs)
    factor = TargetLengths.measure(lengths).factor(offset)
    limits = [int(factor * max(1, count - 1)) + offset for count, _ in pairs]
    assert all(limit >= target for limit, (_, target) in zip(limits, pairs, strict=True))
    fits = [target <= int(0.999 * factor * max(1, count - 1)) + offset for count, target in pairs]
    assert factor < 1e-9 or not all(fits)


def test_it_is_kept_beside_the_vocabularies(tmp_path: Path) -> None:
    assert TargetLengths.load(tmp_path) is None
    TargetLengths.measure(np.array([[4, 9], [4, 7], [11, 12]])).save(tmp_path)
    assert TargetLengths.load(tmp_path) == TargetLengths({3: 9, 10: 12})


def test_auto_is_what_training_says_where_it_says_anything() -> None:
    assert resolve_auto(TranslationDecoding(), "auto", 1.5).length_factor == 1.5
    assert resolve_auto(TranslationDecoding(), "auto").length_factor is None
    assert resolve_auto(TranslationDecoding(length_factor=3.0), "auto", 1.5).length_factor == 3.0
    beam = parse_strategies(["beam"], resolve_auto(TranslationDecoding(), "float32", 1.5))["beam"]
    assert length_limits(beam, None, [4, 200], 2) == [16, 100]
