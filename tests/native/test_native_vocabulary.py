"""Tests of compiled cross-entropy, largest entries, sampling and dropout."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled import native
from unrolled.models import VocabularyHead
from unrolled.native import build
from unrolled.recurrence import Dropout

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20), columns=st.integers(2, 70), smoothing=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 99)
)
def test_the_loss_and_its_gradient_are_those_of_torch(rows, columns, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, bias = (torch.randn(*shape, generator=generator) * 4 for shape in ((rows, columns), (columns,)))
    targets = torch.randint(columns, (rows,), generator=generator)
    exact = (logits.double() + bias.double()).requires_grad_()
    want = torch.nn.functional.cross_entropy(exact, targets, reduction="none", label_smoothing=smoothing)
    want.sum().backward()
    losses, grad_bias = native.cross_entropy(logits, bias, targets, smoothing)
    torch.testing.assert_close(losses.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.double(), exact.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad_bias.double(), exact.grad.sum(0), rtol=1e-4, atol=1e-5)


def test_narrow_logits_keep_their_type_and_are_summed_in_float32():
    torch.manual_seed(0)
    logits, bias, targets = torch.randn(300, 1000).bfloat16(), torch.randn(1000), torch.randint(1000, (300,))
    want = (logits.float() + bias).log_softmax(1)
    losses, _ = native.cross_entropy(given := logits.clone(), bias, targets, 0.0)
    torch.testing.assert_close(losses, -want.gather(1, targets[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    expected = want.exp() - torch.nn.functional.one_hot(targets, 1000)
    torch.testing.assert_close(given.float(), expected, rtol=8e-3, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_shows_in_the_loss(value):
    logits = torch.zeros(2, 40)
    logits[1, 7] = value
    losses, _ = native.cross_entropy(logits, torch.zeros(40), torch.tensor([0, 0]), 0.0)
    assert losses[0].isfinite() and not losses[1].isfinite()


def test_the_head_gives_the_same_with_and_without(monkeypatch):
    torch.manual_seed(0)
    head, hidden, targets = VocabularyHead(8, 50), torch.randn(2500, 8), torch.randint(50, (2500,))  # three chunks
    found = []
    for _ in range(2):
        head.zero_grad()
        read = hidden.clone().requires_grad_()
        loss = head.loss(read, targets, 0.1) / 2500
        loss.backward()
        found.append([loss.detach(), read.grad, head.weight.grad, head.bias.grad])
        monkeypatch.setattr(build, "load", lambda: None)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_second_backward_pass_is_refused_while_training():
    head = VocabularyHead(4, 9)
    loss = head.eval().loss(torch.randn(3, 4), torch.tensor([1, 2, 3]))
    loss.backward(retain_graph=True)
    loss.backward()
    loss = head.train().loss(torch.randn(3, 4), torch.tensor([1, 2, 3]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_dropout_drops_its_share_anywhere_and_scales_the_rest(share, kind):
    torch.manual_seed(0)
    values = torch.ones(400, 1000, dtype=kind, requires_grad=True)
    dropped = Dropout(share)(values)
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(1 - share, abs=5e-3)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - share)))
    spread = (share * (1 - share) / 400) ** 0.5
    for way in (0, 1):  # neither rows nor columns stand out
        assert float((kept.float().mean(way) - (1 - share)).abs().max()) < 6 * spread
    assert abs(float(torch.corrcoef(kept.float()[:2])[0, 1])) < 0.15
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach())


def test_dropout_follows_the_generator():
    drop, values, found = Dropout(0.5), torch.ones(64, 64), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append((drop(values), drop(values)))
    (first, second), (again, _), (other, _) = found
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(drop.eval()(values), values)
