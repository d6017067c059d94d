"""Tests of translation models: attention against its formula, decoder step against window, the loss against torch's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from unrolled.config.translation import TranslationModel
from unrolled.models import Attention, EncoderOutput, Rows, VocabularyHead, build_translator

pytestmark = pytest.mark.float64


def model_config(**decoder):
    encoder = {"hidden": 5, "embedding": 6, "cell": "gru", "dropout": 0.0}
    return TranslationModel.model_validate(
        {"encoder": encoder, "decoder": {"hidden": 10, "embedding": 6, "dropout": 0.0, **decoder}}
    )


def source():
    tokens = torch.tensor([[4, 5, 6, 7], [8, 9, 0, 0], [5, 0, 0, 0]])
    return tokens, tokens > 0


VARIANTS = [
    {"conditioning": "state"},
    *(
        {"conditioning": "attention", "attention": {"score": score, "input_feeding": feeding}}
        for score, feeding in itertools.product(["dot", "general", "additive"], [False, True])
    ),
]


@pytest.mark.parametrize("score", ["dot", "general", "additive"])
def test_attention_is_its_formula(score):
    attention = Attention(score, 4, 4)
    states, queries = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    memory = EncoderOutput(states, mask, states[:, 0], attention.keys(states))
    contexts, weights = attention(queries, memory)
    for b, t in itertools.product(range(2), range(5)):
        scores = []
        for p in range(int(mask[b].sum())):
            q, s = queries[b, t], states[b, p]
            if score == "dot":
                scores.append(q @ s / math.sqrt(4))
            elif score == "general":
                scores.append(q @ (attention.key.weight @ s) / math.sqrt(4))
            else:
                scores.append(attention.weight @ torch.tanh(attention.query(q) + attention.key.weight @ s))
        expected = torch.stack(scores).softmax(0)
        torch.testing.assert_close(weights[b, t, : len(expected)], expected)
        assert (weights[b, t, len(expected) :] == 0).all()
        torch.testing.assert_close(contexts[b, t], expected @ states[b, : len(expected)])


def test_dot_wants_equal_sizes():
    with pytest.raises(ValueError, match="equal sizes"):
        Attention("dot", 4, 6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_step_equals_window(variant, cell, layers):
    model = build_translator(model_config(cell=cell, layers=layers, **variant), 12, 12)
    memory = model.encode(*source())
    tokens = torch.randint(0, 12, (3, 5))
    outputs, _ = model.decoder(memory, tokens, model.start(memory))
    expected = model.head.logits(outputs)
    carried = model.start(memory)
    for t in range(5):
        logits, carried = model.step(tokens[:, t], carried, memory)
        torch.testing.assert_close(logits, expected[:, t])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_windows_continue_each_other(variant):
    model = build_translator(model_config(**variant), 12, 12)
    memory, tokens = model.encode(*source()), torch.randint(0, 12, (3, 6))
    whole, _ = model.decoder(memory, tokens, model.start(memory))
    first, state = model.decoder(memory, tokens[:, :2], model.start(memory))
    second, _ = model.decoder(memory, tokens[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_hypotheses_share_their_memory(variant):
    model = build_translator(model_config(**variant), 12, 12)
    memory = model.encode(*source())
    rows = torch.arange(3).repeat_interleave(2)
    tokens = torch.randint(0, 12, (6,))
    from unrolled.recurrence import state

    shared, _ = model.step(tokens, state.select(model.start(memory), rows), memory)
    copied = memory.select(rows)
    separate, _ = model.step(tokens, model.start(copied), copied)
    torch.testing.assert_close(shared, separate)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_examples_may_have_uneven_rows(variant):
    model = build_translator(model_config(**variant), 12, 12)
    memory = model.encode(*source())
    source_index = torch.tensor([0, 0, 0, 1, 2, 2])
    tokens, copied = torch.randint(0, 12, (6,)), memory.select(source_index)
    shared, after = model.step(
        tokens, model.start(copied), memory, Rows.from_counts(source_index, torch.tensor([3, 1, 2]))
    )
    separate, wanted = model.step(tokens, model.start(copied), copied)
    torch.testing.assert_close(shared, separate)
    torch.testing.assert_close(after, wanted)
    if model.attends:
        _, _, weights = model.step_with_attention(
            tokens, model.start(copied), memory, Rows.from_counts(source_index, torch.tensor([3, 1, 2]))
        )
        torch.testing.assert_close(weights, model.step_with_attention(tokens, model.start(copied), copied)[2])
        torch.testing.assert_close(weights.sum(1), torch.ones(6))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_padding_of_the_input_changes_nothing(variant):
    model = build_translator(model_config(**variant), 12, 12)
    tokens, mask = source()
    before = torch.randint(0, 12, (3, 4))
    together, _ = model.decoder(memory := model.encode(tokens, mask), before, model.start(memory))
    alone = model.encode(tokens[1:2, :2], mask[1:2, :2])
    expected, _ = model.decoder(alone, before[1:2], model.start(alone))
    torch.testing.assert_close(together[1:2], expected)


@pytest.mark.parametrize("rows", [0, 1, 7, 1024, 2500])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunked_loss_equals_torchs(rows, smoothing):
    head = VocabularyHead(6, 11)
    hidden, targets = torch.randn(rows, 6, requires_grad=True), torch.randint(0, 11, (rows,))
    logits = functional.linear(hidden, head.weight, head.bias)
    expected = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    inputs = (hidden, head.weight, head.bias)
    want = torch.autograd.grad(3 * expected, inputs)
    loss = head.loss(hidden, targets, smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), want)


def test_loss_without_gradients():
    head = VocabularyHead(6, 11)
    hidden, targets = torch.randn(4, 6), torch.randint(0, 11, (4,))
    with torch.inference_mode():
        loss = head.loss(hidden, targets)
    torch.testing.assert_close(loss, -head.log_probabilities(hidden).gather(1, targets[:, None]).sum())


def test_tied_matrices_are_one():
    model = build_translator(model_config(tie=True), 12, 12)
    assert model.head.weight is model.decoder.embedding.weight
    model = build_translator(model_config(tie=False), 12, 12)
    assert model.head.weight is not model.decoder.embedding.weight
    tied = model_config().model_copy(update={"tie_embeddings": True})
    model = build_translator(tied, 12, 12)
    assert model.encoder.embedding is model.decoder.embedding


def test_input_feeding_makes_a_difference():
    torch.manual_seed(3)
    variant = {"attention": {"score": "general", "input_feeding": True}}
    model = build_translator(model_config(**variant), 12, 12)
    memory = model.encode(*source())
    stack, fed = model.start(memory)
    tokens = torch.tensor([1, 1, 1])
    one, _ = model.step(tokens, (stack, fed), memory)
    other, _ = model.step(tokens, (stack, fed + 1), memory)
    assert not torch.allclose(one, other)
