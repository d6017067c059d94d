"""Tests of hard attention: its samples, its gradient against the enumeration of all positions, its arg-max."""

from __future__ import annotations

import itertools

import pytest
import torch

from unrolled.config.captioning import CaptioningConfig, CaptioningModel
from unrolled.models import Attention, EncoderOutput, Penalties, build_captioner
from unrolled.models.attention import AttentionSamples, SampledAttention

CHANNELS, POSITIONS, WORDS, MANY = 5, 3, 7, 4000
pytestmark = pytest.mark.float64


def captioner(penalties=None, cell="lstm", **attention):
    decoder = {"cell": cell, "hidden": 6, "embedding": 4, "dropout": 0.0, "attention": {"hard": True} | attention}
    config = CaptioningModel.model_validate({"encoder": {"size": 6}, "decoder": decoder})
    return build_captioner(config, CHANNELS, POSITIONS, WORDS, penalties or Penalties(reinforcement=1.0))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


class Fixed:
    """Attention to given positions, one per step, that records their probability."""

    def __init__(self, attention, positions):
        self.attention, self.positions, self.p = attention, list(positions), 1

    def __call__(self, queries, memory):
        weights = self.attention.attention_weights(queries, memory)
        position = self.positions.pop(0)
        self.p = self.p * weights[..., position]
        return memory.states[:, None, position], weights


def likelihood(model, memory, before, after, attend):
    window = model.decoder._step_loop(
        model.decoder._embed(before), memory, model.start(memory), torch.ones(1, before.shape[1], 4), attend
    )
    return model.head.log_probabilities(window.outputs).gather(2, after[..., None]).sum()


def of_attention(gradients):
    """Returns the gradients of attention's parameters, except a bias shared by all positions."""
    return torch.cat([value.flatten() for name, value in gradients.items() if ".attention." in name])


@pytest.mark.parametrize("score", ["general", "additive"])
def test_the_mean_estimate_is_the_gradient_of_the_expected_likelihood(score):
    model = captioner(score=score)
    with torch.no_grad():  # large weights, so that the positions differ
        for parameter in model.parameters():
            parameter.mul_(2)
    picture, before, after = torch.rand(1, POSITIONS, CHANNELS), torch.tensor([[1, 4]]), torch.tensor([[4, 2]])
    memory, attention = model.encode(picture), model.decoder.attention
    mean = likelihood(model, memory, before, after, lambda *given: Attention.forward(attention, *given))
    drawn = 0
    for positions in itertools.product(range(POSITIONS), repeat=2):
        fixed = Fixed(attention, positions)
        drawn = drawn + likelihood(model, memory, before, after, fixed) * fixed.p.sum()
    exact = gradients(model, -(mean + drawn) / 2)

    def estimate():
        many, mask = torch.zeros(MANY, dtype=torch.long), torch.ones(MANY, 2, dtype=torch.bool)
        memory = model.encode(picture).select(many)
        return gradients(model, model.loss(memory, before[many], after[many], mask) / MANY)

    found = estimate()
    for name, expected in exact.items():
        assert float((found[name] - expected).norm()) < 0.1 * float(expected.norm()) + 1e-3, name
    assert float((of_attention(found) - of_attention(exact)).norm()) < 0.1 * float(of_attention(exact).norm())
    model.penalties = Penalties(reinforcement=0.0)
    assert float((of_attention(estimate()) - of_attention(exact)).norm()) > 0.3 * float(of_attention(exact).norm())


def test_the_loss_of_choices_is_its_formula():
    logs, entropies, mask = torch.randn(3, 4), torch.rand(3, 4), torch.arange(4) < torch.tensor([[4], [2], [3]])
    likelihoods = -torch.rand(3, 4) * mask
    expected = 0.0
    for i, t in mask.nonzero().tolist():
        others = sum(likelihoods[j, t:].sum() for j in range(3) if j != i) / 2
        expected -= 0.5 * (likelihoods[i, t:].sum() - others) * logs[i, t] + 0.1 * entropies[i, t]
    torch.testing.assert_close(AttentionSamples(logs, entropies).loss(likelihoods, mask, 0.5, 0.1), expected)


def test_what_is_drawn_is_remembered():
    attention = captioner().decoder.attention
    states = torch.eye(POSITIONS, 6)[None].expand(MANY, -1, -1)
    memory = EncoderOutput(
        states, torch.ones(MANY, POSITIONS, dtype=torch.bool), states.mean(1), attention.keys(states)
    )
    draws = SampledAttention(attention, MANY, torch.device("cpu"))
    contexts, weights = draws(torch.ones(MANY, 1, 6), memory)
    logs, entropies = draws.samples()
    seen, weights = contexts[:, 0, :POSITIONS], weights[:, 0]
    drawn = logs[:, 0] != 0
    assert 0.45 < float(drawn.double().mean()) < 0.55
    torch.testing.assert_close(seen[~drawn], weights[~drawn])
    assert (seen[drawn].amax(1) == 1).all() and (seen[drawn].sum(1) == 1).all()
    torch.testing.assert_close(logs[drawn, 0], (seen * weights).sum(1)[drawn].log())
    torch.testing.assert_close(entropies[:, 0], torch.distributions.Categorical(weights).entropy())
    torch.testing.assert_close(seen[drawn].mean(0), weights[0], rtol=0, atol=0.05)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_in_the_end_it_looks_at_the_likeliest_place(cell):
    model = captioner(cell=cell).eval()
    memory, tokens = model.encode(torch.rand(3, POSITIONS, CHANNELS)), torch.randint(0, WORDS, (3, 5))
    window = model.decoder.window(memory, tokens, model.start(memory))
    assert window.samples is None
    assert sorted(set(window.weights.flatten().tolist())) == [0, 1] and (window.weights.sum(-1) == 1).all()
    state = model.start(memory)
    for t in range(5):
        soft = model.decoder.attention.attention_weights(state[0][-1][0][0][:, None], memory)[:, 0]
        output, state, weights = model.step_outputs(tokens[:, t], state, memory)
        torch.testing.assert_close(output, window.outputs[:, t])
        assert torch.equal(weights.argmax(1), soft.argmax(1))


def test_a_model_learns_where_to_look():
    """One position, which is marked, contains the word to write; the others contain wrong ones."""
    torch.manual_seed(1)
    model = captioner(Penalties(reinforcement=1.0))
    optimizer = torch.optim.Adam(model.parameters(), 0.04)
    before, mask = torch.ones(64, 1, dtype=torch.long), torch.ones(64, 1, dtype=torch.bool)

    def batch():
        words, position = torch.randint(4, WORDS, (64, POSITIONS)), torch.randint(0, POSITIONS, (64,))
        grids = torch.nn.functional.one_hot(words - 4, CHANNELS - 1).double()
        marks = torch.nn.functional.one_hot(position, POSITIONS).double()
        grids = torch.cat([grids, marks[..., None]], 2)
        return grids, words.gather(1, position[:, None]), position

    for _ in range(150):
        grids, after, _ = batch()
        optimizer.zero_grad()
        (model.loss(model.encode(grids), before, after, mask) / 64).backward()
        optimizer.step()
    model.eval()
    grids, after, position = batch()
    memory = model.encode(grids)
    window = model.decoder.window(memory, before, model.start(memory))
    assert (window.weights[:, 0].argmax(1) == position).double().mean() > 0.95
    assert model.loss(memory, before, after, mask).item() / 64 < 0.4


def test_what_does_not_go_with_it_is_refused():
    def config(attention, training):
        decoder = {"attention": {"hard": True} | attention}
        values = {"task": "captioning", "name": "x", "data": {"source": "scenes"}, "training": training}
        return CaptioningConfig.model_validate(values | {"model": {"decoder": decoder}})

    assert config({}, {}).model.decoder.attention.hard
    with pytest.raises(ValueError, match="fed true alone"):
        config({"fed": False}, {})
    with pytest.raises(ValueError, match="truncate must be null"):
        config({}, {"truncate": 5})
