"""Tests of input feeding: hand-written backward against autograd of the same steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradient_check import gradcheck
from unrolled.models import Attention, Decoder, EncoderOutput
from unrolled.recurrence import CELLS, Dropout, Stack

HIDDEN, EMBEDDING, OUTPUT = 6, 4, 3
TOKENS = torch.tensor([[1, 5, 2, 8, 3], [4, 4, 7, 0, 1], [6, 2, 8, 3, 5]])
SEEN = torch.arange(7) < torch.tensor([7, 3, 5])[:, None]


def decoder(engine="auto", cell="lstm", score="general", layers=1, **options):
    torch.manual_seed(3)
    stack = Stack(CELLS[cell], EMBEDDING + OUTPUT, HIDDEN, layers=layers, engine=engine, **options)
    attention = Attention(score, HIDDEN, HIDDEN)
    embedding = nn.Embedding(9, EMBEDDING)
    made = Decoder(embedding, stack, HIDDEN, OUTPUT, attention, input_feeding=True, dropout=Dropout(0.3))
    return made.double()


def memory():
    torch.manual_seed(4)
    states, summary = (torch.randn(*shape, dtype=torch.double) for shape in ((3, 7, HIDDEN), (3, HIDDEN)))
    return EncoderOutput(states.requires_grad_(), SEEN, summary.requires_grad_())


def outputs_and_gradients(model, given, windows=(5,), *, bf16=False):
    """In windows of so many steps; the loss sees the outputs, what is fed on and the last state."""
    torch.manual_seed(5)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        seen, outputs = model.prepare(given), []
        state = model.start(seen)
        for window in torch.split(TOKENS, list(windows), dim=1):
            output, state = model(seen, window, state)
            outputs.append(output)
    whole = torch.cat(outputs, dim=1)
    (layers, fed), weights = state, torch.linspace(-1, 1, whole.numel(), dtype=whole.dtype)
    loss = (whole.flatten() * weights).sum() + fed.square().sum()
    loss = loss + sum(tensor.sin().sum() for (tensors,) in layers for tensor in tensors)
    wanted = [given.states, given.summary, *model.parameters()]
    return whole.detach(), torch.autograd.grad(loss, wanted, allow_unused=True)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("score", ["dot", "general", "additive"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_by_hand_are_those_of_autograd(cell, score, layers):
    got, gradients = outputs_and_gradients(decoder("auto", cell, score, layers), memory())
    want, expected = outputs_and_gradients(decoder("autograd", cell, score, layers), memory())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("score", ["general", "additive"])
def test_windows_that_carry_the_state_are_one_window(score):
    model = decoder(score=score).eval()
    whole = outputs_and_gradients(model, memory())
    parts = outputs_and_gradients(model, memory(), windows=(2, 1, 2))
    for one, other in zip([whole[0], *whole[1]], [parts[0], *parts[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_between_layers_has_the_right_derivative(variational):
    model = decoder(layers=3, dropout=0.4, variational=variational)
    given = memory()

    def loss(states):
        torch.manual_seed(5)
        seen = model.prepare(EncoderOutput(states, given.mask, given.summary.detach()))
        return model(seen, TOKENS, model.start(seen))[0]

    assert gradcheck(loss, given.states)


def test_variational_dropout_drops_the_same_outputs_at_every_step():
    model = decoder()
    model.dropout = model.output_dropout = Dropout(0.5, variational=True)
    seen = model.prepare(memory())
    dropped = model(seen, TOKENS, model.start(seen))[0] == 0
    assert dropped.any() and (dropped == dropped[:, :1]).all()


@pytest.mark.parametrize("option", [{"zoneout": 0.3}, {"layer_norm": True}, {"residual": True}])
def test_what_the_loop_by_hand_does_not_know_still_learns(option):
    options = dict(option, layers=2, cell="gru")
    _, gradients = outputs_and_gradients(decoder(**options), memory())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("score", ["general", "additive"])
def test_products_in_bfloat16_give_nearly_the_same(score):
    exact, gradients = outputs_and_gradients(decoder(score=score).eval(), memory())
    states, summary = (tensor.detach().float().requires_grad_() for tensor in (memory().states, memory().summary))
    got, rounded = outputs_and_gradients(
        decoder(score=score).eval().float(), EncoderOutput(states, SEEN, summary), bf16=True
    )
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=0.02)
    for one, other in zip(rounded, gradients, strict=True):
        assert (one - other).norm() <= 0.03 * other.norm() + 1e-6


def test_its_graph_goes_back_once():
    model = decoder()
    seen = model.prepare(memory())
    outputs, _ = model(seen, TOKENS, model.start(seen))
    outputs.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        outputs.sum().backward()
