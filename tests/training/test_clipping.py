"""Clipping of gradients, kind by kind."""

from __future__ import annotations

import pytest
import torch

from training_runs import config_of_text, train, weights
from unrolled.config import Clipping
from unrolled.tasks import make_task
from unrolled.training.distributed import SingleWorker
from unrolled.training.optim import Gradients


def given_gradients(values):
    model = torch.nn.Linear(2, 2).double()
    model.weight.grad, model.bias.grad = torch.tensor(values[:4]).double().view(2, 2), torch.tensor(values[4:]).double()
    return model, Gradients(model, 1, SingleWorker())


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.tensors()])


@pytest.mark.parametrize(
    ("kind", "threshold", "expected"),
    [
        ("norm", 2.5, [1.5, 2.0, 0.0, 0.0, 0.0, 0.0]),
        ("norm", 5.0, None),
        ("squared_norm", 10.0, [1.2, 1.6, 0.0, 0.0, 0.0, 0.0]),  # Σg² = 25: g · 10 / 25
        ("squared_norm", 25.0, None),
        ("value", 3.5, [3.0, 3.5, 0.0, 0.0, 0.0, 0.0]),
        ("value", 4.0, None),
        ("none", 0.1, None),
    ],
)
def test_clipping_does_what_its_kind_says(kind, threshold, expected):
    _, gradients = given_gradients([3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    before = flat(gradients)
    assert gradients.norm() == 5.0
    assert gradients.clip(Clipping(kind=kind, threshold=threshold), 5.0) is (expected is not None)
    torch.testing.assert_close(flat(gradients), before if expected is None else torch.tensor(expected).double())


def test_adaptive_clipping_measures_every_unit_by_its_weights():
    model, gradients = given_gradients([3.0, 4.0, 0.3, 0.4, 0.0, 9.0])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[6.0, 8.0], [6.0, 8.0]]))  # rows of norm 10
        model.bias.zero_()
    assert gradients.clip(Clipping(kind="adaptive", threshold=0.1), 99.0)
    torch.testing.assert_close(flat(gradients), torch.tensor([0.6, 0.8, 0.3, 0.4, 0.0, 1e-4]).double())
    assert not gradients.clip(Clipping(kind="adaptive", threshold=0.1), 99.0)


CONFIG = """
task: language_modeling
name: clipped
data: {source: %s}
model: {hidden: 12, dropout: 0.0}
training:
  max_steps: 1
  lanes: 4
  truncate: 20
  log_every: 1
  optimizer: {name: sgd, learning_rate: 2.0}
  schedule: {name: constant}
"""


@pytest.mark.parametrize("kind", ["norm", "squared_norm"])
def test_a_training_takes_the_clipped_step(kind, tmp_path):
    path = config_of_text(tmp_path, CONFIG)
    run, _ = train(path, f"training.clipping.kind={kind}", "training.clipping.threshold=0.001")
    torch.manual_seed(run.config().seed)
    first = make_task(run.config(), run.vocabulary).build_model().state_dict()
    moved = torch.cat([(value - first[name]).flatten() for name, value in weights(run).items() if name in first])
    (row,) = [row for row in run.history() if row["kind"] == "train"]
    taken = 0.001 if kind == "norm" else 0.001 / row["gradient_norm"]
    assert float(moved.norm()) == pytest.approx(2.0 * taken, rel=1e-2)
