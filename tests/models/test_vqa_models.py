"""Tests of question-answering models: their equations, their gradients, and invariance to padding and batching."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradient_check import gradcheck
from unrolled.config.vqa import VQAModel
from unrolled.data.batching import join_answers, plan_by_photo
from unrolled.decoding import Greedy, decode
from unrolled.models import ImageEncoder, build_answer_classifier, build_answer_generator
from unrolled.models.vqa import AnswerVectors, HadamardFusion, StackedAttention
from unrolled.recurrence import Dropout

CHANNELS, POSITIONS, WORDS, ANSWERS = 5, 4, 12, 6
NONE = Dropout(0.0)


def settings(**more):
    question = {"hidden": 7, "embedding": 6, "dropout": 0.0}
    return VQAModel.model_validate({"question": question, "joint": 8, "features": {"backbone": "small"}, **more})


def classifier(**more):
    torch.manual_seed(1)
    return build_answer_classifier(settings(answers="classes", **more), CHANNELS, POSITIONS, WORDS, ANSWERS).double()


def matcher(**more):
    """Answers of two words each."""
    torch.manual_seed(1)
    texts = torch.randint(4, WORDS, (ANSWERS, 2))
    sizes = CHANNELS, POSITIONS, WORDS, ANSWERS
    return build_answer_classifier(settings(answers="vectors", **more), *sizes, texts=texts).double()


def teller(**more):
    torch.manual_seed(1)
    return build_answer_generator(settings(answers="words", **more), CHANNELS, POSITIONS, WORDS).double()


def questions(seed=2):
    """Two photographs, three questions of different length."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(2, POSITIONS, CHANNELS, generator=generator, dtype=torch.float64)
    tokens = torch.randint(4, WORDS, (3, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    return pictures, torch.tensor([0, 0, 1]), tokens * mask, mask


def test_the_product_is_that_of_the_equation():
    torch.manual_seed(1)
    joint = HadamardFusion(3, 2, 4, NONE)
    picture = ImageEncoder(2, None, NONE)(torch.randn(1, 3, 2))
    question = torch.randn(1, 3)
    expected = torch.tanh(question @ joint.question.weight.T + joint.question.bias) * torch.tanh(
        picture.states.mean(1) @ joint.picture.weight.T + joint.picture.bias
    )
    torch.testing.assert_close(joint(question, picture, torch.tensor([0])).vector, expected)


def test_stacked_attention_is_that_of_the_equations():
    torch.manual_seed(1)
    joint = StackedAttention(3, 2, 4, 2, NONE)
    picture = ImageEncoder(2, None, NONE)(torch.randn(1, 3, 2))
    question = torch.randn(1, 3)
    states = torch.cat([torch.tanh(joint.picture(picture.states[0])), joint.sentinel[None]])
    u = first = torch.tanh(joint.question(question[0]))
    for hop in joint.hops:
        scores = [hop.weight @ torch.tanh(hop.query(u) + hop.key(state)) for state in states]
        weights = torch.stack(scores).softmax(0)
        u = u + sum(weight * state for weight, state in zip(weights, states, strict=True))
    u = u + torch.tanh(joint.first(first)) * torch.tanh(joint.last(u))
    joined = joint(question, picture, torch.tensor([0]))
    torch.testing.assert_close(joined.vector[0], u)
    torch.testing.assert_close(joined.weights[0], weights[:-1])


def test_an_answer_is_the_sum_of_its_words():
    torch.manual_seed(1)
    head = AnswerVectors(4, 9, torch.tensor([[5, -1], [6, 7], [7, -1]]))
    hidden, words = torch.randn(2, 4), head.words
    expected = torch.stack([words[5], (words[6] + words[7]) / 2**0.5, words[7]])
    torch.testing.assert_close(head.logits(hidden), hidden @ expected.T)
    torch.testing.assert_close(
        head.loss(hidden, torch.tensor([1, 0])), -head.log_probabilities(hidden)[[0, 1], [1, 0]].sum()
    )
    # New answers: of known words, of one known and one unknown, of none known, and none at all.
    texts = torch.tensor([[[5, 7], [7, 8], [8, 4], [-1, -1]]]).expand(2, -1, -1)
    scores = head.text_logits(hidden, texts)
    both = (words[5] + words[7]) / 2**0.5
    torch.testing.assert_close(scores[:, :2], torch.stack([hidden @ both, hidden @ words[7]], dim=1))
    assert (scores[:, 2:] == -torch.inf).all()
    assert head.text_logits(hidden, texts[:, :0]).shape == (2, 0)
    assert (head.text_logits(hidden, texts[..., :0]) == -torch.inf).all()
    numbers = torch.tensor([[2, 0, 2], [1, 1, 0]])
    torch.testing.assert_close(head.candidate_logits(hidden, numbers), head.logits(hidden).gather(1, numbers))


@pytest.mark.parametrize("attention", [False, True])
def test_padding_of_a_question_and_the_questions_beside_it_change_nothing(attention):
    model = classifier(attention=attention)
    pictures, photo_index, tokens, mask = questions()
    together = model(pictures, photo_index, tokens, mask).vector
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(
            pictures[photo_index[row]][None],
            torch.tensor([0]),
            tokens[row : row + 1, :length],
            mask[row : row + 1, :length],
        )
        torch.testing.assert_close(together[row], alone.vector[0])


@pytest.mark.parametrize("sees", ["question", "picture"])
def test_what_a_baseline_does_not_see_changes_nothing(sees):
    model = classifier(attention=False, sees=sees)
    pictures, photo_index, tokens, mask = questions()
    before = model(pictures, photo_index, tokens, mask).vector
    other = questions(seed=9)
    given = (other[0], photo_index, tokens, mask) if sees == "question" else (pictures, photo_index, other[2] + 1, mask)
    torch.testing.assert_close(model(*given).vector, before)


@pytest.mark.parametrize("attention", [False, True])
def test_one_window_and_reading_first_give_the_same_likelihood(attention):
    model = teller(attention=attention, encoder={"size": 6})
    pictures, photo_index, tokens, mask = questions()
    asked = [tokens[row][mask[row]].numpy() for row in range(3)]
    answers = [np.array([4, 5]), np.array([6]), np.array([7, 8, 9])]
    memory = model.encode(pictures).select(photo_index)
    whole = join_answers(asked, answers)
    at_once = model.sequence_log_probs(memory, whole.decoder_inputs, whole.targets, whole.answer_mask)
    behind = join_answers([np.empty(0, dtype=np.int32)] * 3, answers)
    read = model.read_prefix(memory, tokens, mask)
    torch.testing.assert_close(
        model.sequence_log_probs(read, behind.decoder_inputs, behind.targets, behind.answer_mask), at_once
    )
    torch.testing.assert_close(
        -at_once.sum(), model.loss(memory, whole.decoder_inputs, whole.targets, whole.answer_mask)
    )


def test_a_likelihood_is_the_product_of_the_steps():
    model = teller(encoder={"size": 6}).eval()
    pictures, photo_index, tokens, mask = questions()
    memory = model.read_prefix(model.encode(pictures).select(photo_index), tokens, mask)
    answer = [5, 9, 2]
    state, total = model.start(memory), torch.zeros(3, dtype=torch.float64)
    for before, after in zip([1, *answer[:-1]], answer, strict=True):
        logits, state = model.step(torch.full((3,), before), state, memory)
        total += logits.log_softmax(-1)[:, after]
    text = join_answers([np.empty(0, dtype=np.int32)] * 3, [np.array(answer[:-1])] * 3)
    torch.testing.assert_close(
        model.sequence_log_probs(memory, text.decoder_inputs, text.targets, text.answer_mask), total
    )


def test_the_answer_depends_on_picture_and_question():
    model = teller(encoder={"size": 6}).eval()
    pictures, photo_index, tokens, mask = questions()
    memory = model.read_prefix(model.encode(pictures).select(photo_index), tokens, mask)
    first, _ = model.step(torch.full((3,), 1), model.start(memory), memory)
    other = model.read_prefix(model.encode(pictures + 1).select(photo_index), tokens, mask)
    asked = model.read_prefix(model.encode(pictures).select(photo_index), tokens.flip(0), mask.flip(0))
    for changed in (other, asked):
        logits, _ = model.step(torch.full((3,), 1), model.start(changed), changed)
        assert not torch.allclose(first, logits)
    assert len(decode(model, memory, Greedy(max_length=4), begin=1, end=2).tokens) == 3


@pytest.mark.parametrize("answers", ["classes", "vectors", "words"])
@pytest.mark.parametrize("attention", [False, True])
def test_gradients_are_those_of_finite_differences(answers, attention):
    model = {"classes": classifier, "vectors": matcher, "words": teller}[answers](
        attention=attention, encoder={"size": 6}
    )
    pictures, photo_index, tokens, mask = questions()

    def loss(seen):
        if answers != "words":
            return model.loss(model(seen, photo_index, tokens, mask), torch.tensor([1, 5, 0]))
        text = join_answers([tokens[row][mask[row]].numpy() for row in range(3)], [np.array([4, 5])] * 3)
        return model.loss(model.encode(seen).select(photo_index), text.decoder_inputs, text.targets, text.answer_mask)

    assert gradcheck(loss, pictures.requires_grad_())


def test_questions_on_a_photograph_stay_together_and_each_comes_once():
    photos = np.random.default_rng(1).integers(0, 9, size=60)
    lengths = np.random.default_rng(2).integers(3, 8, size=60)
    batches = plan_by_photo(lengths, photos, batch_tokens=100, seed=1, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    seen = [set(photos[batch].tolist()) for batch in batches]
    assert sum(map(len, seen)) == len(set(photos.tolist()))
    assert all(lengths[batch].max() * len(batch) <= 100 for batch in batches)
    again = plan_by_photo(lengths, photos, batch_tokens=100, seed=1, epoch=0)
    assert all((one == other).all() for one, other in zip(batches, again, strict=True))
