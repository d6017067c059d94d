"""Steps of the optimizer and its averages in compiled code, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unrolled import native
from unrolled.config import Optimizer
from unrolled.native import build
from unrolled.training.distributed import SingleWorker
from unrolled.training.optim import MovingAverage, build_optimizer, optimizer_step
from unrolled.training.train_step import Gradients


def steps(config, decay, dtype=torch.float32):
    """Parameters, averages and optimizer's states after a few steps with drawn gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(90, 70), nn.Linear(3, 1)).to(dtype)
    model[1].learning_rate_factor = 0.5
    optimizer, average = build_optimizer(model, config), MovingAverage(model, decay)
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
        optimizer_step(optimizer, average, 0.7, step)
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return [each.detach().clone() for each in (*model.parameters(), *average.values, *states)]


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_is_torchs(name, decay, monkeypatch):
    config = Optimizer(name=name, learning_rate=0.01, weight_decay=0.1)
    exact, fast = steps(config, decay, torch.float64), steps(config, decay)
    monkeypatch.setattr(build, "load", lambda: None)
    plain = steps(config, decay)
    assert len(fast) == len(plain)
    for got, own, want in zip(fast, plain, exact, strict=True):
        torch.testing.assert_close(got, own, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-4, atol=1e-6)


def test_threads_change_nothing():
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(steps(Optimizer(name="adamw"), 0.9))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_the_norm_is_that_of_all_gradients_whatever_the_threads(value):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(90, 100), nn.Linear(3, 1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model[0].weight.grad[7, 3] = value
    gradients, before, norms = Gradients(model, 1, SingleWorker()), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        norms.append(gradients.norm())
    torch.set_num_threads(before)
    want = torch.linalg.vector_norm(torch.cat([each.flatten().double() for each in gradients.all()]))
    torch.testing.assert_close(torch.tensor(norms[0]).double(), want, equal_nan=True, rtol=1e-6, atol=0)
    assert norms[0] == norms[1] or value != 0


def test_only_tensors_that_lie_one_after_the_other_are_taken():
    values = torch.zeros(4, 4)
    assert not native.can_descend([values.t()[:, :2]]) and not native.can_descend([values.double()])
