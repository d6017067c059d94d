"""Tests of every conditioning of a captioning decoder: step against window, windows against the whole, its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unrolled.config.captioning import CaptioningModel
from unrolled.models import EncoderOutput, Penalties, Rows, attention_feeding, build_captioner
from unrolled.recurrence import CELLS
from unrolled.recurrence import state as nest

CHANNELS, POSITIONS, WORDS, HIDDEN = 5, 4, 12, 6
VARIANTS = {
    "first": {"conditioning": "first"},
    "once": {"conditioning": "once", "picture": 3},
    "every": {"conditioning": "every", "picture": 3},
    "factored": {"conditioning": "every", "picture": 3, "layers": 2, "layer": 2},
    "output": {"conditioning": "output"},
    "reconstruct": {"conditioning": "reconstruct", "picture": 3, "recall": 7},
    **{f"fed {score}": {"attention": {"score": score}} for score in ("dot", "general", "additive")},
    "fed ungated": {"attention": {"gated": False}},
    "attention": {"attention": {"fed": False}},
}
pytestmark = pytest.mark.float64


def captioner(variant, *, penalties=None, size=HIDDEN, **decoder):
    values = {"hidden": HIDDEN, "embedding": 4, "dropout": 0.0, **VARIANTS[variant], **decoder}
    config = CaptioningModel.model_validate({"encoder": {"size": size}, "decoder": values})
    return build_captioner(config, CHANNELS, POSITIONS, WORDS, penalties or Penalties())


def pictures(count=3):
    return torch.rand(count, POSITIONS, CHANNELS)


def captions(steps=5):
    return torch.randint(0, WORDS, (3, steps))


@pytest.mark.parametrize("lengths", [(5, 3, 4), (5, 4, 1), (5, 5, 2)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["fed additive", "fed general", "fed ungated"])
def test_captions_that_share_a_photograph_learn_as_from_copies(variant, kind, lengths, monkeypatch):
    monkeypatch.setattr(attention_feeding, "PIECE_COST", 0)
    model = captioner(variant, penalties=Penalties(doubly_stochastic=1.0), layers=2).to(kind)
    source_index, before, after = torch.tensor([1, 0, 1]), captions(), captions()
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    assert model.decoder.supports_shared_sources

    def gradients(memory, source_index, truncate):
        total = sum(model.window_losses(memory, before, after, mask, 0.1, truncate, source_index=source_index))
        return total, torch.autograd.grad(total, list(model.parameters()))

    shown = pictures(2).to(kind)
    for truncate in (5, 3):
        shared = gradients(model.encode(shown), source_index, truncate)
        torch.testing.assert_close(shared, gradients(model.encode(shown).select(source_index), None, truncate))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_equals_window(variant, cell, layers):
    layers = max(layers, VARIANTS[variant].get("layers", 1))
    model = captioner(variant, cell=cell, layers=layers)
    memory, tokens = model.encode(pictures()), captions()
    expected, after = model.decoder(memory, tokens, model.start(memory))
    state = model.start(memory)
    for t in range(tokens.shape[1]):
        output, state, _ = model.step_outputs(tokens[:, t], state, memory)
        torch.testing.assert_close(output, expected[:, t])
    torch.testing.assert_close(state, after)


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_continue_each_other(variant):
    model = captioner(variant)
    memory, tokens = model.encode(pictures()), captions(6)
    whole = model.decoder.window(memory, tokens, model.start(memory))
    first = model.decoder.window(memory, tokens[:, :2], model.start(memory))
    second = model.decoder.window(memory, tokens[:, 2:], first.state)
    for name in ("outputs", "weights", "visual_hidden"):
        if (expected := getattr(whole, name)) is not None:
            torch.testing.assert_close(torch.cat([getattr(first, name), getattr(second, name)], 1), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hypotheses_share_their_memory(variant):
    model = captioner(variant)
    memory, source_index = model.encode(pictures()), torch.tensor([0, 0, 0, 1, 2, 2])
    tokens, copied = torch.randint(0, WORDS, (6,)), memory.select(source_index)
    rows = Rows.from_counts(source_index, torch.tensor([3, 1, 2]))
    shared, after, looked = model.step_outputs(tokens, nest.select(model.start(memory), source_index), memory, rows)
    separate, wanted, weights = model.step_outputs(tokens, model.start(copied), copied)
    torch.testing.assert_close(shared, separate)
    torch.testing.assert_close(after, wanted)
    assert (weights is not None) == model.attends
    if model.attends:
        torch.testing.assert_close(looked, weights)
        torch.testing.assert_close(weights.sum(1), torch.ones(6))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_word_depends_on_the_picture(variant):
    model, tokens = captioner(variant), captions()
    one, other = (model.encode(pictures()) for _ in range(2))
    first, _ = model.decoder(one, tokens, model.start(one))
    second, _ = model.decoder(other, tokens, model.start(other))
    assert ((first - second).abs().amax(-1) > 1e-9).all()


def gradients(model, given, truncate):
    """Of the parameters and the pictures; in windows that carry the gradient through a leaf of the memory."""
    model.zero_grad()
    given = given.clone().requires_grad_()
    memory, tokens = model.encode(given), captions_fixed()
    leaf = memory.detach_leaf()
    mask = torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    for loss in model.window_losses(leaf, tokens[:, :-1], tokens[:, 1:], mask, 0.0, truncate):
        loss.backward()
    memory.backward_into_encoder(leaf).backward()
    return [parameter.grad for parameter in model.parameters()] + [given.grad]


def captions_fixed():
    return torch.randint(0, WORDS, (3, 7), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_leaf_of_a_memory_gathers_its_gradients(variant):
    model, given = captioner(variant, penalties=Penalties(1.0, 1.0)), pictures()
    through_leaf = gradients(model, given, 6)
    model.zero_grad()
    free = given.clone().requires_grad_()
    tokens, mask = captions_fixed(), torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    model.loss(model.encode(free), tokens[:, :-1], tokens[:, 1:], mask).backward()
    for one, other in zip(through_leaf, [*(p.grad for p in model.parameters()), free.grad], strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients(model, given, 2))


def test_frozen_features_without_a_map_need_no_gradient():
    model = captioner("every", size=None)
    memory = model.encode(pictures())
    leaf = memory.detach_leaf()
    assert not leaf.states.requires_grad and leaf.projected_summary.requires_grad
    tokens = captions_fixed()
    mask = torch.ones(3, 6, dtype=torch.bool)
    for loss in model.window_losses(leaf, tokens[:, :-1], tokens[:, 1:], mask, 0.0, 2):
        loss.backward()
    memory.backward_into_encoder(leaf).backward()
    assert model.decoder.summary_projection.linear.weight.grad.abs().sum() > 0


def test_show_and_tell_reads_the_picture_before_the_first_word():
    model = captioner("first", size=None)
    given = pictures()
    memory = model.encode(given)
    _, expected = model.decoder.stack(model.decoder.summary_projection.linear(given.mean(1))[:, None])
    torch.testing.assert_close(model.start(memory), (expected, None))


def test_karpathys_recurrence():
    """h_t = tanh(W_xh x_t + W_hh h_{t−1} + W_ih v + b), and of the other variant with W_ih v at the first word only."""
    for variant in ("every", "once"):
        model = captioner(variant, cell="rnn", size=None)
        ((cell,),) = model.decoder.stack.cells()
        of_word, of_picture = cell.weight_input[:, :4], cell.weight_input[:, 4:]
        given, tokens = pictures(), captions()
        memory = model.encode(given)
        v, h = model.decoder.summary_projection.linear(given.mean(1)), torch.zeros(3, HIDDEN)
        _, (state, _) = model.decoder(memory, tokens, model.start(memory))
        for t in range(tokens.shape[1]):
            seen = v if variant == "every" or t == 0 else torch.zeros_like(v)
            word = model.decoder.embedding(tokens[:, t])
            h = torch.tanh(word @ of_word.T + h @ cell.weight_hidden.T + seen @ of_picture.T + cell.bias)
        torch.testing.assert_close(state, (((h,),),))


def test_the_picture_never_enters_the_recurrence_of_m_rnn():
    model, tokens = captioner("output"), captions()
    one, other = (model.encode(pictures()) for _ in range(2))
    torch.testing.assert_close(*(model.decoder(m, tokens, model.start(m))[1] for m in (one, other)))
    window = model.decoder.window(one, tokens, model.start(one))
    hidden, _ = model.decoder.stack(words := model.decoder.embedding(tokens))
    joined = model.decoder.readout(torch.cat([hidden, words], -1)) + one.projected_summary[:, None]
    torch.testing.assert_close(window.outputs, torch.tanh(joined))


def test_the_visual_memory_sees_words_alone():
    model, tokens = captioner("reconstruct"), captions()
    one, other = (model.encode(pictures()) for _ in range(2))
    first, second = (model.decoder.window(m, tokens, model.start(m)) for m in (one, other))
    torch.testing.assert_close(first.visual_hidden, second.visual_hidden)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % WORDS
    third = model.decoder.window(one, changed, model.start(one))
    assert not torch.allclose(first.visual_hidden[:, -1], third.visual_hidden[:, -1])


def test_show_attend_tell_is_its_formula():
    model = captioner("fed additive")
    decoder, given, tokens = model.decoder, pictures(), captions()
    memory = model.encode(given)
    a = torch.relu(model.encoder.map(given))
    ((cell,),) = decoder.stack.cells()
    state = tuple(torch.tanh(bridge(a.mean(1))) for bridge in decoder.bridges[0])
    window = decoder.window(memory, tokens, decoder.start(memory))
    for t in range(tokens.shape[1]):
        h, attention = state[0], decoder.attention
        scores = torch.tanh(attention.query(h)[:, None] + attention.key(a)) @ attention.weight
        weights = scores.softmax(-1)
        z = torch.sigmoid(decoder.context_feeding.gate(h)) * (weights[:, :, None] * a).sum(1)
        word = decoder.embedding(tokens[:, t])
        state = cell.step(cell.project(torch.cat([word, z], -1)), state)
        output = torch.tanh(decoder.readout(torch.cat([state[0], z, word], -1)))
        torch.testing.assert_close(window.weights[:, t], weights)
        torch.testing.assert_close(window.outputs[:, t], output)


def test_doubly_stochastic_attention():
    """λ Σ_p (1 − Σ_t α_tp)², over the words that are no padding; windows ask for their share."""
    plain, asking = (captioner("fed additive", penalties=Penalties(weight)) for weight in (0.0, 0.3))
    asking.load_state_dict(plain.state_dict())
    given, tokens = pictures(), captions_fixed()
    mask = torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    memory = plain.encode(given)
    window = plain.decoder.window(memory, tokens[:, :-1], plain.start(memory))
    expected = sum(0.3 * ((1 - window.weights[b, : int(mask[b].sum())].sum(0)) ** 2).sum() for b in range(len(given)))
    losses = [model.loss(model.encode(given), tokens[:, :-1], tokens[:, 1:], mask) for model in (plain, asking)]
    torch.testing.assert_close(losses[1] - losses[0], expected)
    asking.eval()
    torch.testing.assert_close(asking.loss(memory, tokens[:, :-1], tokens[:, 1:], mask), losses[0])


def test_reconstruction_is_the_error_of_the_recalled_picture():
    plain, asking = (captioner("reconstruct", penalties=Penalties(0.0, weight)) for weight in (0.0, 0.5))
    asking.load_state_dict(plain.state_dict())
    given, tokens = pictures(), captions_fixed()
    mask = torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    memory = plain.encode(given)
    recalled = plain.decoder.visual.recall(
        plain.decoder.window(memory, tokens[:, :-1], plain.start(memory)).visual_hidden
    )
    wanted = memory.summary / memory.summary.square().mean(-1, keepdim=True).sqrt()
    expected = 0.5 * sum(((recalled[b, t] - wanted[b]) ** 2).mean() for b, t in mask.nonzero().tolist())
    losses = [model.loss(model.encode(given), tokens[:, :-1], tokens[:, 1:], mask) for model in (plain, asking)]
    torch.testing.assert_close(losses[1] - losses[0], expected)


def test_products_in_bfloat16_reach_every_parameter():
    model = captioner("fed additive", penalties=Penalties(1.0)).float()
    tokens, mask = captions_fixed(), torch.ones(3, 6, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(model.encode(pictures().float()), tokens[:, :-1], tokens[:, 1:], mask).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_pixels_go_through_the_network_that_is_trained_too():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, CHANNELS, 4, stride=4)

        def forward(self, pixels):
            return self.patches(pixels).flatten(2).transpose(1, 2)

    config = CaptioningModel.model_validate({"decoder": {"hidden": HIDDEN, "embedding": 4, "dropout": 0.0}})
    model = build_captioner(config, CHANNELS, POSITIONS, WORDS, Penalties(), Network())
    memory = model.encode(torch.rand(3, 3, 8, 8))
    assert isinstance(memory, EncoderOutput) and memory.states.shape == (3, 4, CHANNELS)
    tokens = captions_fixed()
    model.loss(memory, tokens[:, :-1], tokens[:, 1:], torch.ones(3, 6, dtype=torch.bool)).backward()
    assert model.encoder.network.patches.weight.grad.abs().sum() > 0


def test_positions_are_told_apart_by_their_places_alone():
    config = {"decoder": {"hidden": HIDDEN, "embedding": 4, "dropout": 0.0}}
    grids = pictures(1)
    for places in (False, True):
        given = CaptioningModel.model_validate(config | {"encoder": {"places": places}})
        model = build_captioner(given, CHANNELS, POSITIONS, WORDS, Penalties())
        turned = model.encode(grids.flip(1)).states
        assert torch.equal(model.encode(grids).states, turned.flip(1)) is not places
