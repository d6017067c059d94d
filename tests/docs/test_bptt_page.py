"""The page that derives BPTT: its blocks run, its functions are the package's, and they agree with every engine."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from repository import ROOT
from unrolled.recurrence import RNN, Engine, scan, state, textbook_bptt

PAGE = (ROOT / "docs" / "bptt.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ENGINES = [name for name in typing.get_args(Engine) if name != "auto"]
EXACT = {"rtol": 1e-10, "atol": 1e-12}
pytestmark = pytest.mark.float64


def test_the_page_runs_and_prints_what_it_shows():
    names: dict[str, object] = {"__name__": "page"}
    shown = [text for kind, text in BLOCKS if kind == "text"]
    printed = []
    for kind, text in BLOCKS:
        if kind == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, "docs/bptt.md", "exec"), names)
            printed += [output.getvalue()] * bool(output.getvalue())
    assert printed == shown and len(shown) >= 5


def test_the_page_shows_the_whole_module():
    own = [
        value for value in vars(textbook_bptt).values() if getattr(value, "__module__", "") == textbook_bptt.__name__
    ]
    missing = [value.__name__ for value in own if not any(inspect.getsource(value) in text for _, text in BLOCKS)]
    assert len(own) == 6 and missing == []


def example(seed: int, steps: int, sequences: int = 2):
    """Parameters, inputs, first states and classes of a few random sequences."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    p = textbook_bptt.Parameters(U=draw(4, 3), W=draw(4, 4), b=draw(4), V=draw(5, 4), c=draw(5))
    classes = torch.randint(5, (sequences, steps), generator=generator)
    return p, draw(sequences, steps, 3), draw(sequences, 4), classes


def by_formula(p, x, h_0, y, window=None):
    """Loss and gradients of all sequences, one by one from the formulas."""
    total, sums = torch.zeros(()), [torch.zeros_like(value) for value in p]
    for row in range(len(x)):
        h, y_hat = textbook_bptt.forward(p, x[row], h_0[row])
        grad_o = textbook_bptt.output_gradients(y_hat, y[row])
        gradients = textbook_bptt.parameter_gradients(
            x[row], h, grad_o, textbook_bptt.state_gradients(p, h, grad_o, window)
        )
        total = total + textbook_bptt.cross_entropy(y_hat, y[row])
        sums = [before + value for before, value in zip(sums, gradients, strict=True)]
    return [total, *sums]


def by_scan(p, x, h_0, y, engine, window=None):
    """The same from `scan` and torch's differentiation of the output layer."""
    cell = RNN(3, 4)
    cell.load_state_dict({"weight_input": p.U, "weight_hidden": p.W, "bias": p.b})
    v, c = p.V.clone().requires_grad_(), p.c.clone().requires_grad_()
    carried, total = (h_0,), torch.zeros(())
    for x_k, y_k in zip(x.split(window or x.shape[1], 1), y.split(window or x.shape[1], 1), strict=True):
        outputs, carried = scan(cell, x_k, state.detach(carried), engine=engine)
        scores = (outputs @ v.T + c).flatten(0, 1)
        total = total + functional.cross_entropy(scores, y_k.flatten(), reduction="sum")
    total.backward()
    return [total.detach(), cell.weight_input.grad, cell.weight_hidden.grad, cell.bias.grad, v.grad, c.grad]


def check(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), steps=st.integers(1, 9), window=st.none() | st.integers(1, 9))
def test_formulas_equal_every_engine(engine, seed, steps, window):
    values = example(seed, steps)
    check(by_formula(*values, window), by_scan(*values, engine, window))


def test_formulas_equal_autograd_of_their_own_forward():
    p, x, h_0, y = example(3, 6, sequences=1)
    leaves = textbook_bptt.Parameters(*(value.clone().requires_grad_() for value in p))
    loss = textbook_bptt.cross_entropy(textbook_bptt.forward(leaves, x[0], h_0[0])[1], y[0])
    loss.backward()
    check(by_formula(p, x, h_0, y), [loss.detach(), *(leaf.grad for leaf in leaves)])


def test_a_window_of_the_whole_length_is_full_bptt():
    p, x, h_0, y = example(5, 6)
    check(by_formula(p, x, h_0, y, window=6), by_formula(p, x, h_0, y))
    assert not torch.allclose(by_formula(p, x, h_0, y, window=5)[2], by_formula(p, x, h_0, y)[2])
