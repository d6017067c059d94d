"""Tests of gradient flow: against the formulas, against full Jacobians, with masks, and the textbook reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.recurrence import CELLS, RNN, Stack, textbook_bptt
from unrolled.recurrence.gradient_flow import (
    gradient_flow,
    jacobian_singular_values,
    matrix_singular_values,
    textbook_gradient_flow,
)

NAMES = sorted(CELLS)
pytestmark = pytest.mark.float64


def lengths_mask(lengths, time):
    return torch.arange(time) < torch.tensor(lengths)[:, None]


def test_norms_of_a_vanilla_network_are_those_of_the_formulas():
    stack, x, y = Stack(RNN, 3, 4), torch.randn(7, 3), torch.randint(5, (7,))
    ((cell,),) = stack.cells()
    weights, bias = torch.randn(5, 4), torch.randn(5)
    p = textbook_bptt.Parameters(
        cell.weight_input.detach(), cell.weight_hidden.detach(), cell.bias.detach(), weights, bias
    )

    def loss():
        return torch.nn.functional.cross_entropy(stack(x[None])[0][0] @ weights.T + bias, y, reduction="sum")

    (flow,) = gradient_flow(stack, loss)
    h, y_hat = textbook_bptt.forward(p, x, torch.zeros(4))
    grad_o = textbook_bptt.output_gradients(y_hat, y)
    expected = textbook_bptt.state_gradients(p, h, grad_o).norm(dim=1)
    torch.testing.assert_close(torch.tensor(flow.norms), expected)
    grad_o[:-1] = 0  # the last loss alone
    alone = textbook_bptt.state_gradients(p, h, grad_o).norm(dim=1).flip(0)
    torch.testing.assert_close(torch.tensor(flow.remaining), alone / alone[0])
    assert flow.growth == pytest.approx((flow.remaining[-1]) ** (1 / 6))


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(NAMES), hidden=st.integers(1, 24), seed=st.integers(0, 99))
def test_jacobian_singular_values_are_those_of_the_full_jacobian(name, hidden, seed):
    torch.manual_seed(seed)
    cell = CELLS[name](3, hidden)
    projected, state = cell.project(torch.randn(2, 3)), tuple(torch.randn_like(t) for t in cell.zeros(2))
    found = jacobian_singular_values(cell, projected, state, rounds=60)
    for row in range(2):

        def step(joined, row=row):
            after = cell.step(projected[row : row + 1], joined.view(len(state), 1, hidden).unbind(0))
            return torch.cat(after).flatten()

        full = torch.autograd.functional.jacobian(step, torch.stack([t[row] for t in state]).flatten())
        torch.testing.assert_close(found[row], torch.linalg.matrix_norm(full, 2), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_few_rounds_come_close_from_below(name):
    cell = CELLS[name](8, 96)
    projected, state = cell.project(torch.randn(2, 8)), tuple(torch.randn_like(t) for t in cell.zeros(2))
    exact = jacobian_singular_values(cell, projected, state, rounds=200)
    found = jacobian_singular_values(cell, projected, state)
    assert (found <= exact * (1 + 1e-9)).all()
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)


def test_a_matrix_of_known_singular_values():
    cell = CELLS["lstm"](2, 3)
    for number, block in enumerate(cell.weight_hidden.data.chunk(4), start=1):
        torch.nn.init.orthogonal_(block, gain=number)
    assert matrix_singular_values(cell) == pytest.approx([1, 2, 3, 4])


@pytest.mark.parametrize("name", NAMES)
def test_growth_stays_below_the_jacobians(name):
    stack = Stack(CELLS[name], 3, 8)
    inputs = torch.randn(2, 12, 3)
    for flow in gradient_flow(stack, lambda: torch.sum(stack(inputs)[0][:, -1].square())):
        # Rectified units may all fall silent.
        assert 0 <= flow.growth <= flow.jacobian * (1 + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_direction_change_nothing(name):
    stack = Stack(CELLS[name], 3, 4, layers=2, bidirectional=True)
    inputs = torch.randn(2, 6, 3)
    padded, mask = torch.cat([inputs, torch.full((2, 3, 3), 9.0)], 1), lengths_mask([6, 6], 9)
    alone = gradient_flow(stack, lambda: torch.sum(stack(inputs)[0].square()))
    among = gradient_flow(stack, lambda: torch.sum(stack(padded, mask=mask)[0][:, :6].square()))
    assert [flow.layer for flow in alone] == ["stack 1 →", "stack 1 ←", "stack 2 →", "stack 2 ←"]
    for one, other in zip(alone, among, strict=True):
        assert one.norms == pytest.approx(other.norms)
        assert one.remaining == pytest.approx(other.remaining)
        assert one.jacobian == pytest.approx(other.jacobian)


def test_shorter_examples_end_where_they_end():
    stack, inputs = Stack(CELLS["gru"], 3, 4), torch.randn(2, 5, 3)
    mask = lengths_mask([5, 3], 5)
    (both,) = gradient_flow(stack, lambda: torch.sum(stack(inputs, mask=mask)[0][:, -1]))
    (longer,) = gradient_flow(stack, lambda: torch.sum(stack(inputs[:1])[0][:, -1]))
    (shorter,) = gradient_flow(stack, lambda: torch.sum(stack(inputs[1:, :3])[0][:, -1]))
    means = [math.sqrt(a * b) for a, b in zip(longer.remaining, shorter.remaining, strict=False)]
    assert both.remaining == pytest.approx([*means, *longer.remaining[3:]])


def test_steps_of_a_stack_are_measured_too():
    stack, inputs = Stack(CELLS["lstm"], 3, 4, layers=2), torch.randn(2, 5, 3)

    def stepped():
        state = stack.begin(2)
        for x in inputs.unbind(1):
            output, state = stack.step(x, state)
        return output.sum()

    for one, other in zip(
        gradient_flow(stack, lambda: torch.sum(stack(inputs)[0][:, -1])), gradient_flow(stack, stepped), strict=True
    ):
        assert one.remaining == pytest.approx(other.remaining) and one.norms == pytest.approx(other.norms)


def test_measuring_leaves_the_model_as_it_was():
    stack, inputs = Stack(CELLS["lstm"], 3, 4), torch.randn(2, 5, 3)
    before = stack(inputs)[0]
    with pytest.raises(RuntimeError, match="on purpose"):
        gradient_flow(stack, lambda: (_ for _ in ()).throw(RuntimeError("on purpose")))
    gradient_flow(stack, lambda: torch.sum(stack(inputs)[0]))
    assert stack.engine == "auto" and "step" not in vars(stack.cells()[0][0])
    assert all(parameter.grad is None for parameter in stack.parameters())
    torch.testing.assert_close(stack(inputs)[0], before)


def test_frozen_parameters_and_unreached_layers():
    model = torch.nn.ModuleDict({"used": Stack(RNN, 3, 4), "idle": Stack(RNN, 3, 4), "cut": Stack(RNN, 3, 4)})
    model.requires_grad_(False)
    inputs = torch.randn(2, 5, 3)
    flows = gradient_flow(model, lambda: model["used"](inputs)[0].sum() + model["cut"](inputs)[0].detach().sum())
    assert [flow.layer for flow in flows] == ["used 1"]


def test_one_step_has_no_growth():
    stack = Stack(RNN, 3, 4)
    (flow,) = gradient_flow(stack, lambda: torch.sum(stack(torch.randn(2, 1, 3))[0]))
    assert math.isnan(flow.growth) and flow.remaining == pytest.approx([1.0]) and flow.verdict == "steady"


def test_the_picture_of_the_textbooks():
    flows = textbook_gradient_flow(hidden=32)
    rnn = [flows[f"RNN, σ = {sigma}"] for sigma in (0.5, 0.9, 1.0, 1.1, 1.5)]
    assert [flow.verdict for flow in rnn] == ["vanishing", "vanishing", "steady", "exploding", "exploding"]
    assert rnn[0].growth == pytest.approx(0.5, rel=1e-2) and rnn[0].matrices == pytest.approx([0.5])
    assert flows["LSTM, forget bias 4"].growth > flows["LSTM, forget bias 1"].growth > rnn[0].growth
    assert textbook_gradient_flow(hidden=32) == flows
