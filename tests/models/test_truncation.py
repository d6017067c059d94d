"""Tests of truncated back-propagation through time in encoder–decoder models, against explicitly detached graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training_runs import train, train_together, weights
from unrolled.config.load import load_config
from unrolled.models import EncoderOutput, build_translator
from unrolled.recurrence import CELLS, Stack
from unrolled.recurrence import state as nest

EXACT = ["training.precision=float64", "training.max_steps=12", "training.epochs=99"]


@pytest.fixture
def model(tiny, request):
    options = [f"model.{key}" for key in (*request.param, "encoder.dropout=0", "decoder.dropout=0")]
    torch.manual_seed(0)
    return build_translator(load_config(tiny, options).model, 30, 40).double()


def examples():
    torch.manual_seed(1)
    lengths = [torch.tensor([9, 4, 1]), torch.tensor([7, 8, 2])]
    input_mask, mask = (torch.arange(int(each.max())) < each[:, None] for each in lengths)
    inputs, before, after = torch.randint(3, 30, (3, 9)), torch.randint(3, 40, (3, 8)), torch.randint(3, 40, (3, 8))
    return inputs, input_mask, before, after, mask


def windowed(model, truncate):
    inputs, input_mask, before, after, mask = examples()
    model.zero_grad()
    memory, total = model.encode(inputs, input_mask, truncate), 0.0
    leaf = memory.detach_leaf()
    for loss in model.window_losses(leaf, before, after, mask, 0.1, truncate):
        loss.backward()
        total += loss.item()
    memory.backward_into_encoder(leaf).backward()
    return total, {name: value.grad.clone() for name, value in model.named_parameters()}


def cut_by_hand(model, truncate):
    """Step by step with torch's own differentiation; every state is detached where a window begins."""
    inputs, input_mask, before, after, mask = examples()
    model.zero_grad()
    encoder = model.encoder
    read, last = encoder.embedding(inputs), []
    for layer in encoder.stack.cells():
        sides = []
        for direction, cell in enumerate(layer):
            state, outputs = cell.zeros(3), {}
            order = range(9) if direction == 0 else range(8, -1, -1)
            for t in order:
                if t != order[0] and (t if direction == 0 else t + 1) % truncate == 0:
                    ahead = input_mask[:, t:] if direction == 0 else input_mask[:, : t + 1]
                    state = nest.where(ahead.any(1), nest.detach(state), state)
                state = nest.where(input_mask[:, t], cell.step(cell.project(read[:, t]), state), state)
                outputs[t] = state[0]
            sides.append(torch.stack([outputs[t] for t in range(9)], dim=1))
            last.append(state[0])
        read = torch.cat(sides, dim=-1)
    memory = model.decoder.prepare(EncoderOutput(read, input_mask, torch.cat(last[-len(layer) :], dim=-1)))
    state, outputs = model.decoder.start(memory), []
    for t in range(8):
        state = nest.detach(state) if t and t % truncate == 0 else state
        output, state, _ = model.decoder.step(memory, before[:, t], state)
        outputs.append(output)
    outputs = torch.stack(outputs, dim=1)
    loss = model.head.loss(outputs[mask], after[mask], 0.1)
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters()}


KINDS = [
    ["encoder.cell=lstm", "decoder.cell=gru"],
    ["encoder.layers=2", "decoder.layers=2", "decoder.attention.input_feeding=true"],
    ["encoder.bidirectional=false", "decoder.attention.score=additive"],
    ["decoder.conditioning=state", "encoder.cell=mut2"],
]


@pytest.mark.parametrize("truncate", [1, 3, 4, 8])
@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_gradients_are_those_of_a_graph_that_is_cut_by_hand(model, truncate):
    (got_loss, got), (loss, want) = windowed(model, truncate), cut_by_hand(model, truncate)
    assert got_loss == pytest.approx(loss, abs=1e-12)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_cutting_changes_the_gradient(model):
    (one, short), (other, whole) = cut_by_hand(model, 2), cut_by_hand(model, 9)
    assert one == pytest.approx(other, abs=1e-12)
    assert any(float((short[name] - value).norm()) > 1e-3 * float(value.norm()) for name, value in whole.items())


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(CELLS)),
    steps=st.integers(1, 9),
    truncate=st.integers(1, 10),
    layers=st.integers(1, 2),
    options=st.sampled_from([{}, {"layer_norm": True}, {"zoneout": 0.3}, {"learned_state": True}]),
)
def test_windows_of_a_stack_are_run_again_with_the_same_numbers(name, steps, truncate, layers, options):
    """The loss is that of the whole sequence, and where only outputs of the first window count, so is the gradient."""
    torch.manual_seed(0)
    stack = Stack(CELLS[name], 3, 4, layers=layers, **options).double()
    inputs, mask = torch.randn(2, steps, 3).double(), torch.ones(2, steps, dtype=torch.bool)
    mask[1, steps // 2 + 1 :] = False
    found = []
    for window in (truncate, None):
        torch.manual_seed(5)
        stack.zero_grad()
        outputs, _ = stack(inputs, mask=mask, truncate=window)
        outputs[:, : min(truncate, steps)].square().sum().backward()
        found.append([outputs.detach(), *(parameter.grad for parameter in stack.parameters())])
    if "zoneout" in options and truncate < steps:  # drawn anew for each window, so that only its own numbers agree
        return
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_windows_as_long_as_the_sequences_are_bitwise_no_windows(tiny):
    options = ["training.max_steps=6", "training.precision=float32"]
    whole, _ = train(tiny, *options, "name=whole")
    windows, _ = train(tiny, *options, "name=windows", "training.truncate=100")
    want, got = weights(whole), weights(windows)
    assert all(torch.equal(got[name], value) for name, value in want.items())


def test_truncated_training_does_not_depend_on_the_number_of_workers(tiny):
    options = [*EXACT, "training.truncate=3", "model.encoder.dropout=0", "model.decoder.dropout=0"]
    alone, _ = train(tiny, "name=alone", *options)
    together = train_together(tiny, 2, "name=together", *options)
    want, got = weights(alone), weights(together)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)


def test_truncated_training_learns(tiny):
    run, _ = train(tiny, "training.epochs=30", "training.optimizer.learning_rate=0.01", "training.truncate=5")
    losses = [row["loss"] for row in run.history() if row["kind"] == "validation"]
    assert losses[-1] < 0.75 * losses[0]
