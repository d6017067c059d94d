"""Answers by their words in compiled code, against torch and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from unrolled import native
from unrolled.models.vqa import AnswerVectors
from unrolled.native import build

ANSWERS = torch.tensor([[5, -1, -1], [6, 7, 6], [7, 1, -1]])
TEXTS = torch.tensor([[[5, 6], [8, -1], [-1, 7]], [[-1, -1], [1, 1], [9, 5]]])
"""Of words that answers have, that none has, and of none at all."""


@pytest.fixture(params=[4, 40])
def head(request):
    torch.manual_seed(0)
    head = AnswerVectors(request.param, 10, ANSWERS)
    if native.bags(head.words, ANSWERS, head.known) is None:
        pytest.skip("no C compiler")
    return head


def found(head, hidden, into):
    """What a head makes of rows, and the derivatives."""
    rows = hidden.clone().requires_grad_()
    made = head.logits(rows), head.candidate_and_text_logits(rows, torch.tensor([[2], [1]]), TEXTS)
    possible = [torch.where(each.isfinite(), each, 0.0) for each in made]
    return [*made, *torch.autograd.grad(possible, [rows, head.words], into)]


@pytest.mark.parametrize("threads", [1, 3])
def test_answers_are_scored_as_torch_does_it(head, threads, monkeypatch):
    hidden, into = torch.randn(2, head.words.shape[1]), (torch.randn(2, 3), torch.randn(2, 4))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    fast = found(head, hidden, into)
    torch.set_num_threads(before)
    monkeypatch.setattr(build, "load", lambda: None)
    torch.testing.assert_close(fast, found(head, hidden, into), rtol=1e-5, atol=1e-6)
    exact = found(head.double(), hidden.double(), [each.double() for each in into])
    torch.testing.assert_close(fast, exact, rtol=1e-5, atol=1e-6, check_dtype=False)
    assert fast[1][0, 2] == fast[1][1, 1] == -math.inf


def test_no_texts_have_no_scores(head):
    rows = torch.randn(2, head.words.shape[1])
    assert head.text_logits(rows, TEXTS[:, :0]).shape == (2, 0)
    assert (head.text_logits(rows, TEXTS[..., :0]) == -math.inf).all()
