"""Gradient buckets that are summed while the backward pass still computes others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_golden_trajectories import FAMILIES, config_of

from training_runs import start, train, train_together, travelling, weights
from unrolled.tasks import make_task, prepare
from unrolled.training import distributed
from unrolled.training.distributed import GradientBuckets, SingleWorker
from unrolled.training.train_step import TrainStep, prefetch

FEW = ["training.precision=float64", "training.epochs=99", "training.max_steps=5"]


class Half(SingleWorker):
    """The first of two workers; the second contributes zeros."""

    size = 2

    def __init__(self):
        self.events = []

    def shared_buffer(self, count, like):
        return None

    def all_reduce(self, tensor):
        self.events.append(tensor.numel())
        return lambda: None

    def gather(self, value):
        return [value, value]

    @property
    def sums(self):
        return [event for event in self.events if isinstance(event, int)]


def updates(path, options, count=3):
    """Parameters after a few updates of the first of two workers, and the events of the last update."""
    run, fingerprint = start(path, *options, overwrite=True)
    config, comm = run.config(), Half()
    torch.manual_seed(0)
    task = make_task(config, run.vocabulary)
    model = task.build_model().double()
    updater = TrainStep(task, model, config, comm, torch.device("cpu"))
    updater.on_phase_end = comm.events.append
    batches = task.plan(prepare(config, fingerprint), 0)[:count]
    for step, work in enumerate(prefetch([[batch] for batch in batches], comm)):
        comm.events.clear()
        updater(work, step, 0.0, [0.0, 0.0], norms_by_layer=False)
    return [parameter.detach() for parameter in model.parameters()], comm


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_begin_before_the_backward_pass_ends(family, tmp_path, monkeypatch):
    path, options = config_of(family, tmp_path)
    want, whole = updates(path, options)
    assert len(whole.sums) == 1  # all gradients fit into one bucket
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 1000)
    got, cut = updates(path, options)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert sum(cut.sums) == sum(whole.sums)
    end = len(cut.events) - cut.events[::-1].index("backward")
    early = [event for event in cut.events[:end] if isinstance(event, int)]
    assert len(early) == len(cut.sums) - 1  # all but the one whose numbers are known at the end


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_workers_on_machines_of_their_own_give_the_parameters_of_one(tiny, size):
    """With windows, accumulated batches, and batches with fewer rows than workers."""
    options = [*FEW, "training.truncate=3", "training.accumulate=2", "training.batch_tokens=40"]
    alone, _ = train(tiny, "name=alone", *options)
    together = train_together(tiny, size, "name=together", *options, setup=travelling)
    want, got = weights(alone), weights(together)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)
    losses = [[row["loss"] for row in run.history() if row["kind"] == "validation"] for run in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-9)


@pytest.mark.slow
def test_what_travels_between_two_workers_is_bitwise_what_they_share(tiny):
    shared = train_together(tiny, 2, "name=shared", *FEW)
    travelled = train_together(tiny, 2, "name=travelled", *FEW, setup=travelling)
    want, got = weights(shared), weights(travelled)
    assert all(torch.equal(got[name], value) for name, value in want.items())


SIZES = [3, 1, 40, 5, 2, 8]
uses = st.lists(st.booleans(), min_size=len(SIZES), max_size=len(SIZES))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(8, 400), before=uses, last=uses, announced=st.booleans())
def test_the_order_of_sums_does_not_depend_on_who_gets_a_gradient(size, before, last, announced):
    """Otherwise workers would wait for each other without end."""
    parameters = [torch.nn.Parameter(torch.ones(count, dtype=torch.float64)) for count in SIZES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "BUCKET_BYTES", size)
        comm, other = Half(), Half()
        tested, untouched = GradientBuckets(parameters, 2, comm), GradientBuckets(parameters, 2, other)
    untouched.all_reduce([0.0, 0.0])
    for _ in range(2):  # the second time from the state after the first
        for parameter in parameters:
            parameter.grad = None
        comm.events.clear()
        for used, final in ((before, False), (last, True)):
            terms = [(place + 1) * parameter.sum() for place, parameter in enumerate(parameters) if used[place]]
            if terms:
                loss = torch.stack(terms).sum()
                if final and announced:
                    tested.begin_last_backward(loss)
                loss.backward()
        assert tested.all_reduce([4.0, 5.0]) == [4.0, 5.0]
        assert comm.sums == other.sums
        for place, parameter in enumerate(parameters):
            times = before[place] + last[place]
            assert torch.equal(parameter.grad, torch.full_like(parameter, (place + 1) * times))


def test_a_pass_after_the_last_is_noticed(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 1)
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    tested = GradientBuckets(parameters, 1, Half())
    loss = parameters[2].sum()
    tested.begin_last_backward(loss)
    loss.backward()
    with pytest.raises(RuntimeError, match="set too early"):
        parameters[2].sum().backward()
