"""Tests of stack options: normalisation, zoneout, residual connections, initialisation, first state, dropout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from unrolled.recurrence import CELLS, Dropout, NonFiniteError, Stack, Zoneout, named_stacks, scan

NAMES = sorted(CELLS)
pytestmark = pytest.mark.float64


def test_layer_normalisation_is_that_of_the_paper():
    """Ba et al. 2016, supplementary eq. 20 and the vanilla network: h' = tanh(LN(W x) + LN(U h) + b)."""
    cell, x, h = CELLS["rnn"](3, 4, layer_norm=True), torch.randn(2, 3), torch.randn(2, 4)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter)

    def normalised(a, gain):
        return gain * (a - a.mean(1, keepdim=True)) / torch.sqrt(a.var(1, correction=0, keepdim=True) + 1e-5)

    expected = torch.tanh(
        normalised(x @ cell.weight_input.t(), cell.gain_input)
        + normalised(h @ cell.weight_hidden.t(), cell.gain_hidden)
        + cell.bias
    )
    torch.testing.assert_close(scan(cell, x[:, None], (h,), engine="bptt")[0][:, 0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_normalised_cell_does_not_care_how_large_its_weights_are(name):
    """A gate's sum is the same for 2 U as for U, but for the ε of the normalisation."""
    cell, inputs = CELLS[name](3, 8, layer_norm=True), torch.randn(2, 6, 3)
    before, _ = scan(cell, inputs, engine="bptt")
    cell.weight_hidden.data *= 2
    cell.weight_input.data *= 2
    after, _ = scan(cell, inputs, engine="bptt")
    torch.testing.assert_close(after, before, rtol=0, atol=2e-3)


def test_zoneout_keeps_a_share_of_the_state_while_training_and_its_mean_after():
    cell, inputs = CELLS["lstm"](3, 200), torch.randn(20, 2, 3)
    first = tuple(torch.randn(20, 200) for _ in range(2))
    _, trained = scan(cell, inputs[:, :1], first, zoneout=0.3)
    for new, old in zip(trained, first, strict=True):
        assert float((new == old).double().mean()) == pytest.approx(0.3, abs=0.03)
    _, made = scan(cell, inputs[:, :1], first)
    _, mixed = scan(cell.eval(), inputs[:, :1], first, zoneout=0.3)
    for new, old, both in zip(made, first, mixed, strict=True):
        torch.testing.assert_close(both, 0.7 * new + 0.3 * old)


def test_zoneout_draws_every_tensor_and_step_of_its_own():
    drawn = Zoneout.draw(0.5, 3, (torch.zeros(2, 50), torch.zeros(2, 50)), training=True)
    assert not torch.equal(drawn.masks[0], drawn.masks[1])
    assert not torch.equal(drawn.masks[0][0], drawn.masks[0][1])
    assert Zoneout.draw(0.0, 3, (torch.zeros(2, 50),), training=True) is None


OPTIONS = {
    "residual": {"residual": True},
    "layer_norm": {"layer_norm": True},
    "zoneout": {"zoneout": 0.3},
    "learned_state": {"learned_state": True},
    "all": {"residual": True, "layer_norm": True, "zoneout": 0.3, "learned_state": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_steps_make_the_same_as_a_scan(name, options):
    stack = Stack(CELLS[name], 3, 4, layers=3, **options).eval()
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    inputs = torch.randn(2, 5, 3)
    whole, end = stack(inputs)
    carried = stack.begin(2)
    for t in range(5):
        output, carried = stack.step(inputs[:, t], carried)
        torch.testing.assert_close(output, whole[:, t])
    torch.testing.assert_close(carried, end)


def test_a_residual_layer_adds_its_input_where_sizes_agree():
    plain, residual = (Stack(CELLS["gru"], 3, 4, layers=2, residual=flag) for flag in (False, True))
    residual.load_state_dict(plain.state_dict())
    inputs = torch.randn(2, 5, 3)
    ((lower,), (upper,)) = plain.cells()
    below, _ = scan(lower, inputs)  # 3 features to 4: nothing to add
    torch.testing.assert_close(residual(inputs)[0], scan(upper, below)[0] + below)
    assert not torch.equal(residual(inputs)[0], plain(inputs)[0])


@pytest.mark.parametrize("name", NAMES)
def test_first_values_of_recurrent_weights(name):
    def weights(how):
        ((cell,),) = Stack(CELLS[name], 3, 4, initialization=how).cells()
        return cell, cell.weight_hidden.view(-1, 4, 4)

    for block in weights("orthogonal")[1]:
        torch.testing.assert_close(block @ block.t(), torch.eye(4))
    for block in weights("identity")[1]:
        torch.testing.assert_close(block, torch.eye(4))
    cell, blocks = weights("uniform")
    for weight in (blocks, cell.weight_input):
        assert float(weight.detach().abs().max()) <= 0.5 and float(weight.detach().std()) > 0.15


@pytest.mark.parametrize("engine", ["bptt", "autograd"])
def test_a_learned_first_state_is_learned(engine):
    stack = Stack(CELLS["lstm"], 3, 4, layers=2, bidirectional=True, learned_state=True, engine=engine)
    inputs = torch.randn(2, 5, 3)
    without = Stack(CELLS["lstm"], 3, 4, layers=2, bidirectional=True, engine=engine)
    without.load_state_dict(stack.state_dict(), strict=False)
    torch.testing.assert_close(stack(inputs)[0], without(inputs)[0])
    stack(inputs)[0].square().sum().backward()
    assert len(stack.first) == 4
    assert all((first.grad != 0).all() for first in stack.first)


def test_variational_dropout_is_the_same_at_every_step_and_another_for_every_sequence():
    dropout, values = Dropout(0.5, variational=True), torch.ones(3, 7, 40)
    dropped = dropout(values)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[0], dropped[1])
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(Dropout(0.5)(values)[:, 0], Dropout(0.5)(values)[:, 1])
    assert dropout.eval()(values) is values
    many = Dropout(0.2, variational=True)(torch.ones(400, 1, 100))
    assert float(many.mean()) == pytest.approx(1.0, abs=0.02)


def test_fused_refuses_options_that_torch_has_not():
    for options, given in (({"layer_norm": True}, {}), ({}, {"zoneout": 0.1})):
        with pytest.raises(ValueError, match="no layer normalisation and no zoneout"):
            scan(CELLS["gru"](3, 4, **options), torch.zeros(1, 3, 3), engine="fused", **given)


@pytest.mark.parametrize("engine", ["fused", "bptt", "autograd"])
def test_anomaly_detection_names_the_layer_the_step_and_the_example(engine):
    stack, inputs = Stack(CELLS["gru"], 3, 4, layers=2, engine=engine), torch.randn(2, 5, 3)
    inputs[1, 3, 2] = float("nan")
    stack(inputs)  # silent
    with torch.autograd.set_detect_anomaly(True):
        with pytest.raises(NonFiniteError, match="the input of layer 1 is not finite at step 4 of example 2"):
            stack(inputs)
        mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
        stack(inputs.masked_fill(~mask[..., None], 0), mask=mask)
        stack.cells()[1][0].bias.data[-1] = float("nan")
        with pytest.raises(NonFiniteError, match="the output of layer 2 is not finite at step 1 of example 1") as found:
            stack(torch.randn(2, 5, 3))
    assert found.value.stack is stack
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"stack": stack})})
    assert [name for name, _ in named_stacks(model)] == ["encoder"]


def test_normalised_products_match_functional():
    """The engine's own normalisation against torch's, through a GRU, whose product of three gates is one vector."""
    cell, x, h = CELLS["gru"](3, 4, layer_norm=True), torch.randn(2, 3), torch.randn(2, 4)
    torch.nn.init.normal_(cell.bias_reset)
    a = functional.layer_norm(x @ cell.weight_input.t(), (12,)) + cell.bias
    b = functional.layer_norm(h @ cell.weight_hidden.t(), (12,))
    r, z = torch.sigmoid(a[:, :4] + b[:, :4]), torch.sigmoid(a[:, 4:8] + b[:, 4:8])
    n = torch.tanh(a[:, 8:] + r * (b[:, 8:] + cell.bias_reset))
    torch.testing.assert_close(scan(cell, x[:, None], (h,), engine="bptt")[0][:, 0], (1 - z) * n + z * h)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("engine", ["auto", "bptt", "autograd"])
@pytest.mark.parametrize("name", NAMES)
def test_a_second_input_that_is_the_same_at_every_step_may_be_given_once(name, engine, truncate, kind):
    stack = Stack(CELLS[name], 5, 6, layers=2, extra_input_size=7, extra_input_layer=1, engine=engine).to(kind)
    inputs, extra = (torch.randn(*shape, dtype=kind, requires_grad=True) for shape in ((3, 5, 5), (3, 7)))
    mask = torch.arange(5) < torch.tensor([[5], [4], [2]])

    def ran(extra_input):
        outputs, _ = stack(inputs, None, mask, truncate, extra_input)
        return outputs, torch.autograd.grad(outputs.square().sum(), [inputs, extra, *stack.parameters()])

    torch.testing.assert_close(ran(extra[:, None]), ran(extra[:, None].expand(-1, 5, -1)), rtol=1e-4, atol=1e-5)
