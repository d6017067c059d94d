"""Tests of compiled attention of one query per row, against torch and its derivatives."""

from __future__ import annotations

import pytest
import torch

from unrolled import native
from unrolled.models import EncoderOutput
from unrolled.models.attention import Attention, attend_shared

BATCH, POSITIONS = 3, 7
PADDING = torch.arange(POSITIONS) >= torch.tensor([[7], [4], [1]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[5, 32, 130])
def memory(request):
    memory = drawn(BATCH, POSITIONS, request.param)
    if not native.attention_supported(memory):
        pytest.skip("no C compiler")
    return memory.requires_grad_()


def test_scores_and_their_derivative(memory):
    query, vector = (drawn(*shape, memory.shape[-1], seed=1).requires_grad_() for shape in ((BATCH,), ()))
    want, errors = torch.tanh(query[:, None] + memory) @ vector, drawn(BATCH, POSITIONS, seed=2)
    given = [native.exp_2x(query.detach()), native.exp_2x(memory.detach()), vector.detach()]
    torch.testing.assert_close(native.additive_scores(*given), want)

    of_query, of_keys, of_vector = torch.autograd.grad(want, (query, memory, vector), errors)
    torch.testing.assert_close(native.additive_backward_query(*given, errors), of_query)
    steps = torch.stack([given[0], given[0]]), *given[1:], torch.stack([errors, 2 * errors])
    torch.testing.assert_close(native.additive_backward_keys(*steps), (3 * of_keys, 3 * of_vector))
    torch.testing.assert_close(native.additive_backward(*given, errors), (of_query, of_keys, of_vector))


@pytest.mark.parametrize("value", [-1e4, -60.0, -20.0, 20.0, 60.0, 1e4, float("nan")])
def test_scores_of_large_sums_are_those_of_saturation(value):
    query, keys = torch.tensor([[value, 0.3]]), torch.tensor([[[0.4, value], [10.0, -5.0]]])
    if not native.attention_supported(keys):
        pytest.skip("no C compiler")
    want = torch.tanh(query[:, None] + keys).sum(-1)
    got = native.additive_scores(native.exp_2x(query), native.exp_2x(keys), torch.ones(2))
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_contexts_and_their_derivative(memory, threads):
    scores = (5 * drawn(BATCH, POSITIONS, seed=3)).requires_grad_()
    weights = scores.masked_fill(PADDING, float("-inf")).softmax(-1)
    contexts = (weights[:, None] @ memory)[:, 0]
    grad, more = drawn(*contexts.shape, seed=4), drawn(BATCH, POSITIONS, seed=5)
    (want,) = torch.autograd.grad([contexts, weights], scores, [grad, more])

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    got, errors = scores.detach().clone(), more.clone()
    seen = native.attention_forward(PADDING, memory.detach(), got)
    native.attention_backward_scores(PADDING, memory.detach(), got, grad, errors)
    steps = torch.stack([got, 2 * got]), torch.stack([grad, grad])
    torch.testing.assert_close(
        native.attention_backward_states(PADDING, memory.detach(), *steps), 3 * got[..., None] * grad[:, None]
    )
    torch.set_num_threads(before)
    torch.testing.assert_close((seen, got, errors), (contexts, weights, want))
    assert (got[PADDING] == 0).all() and (errors[PADDING] == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("score", ["additive", "general"])
def test_rows_that_share_a_memory_attend_as_to_copies_of_it(memory, score, threads):
    torch.manual_seed(0)
    attention, source_index = Attention(score, 6, memory.shape[2]), torch.tensor([2, 0, 2, 2, 0])
    queries, grad = drawn(5, 6, seed=1).requires_grad_(), (drawn(5, memory.shape[2]), drawn(5, POSITIONS, seed=2))
    given = [queries, memory, *attention.parameters()]

    prepared = EncoderOutput(memory, ~PADDING, memory.mean(1), attention.key(memory))
    contexts, weights = attention(queries[:, None], prepared.select(source_index))
    want = contexts[:, 0], weights[:, 0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    got = attend_shared(attention, queries, EncoderOutput(memory, ~PADDING, memory.mean(1)), source_index)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, given, grad), torch.autograd.grad(want, given, grad))
    torch.set_num_threads(before)
