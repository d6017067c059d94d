"""Tests of the cells: printed equations, initial values, derivatives of the engine `bptt`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradient_check import gradcheck
from unrolled.recurrence import CELLS, RNN, scan

NAMES = sorted(CELLS)
pytestmark = pytest.mark.float64


def make(name, inputs=4, hidden=4):
    cell = CELLS[name](inputs, hidden)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.7)
    return cell


def printed_mut(name, cell, x, h):
    """MUT1–3 as the paper prints them, with x as square as h."""
    s, t = torch.sigmoid, torch.tanh
    b_r, b_z, b_h = cell.bias.chunk(3)
    if name == "mut1":
        (w_r, w_z), (u_r, u_h) = cell.weight_input.chunk(2), cell.weight_hidden.chunk(2)
        z = s(w_z @ x + b_z)
        r = s(w_r @ x + u_r @ h + b_r)
        return t(u_h @ (r * h) + t(x) + b_h) * z + h * (1 - z)
    u_r, u_z, u_h = cell.weight_hidden.chunk(3)
    if name == "mut2":
        w_z, w_h = cell.weight_input.chunk(2)
        z = s(w_z @ x + u_z @ h + b_z)
        r = s(x + u_r @ h + b_r)
    else:
        w_r, w_z, w_h = cell.weight_input.chunk(3)
        z = s(w_z @ x + u_z @ t(h) + b_z)
        r = s(w_r @ x + u_r @ h + b_r)
    return t(u_h @ (r * h) + w_h @ x + b_h) * z + h * (1 - z)


@pytest.mark.parametrize("engine", ["bptt", "autograd"])
@pytest.mark.parametrize("name", ["mut1", "mut2", "mut3"])
def test_mut_is_the_printed_form_where_sizes_are_equal(name, engine):
    cell, x, h = make(name), torch.randn(4), torch.randn(4)
    outputs, _ = scan(cell, x[None, None], (h[None],), engine=engine)
    torch.testing.assert_close(outputs[0, 0], printed_mut(name, cell, x, h))


@pytest.mark.parametrize("name", ["mut1", "mut2"])
def test_mut_matches_an_input_of_another_size_by_a_matrix_without_bias(name):
    small, square = make(name, 3, 4), make(name, 4, 4)
    assert square.weight_match is None
    assert tuple(small.weight_match.shape) == (4, 3)
    nn.init.zeros_(small.weight_input)
    nn.init.zeros_(square.weight_input)
    square.load_state_dict(
        {key: value for key, value in small.state_dict().items() if "input" not in key and "match" not in key},
        strict=False,
    )
    x, h = torch.randn(1, 1, 3), (torch.randn(1, 4),)
    torch.testing.assert_close(scan(small, x, h)[0], scan(square, x @ small.weight_match.t(), h)[0])


def test_the_two_grus_differ_and_cho_is_the_paper():
    cudnn, cho, x, h = make("gru"), make("cho_gru"), torch.randn(4), torch.randn(4)
    cho.load_state_dict({key: value for key, value in cudnn.state_dict().items() if key != "bias_reset"})
    nn.init.zeros_(cudnn.bias_reset)
    w_r, w_z, w_n = cho.weight_input.chunk(3)
    u_r, u_z, u_n = cho.weight_hidden.chunk(3)
    b_r, b_z, b_n = cho.bias.chunk(3)
    r, z = torch.sigmoid(w_r @ x + u_r @ h + b_r), torch.sigmoid(w_z @ x + u_z @ h + b_z)
    expected = z * h + (1 - z) * torch.tanh(w_n @ x + u_n @ (r * h) + b_n)
    one, _ = scan(cho, x[None, None], (h[None],))
    other, _ = scan(cudnn, x[None, None], (h[None],))
    torch.testing.assert_close(one[0, 0], expected)
    assert not torch.allclose(one, other)


def test_peepholes_of_zero_make_the_plain_lstm():
    peephole, plain, inputs = make("peephole_lstm"), make("lstm"), torch.randn(2, 5, 4)
    plain.load_state_dict({key: value for key, value in peephole.state_dict().items() if key != "peepholes"})
    seen, _ = scan(peephole, inputs)
    blind, _ = scan(plain, inputs)
    assert not torch.allclose(seen, blind)
    nn.init.zeros_(peephole.peepholes)
    torch.testing.assert_close(scan(peephole, inputs)[0], blind)


def test_irnn_starts_as_a_running_sum():
    cell = CELLS["irnn"](3, 4)
    torch.testing.assert_close(cell.weight_hidden, torch.eye(4))
    torch.testing.assert_close(scan(cell, torch.zeros(1, 3, 3), (torch.ones(1, 4),))[0], torch.ones(1, 3, 4))


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm"])
def test_lstms_start_by_remembering(name):
    assert CELLS[name](3, 4).bias.view(4, 4).sum(1).tolist() == [0, 4, 0, 0]


@pytest.mark.parametrize("name", ["mut1", "mut2", "mut3"])
def test_muts_start_by_keeping_as_much_as_an_lstm(name):
    cell, h = CELLS[name](3, 4), torch.randn(1, 4)
    assert cell.bias.view(3, 4).sum(1).tolist() == [0, -4, 0]
    torch.nn.init.zeros_(cell.weight_input)
    torch.nn.init.zeros_(cell.weight_hidden)
    _, (kept,) = scan(cell, torch.zeros(1, 1, 3), (h,))
    torch.testing.assert_close(kept, h * torch.sigmoid(torch.tensor(1.0)))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_a_cell_has_features(sizes):
    with pytest.raises(ValueError, match="both must be 1 or more"):
        CELLS["gru"](*sizes)


class Forgetful(RNN):
    """A network whose derivative omits the factor 1 − h²."""

    def step_backward(self, buffers, gradient):
        buffers.gates[0].copy_(gradient[0])
        return (buffers.recurrent[0](buffers.gates[0]),)


def test_a_wrong_derivative_is_caught():
    cell, inputs = Forgetful(4, 4), torch.randn(2, 3, 4, requires_grad=True)

    def outputs(x):
        return scan(cell, x, engine="bptt")[0]

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(outputs, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_backward_pass_is_refused_as_the_first_used_its_memory(name):
    outputs, _ = scan(make(name), torch.randn(2, 3, 4), engine="bptt")
    outputs.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_packed_products_change_nothing(name):
    """In float32, oneDNN multiplies packed matrices where they are large and the steps many."""
    cell, inputs = CELLS[name](4, 512), torch.randn(3, 8, 4)
    exact, _ = scan(cell, inputs, engine="bptt")
    rounded, _ = scan(cell.float(), inputs.float(), engine="bptt")
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-5)
    again, _ = scan(cell, inputs.float(), engine="bptt")
    assert torch.equal(again, rounded)
