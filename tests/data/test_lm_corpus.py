"""Windows of lanes in training and evaluation."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.data.lm_corpus import Lanes, plan_windows


@settings(max_examples=60, deadline=None)
@given(units=st.integers(2, 90), lanes=st.integers(1, 6), truncate=st.integers(1, 20), size=st.integers(1, 4))
def test_windows_read_every_lane_once_in_order(units, lanes, truncate, size):
    numbers = np.arange(units, dtype=np.int32)
    steps = (units - 1) // lanes
    plan = plan_windows(numbers, lanes, truncate)
    for rank in range(size):
        read = [part for window in plan if (part := window.shard(rank, size))]
        if not read:
            continue
        inputs = torch.cat([part.inputs for part in read], dim=1)
        assert inputs.tolist() == [list(range(lane * steps, (lane + 1) * steps)) for lane in range(rank, lanes, size)]
        assert torch.equal(torch.cat([part.targets for part in read], dim=1), inputs + 1)
    assert sum(window.tokens for window in plan) == steps * lanes


@given(units=st.integers(2, 9000), lanes=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_evaluation_lanes_predict_every_token_but_the_first(units, lanes):
    cut = Lanes.of_every_token(np.arange(units, dtype=np.int32), lanes)
    targets = cut.windows(range(cut.count), 0, cut.steps).targets
    assert targets[targets >= 0].tolist() == list(range(1, units))
    assert cut.count == 1 or (cut.count <= lanes and cut.steps >= 999)
