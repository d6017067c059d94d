"""Tests of scans and stacks: engines against each other and against torch's modules, with masks, in windows."""

from __future__ import annotations

import functools
import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_check import gradcheck
from unrolled.config import CellName
from unrolled.recurrence import CELLS, Stack, cuda_graphs, scan, state

NAMES = sorted(CELLS)
KERNELS = [name for name in NAMES if CELLS[name].torch_function]
RUNS = [
    (name, engine) for name in NAMES for engine in ("fused", "bptt", "autograd") if engine != "fused" or name in KERNELS
]
MODULES = {
    "rnn": torch.nn.RNN,
    "irnn": functools.partial(torch.nn.RNN, nonlinearity="relu"),
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
}
pytestmark = pytest.mark.float64


def make(name, inputs=3, hidden=4, **options):
    cell = CELLS[name](inputs, hidden, **options)
    for parameter in cell.parameters():  # biases too: zeros would hide a wrong one
        torch.nn.init.normal_(parameter, std=0.5)
    return cell


def lengths_mask(lengths, time):
    return torch.arange(time) < torch.tensor(lengths)[:, None]


def run(cell, engine, inputs, carried, mask, **options):
    """Outputs, last state and all gradients of a random scalar of them."""
    inputs = inputs.clone().requires_grad_()
    carried = tuple(tensor.clone().requires_grad_() for tensor in carried)
    torch.manual_seed(1)  # zoneout draws
    outputs, last = scan(cell, inputs, carried, mask, engine=engine, **options)
    cell.zero_grad()
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (tensor * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)).sum()
        for tensor in (outputs, *last)
    )
    loss.backward()
    gradients = [inputs.grad, *(tensor.grad for tensor in carried), *(p.grad for p in cell.parameters())]
    return [outputs, *last, *gradients]


def test_config_names_every_cell():
    assert set(typing.get_args(CellName)) == set(CELLS)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    time=st.integers(1, 6),
    lengths=st.none() | st.lists(st.integers(0, 6), min_size=3, max_size=3),
    size=st.integers(3, 4),
    engine=st.sampled_from(["auto", "bptt"]),
    reverse=st.booleans(),
    layer_norm=st.booleans(),
    zoneout=st.sampled_from([0.0, 0.4]),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_engines_agree_in_values_and_gradients(
    name, time, lengths, size, engine, reverse, layer_norm, zoneout, training, seed
):
    torch.manual_seed(seed)
    cell, inputs = make(name, size, layer_norm=layer_norm).train(training), torch.randn(3, time, size)
    carried = tuple(torch.randn(3, 4) for _ in range(cell.num_states))
    mask = None if lengths is None else lengths_mask([min(n, time) for n in lengths], time)
    options = {"reverse": reverse, "zoneout": zoneout}
    for got, expected in zip(
        run(cell, engine, inputs, carried, mask, **options),
        run(cell, "autograd", inputs, carried, mask, **options),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_memory_of_a_graph_serves_every_run_of_its_shape(name, masked, reverse):
    """The work that a GPU replays, on the same memory without a GPU, with new inputs, masks and weights each time."""
    cell = make(name)
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in cell.parameters():
            parameter.data.normal_(std=0.5)
        inputs, carried = torch.randn(3, 5, 3), tuple(torch.randn(3, 4) for _ in range(cell.num_states))
        mask = lengths_mask([5, seed, 3], 5) if masked else None
        expected = [tensor.clone() for tensor in run(cell, "autograd", inputs, carried, mask, reverse=reverse)]
        with cuda_graphs.forced():
            got = run(cell, "bptt", inputs, carried, mask, reverse=reverse)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_two_scans_of_one_graph_may_wait_for_their_backward_passes():
    cell, inputs = make("lstm"), torch.randn(2, 3, 5, 3)
    found = []
    for engine in ("bptt", "autograd"):
        cell.zero_grad()
        with cuda_graphs.forced():
            first, state = scan(cell, inputs[0], engine=engine)
            second, _ = scan(cell, inputs[1], state, engine=engine)
            (first.square().sum() + second.sum()).backward()
        found.append([first, second, *(parameter.grad.clone() for parameter in cell.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    residual=st.booleans(),
    lengths=st.none() | st.lists(st.integers(0, 4), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_stacks_of_both_engines_agree(name, layers, bidirectional, residual, lengths, seed):
    torch.manual_seed(seed)
    options = {"layers": layers, "bidirectional": bidirectional, "residual": residual, "learned_state": True}
    inputs, mask = torch.randn(2, 4, 3), None if lengths is None else lengths_mask(lengths, 4)
    found = []
    for engine in ("bptt", "autograd"):
        torch.manual_seed(seed)
        stack = Stack(CELLS[name], 3, 4, engine=engine, **options)
        outputs, _ = stack(inputs, mask=mask)
        outputs.square().sum().backward()
        found.append([outputs, *(parameter.grad for parameter in stack.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("engine", ["bptt", "autograd"])
@pytest.mark.parametrize("name", KERNELS)
def test_equals_torchs_module(name, engine):
    cell, inputs = make(name), torch.randn(2, 5, 3)
    module = MODULES[name](3, 4, batch_first=True)
    for parameter, value in zip(module.parameters(), cell.torch_weights(), strict=True):
        parameter.data.copy_(value)
    expected, last = module(inputs)
    outputs, after = scan(cell, inputs, engine=engine)
    torch.testing.assert_close(outputs, expected)
    for got, want in zip(after, last if isinstance(last, tuple) else (last,), strict=True):
        torch.testing.assert_close(got, want[0])


@pytest.mark.parametrize(("name", "engine"), RUNS)
def test_gradients_against_finite_differences(name, engine):
    cell = make(name, 2, 2)
    mask = lengths_mask([3, 1], 3)
    inputs = torch.randn(2, 3, 2, requires_grad=True)

    def outputs(x):
        return scan(cell, x, mask=mask, engine=engine)[0]

    assert gradcheck(outputs, inputs)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_parameters_against_finite_differences(name, layer_norm):
    torch.manual_seed(2)
    cell, inputs, weights = make(name, 2, 3, layer_norm=layer_norm), torch.randn(2, 3, 2), torch.randn(2, 3, 3)
    parameters = dict(cell.named_parameters())

    def loss():
        return (scan(cell, inputs, engine="bptt")[0] * weights).sum()

    loss().backward()
    for key, parameter in parameters.items():
        flat, found, step = parameter.data.view(-1), parameter.grad.view(-1).clone(), 1e-6
        for place in range(len(flat)):
            kept = float(flat[place])
            flat[place] = kept + step
            above = loss().item()
            flat[place] = kept - step
            below = loss().item()
            flat[place] = kept
            assert float(found[place]) == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-7), key


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_is_bitwise_the_first(name):
    cell, inputs = make(name, 3, 8), torch.randn(4, 9, 3)
    carried, mask = cell.zeros(4), lengths_mask([9, 5, 1, 0], 9)
    first, second = (run(cell, "bptt", inputs, carried, mask, zoneout=0.3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "engine"), RUNS)
def test_two_halves_make_the_whole(name, engine):
    cell, inputs = make(name), torch.randn(2, 6, 3)
    whole, end = scan(cell, inputs, engine=engine)
    first, middle = scan(cell, inputs[:, :2], engine=engine)
    second, last = scan(cell, inputs[:, 2:], middle, engine=engine)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("name", NAMES)
def test_detached_state_cuts_the_gradient(name):
    cell, inputs = make(name), torch.randn(1, 4, 3, requires_grad=True)
    _, middle = scan(cell, inputs[:, :2])
    outputs, _ = scan(cell, inputs[:, 2:], state.detach(middle))
    outputs.sum().backward()
    assert (inputs.grad[:, :2] == 0).all() and (inputs.grad[:, 2:] != 0).any()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name, reverse):
    cell, inputs = make(name), torch.randn(1, 3, 3)
    alone, last = scan(cell, inputs, reverse=reverse)
    padded = torch.cat([inputs, torch.full((1, 2, 3), 1e3)], 1)
    outputs, after = scan(cell, padded, mask=lengths_mask([3], 5), reverse=reverse)
    torch.testing.assert_close(outputs[:, :3], alone)
    torch.testing.assert_close(after, last)
    carried = torch.zeros(4) if reverse else last[0][0]
    torch.testing.assert_close(outputs[0, 3:], carried.expand(2, 4))


@pytest.mark.parametrize("name", NAMES)
def test_holes_in_a_mask_carry_the_state(name):
    cell, inputs = make(name), torch.randn(1, 4, 3)
    mask = torch.tensor([[True, False, True, False]])
    outputs, last = scan(cell, inputs, mask=mask)
    expected, end = scan(cell, inputs[:, [0, 2]])
    torch.testing.assert_close(outputs[:, [0, 2]], expected)
    torch.testing.assert_close(outputs[:, [1, 3]], expected)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("name", NAMES)
def test_stack_steps_as_it_scans(name):
    stack = Stack(CELLS[name], 3, 4, layers=2)
    inputs = torch.randn(2, 5, 3)
    whole, end = stack(inputs)
    carried = stack.begin(2)
    for t in range(5):
        output, carried = stack.step(inputs[:, t], carried)
        torch.testing.assert_close(output, whole[:, t])
    for got, want in zip(carried[1][0], end[1][0], strict=True):
        torch.testing.assert_close(got, want)


def test_bidirectional_stack_equals_torchs():
    stack = Stack(CELLS["lstm"], 3, 4, layers=2, bidirectional=True)
    module = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    weights = [weight for layer in stack.layers for cell in layer for weight in cell.torch_weights()]
    for parameter, value in zip(module.parameters(), weights, strict=True):
        parameter.data.copy_(value)
    inputs, lengths = torch.randn(3, 6, 3), [6, 2, 4]
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(lengths), True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    mask = lengths_mask(lengths, 6)
    outputs, _ = stack(inputs, mask=mask)
    torch.testing.assert_close(outputs[mask], expected[mask])


def test_dropout_between_layers_only_while_training():
    stack = Stack(CELLS["gru"], 3, 8, layers=2, dropout=0.5)
    inputs = torch.randn(2, 5, 3)
    assert not torch.equal(stack(inputs)[0], stack(inputs)[0])
    stack.eval()
    assert torch.equal(stack(inputs)[0], stack(inputs)[0])


def test_first_values_help_memory():
    lstm = CELLS["lstm"](3, 4)
    assert (lstm.bias.chunk(4)[1] == 1).all()
    for block in CELLS["gru"](3, 4).weight_hidden.chunk(3):
        torch.testing.assert_close(block @ block.T, torch.eye(4))


def test_no_steps_leave_the_state_as_it_was():
    cell = make("lstm")
    carried = (torch.randn(2, 4), torch.randn(2, 4))
    outputs, last = scan(cell, torch.zeros(2, 0, 3), carried)
    assert outputs.shape == (2, 0, 4)
    torch.testing.assert_close(last, carried)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 5, 9),), r"expected \(batch, time, 3\)"),
        ((torch.zeros(2, 5, 3), (torch.zeros(2, 5),)), r"expected \(batch, hidden\) = \(2, 4\)"),
        ((torch.zeros(2, 5, 3), None, torch.ones(2, 4, dtype=torch.bool)), "the mask is"),
        ((torch.zeros(2, 5, 3), None, torch.ones(2, 5)), "torch.bool"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        scan(make("rnn"), *arguments)


def test_fused_refuses_what_it_cannot_do():
    mask = torch.tensor([[True, False, True]])
    with pytest.raises(ValueError, match="'bptt' or 'autograd'"):
        scan(make("gru"), torch.zeros(1, 3, 3), mask=mask, engine="fused")


def test_a_bidirectional_stack_has_no_step():
    stack = Stack(CELLS["rnn"], 3, 4, bidirectional=True)
    with pytest.raises(ValueError, match="both ends"):
        stack.step(torch.zeros(1, 3), stack.begin(1))
