"""Self-critical training: its reward, the estimate of the gradient against enumeration, and a second stage whole."""

from __future__ import annotations

import itertools

import pytest
import torch

from training_runs import train, weights
from unrolled import api
from unrolled.config.captioning import CaptioningConfig
from unrolled.config.load import load_config
from unrolled.data.batching import pad
from unrolled.data.tokenizer import BEGIN, END
from unrolled.errors import UserError
from unrolled.metrics import CiderD, CiderReward
from unrolled.tasks import Captioning

CONFIG = """
task: captioning
name: first
data: {source: scenes, limit: 40, vocabulary: {min_frequency: 1}}
model:
  features: {backbone: small}
  decoder: {hidden: 24, embedding: 12, dropout: 0.0}
training: {epochs: 8, batch_tokens: 400, precision: float32, optimizer: {learning_rate: 0.01}, validate_every: 1000}
decoding: {max_length: 12}
"""
SECOND = ("name=second", "training.self_critical.photographs=10", "training.log_every=1", "training.epochs=20")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The config's file, and the finished run of it."""
    folder = tmp_path_factory.mktemp("first")
    path = folder / "first.yaml"
    path.write_text(CONFIG + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    run, _ = train(path)
    return path, run


def made(first, *overrides):
    path, run = first
    config = load_config(path, [*SECOND, *overrides])
    task, data = Captioning(config, run.vocabulary), Captioning.prepare(config)
    torch.manual_seed(0)
    return task, data, task.build_model().double().eval()


def shard_of(task, data, rank=0, size=1, photographs=None):
    shard = task.plan(data, 0)[0].shard(rank, size)
    shard = (
        shard
        if photographs is None
        else shard.__class__(shard.photos[:photographs], shard.rows[:photographs], shard.seed, shard.reward)
    )
    return shard.__class__(shard.photos.double(), shard.rows, shard.seed, shard.reward)


def gradients(model, losses):
    model.zero_grad()
    total = 0.0
    for window_loss in losses:
        window_loss.loss.backward()
        total += float(window_loss.loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


def log_probabilities(model, picture, rows):
    """log p of whole captions, by steps."""
    memory = model.encode(picture).select(torch.zeros(len(rows), dtype=torch.long))
    tokens, mask = pad([torch.tensor(row).numpy() for row in rows])
    last, state, total = torch.full((len(rows),), BEGIN), model.start(memory), 0
    for t in range(tokens.shape[1]):
        logits, state = model.step(last, state, memory)
        last = tokens[:, t]
        total = total + logits.log_softmax(-1).gather(1, last[:, None])[:, 0].where(mask[:, t], 0)
    return total


def test_the_reward_is_the_metric_with_the_end_as_a_word():
    references = [["a dog runs", "the dog runs fast"], ["a cat", "one small cat"], ["a dog and a cat"]]
    written = [["a dog runs", "dog dog"], ["a cat sits"], ["a cat"]]
    ended = [[True, False], [True], [False]]
    reward = CiderReward(references)
    spelled = [[f"{text} theend" for text in own] for own in references]
    for picture, (texts, ends) in enumerate(zip(written, ended, strict=True)):
        for text, end, found in zip(texts, ends, reward(picture, texts, ends), strict=True):
            predictions = ["x"] * len(references)
            predictions[picture] = f"{text} theend" if end else text
            assert found == pytest.approx(CiderD().example_scores(predictions, spelled)[picture] / 100)
    assert reward(0, ["a dog"], [True]) < reward(0, ["a dog runs"], [True])


SCANNED = ("model.decoder.conditioning=every", "model.engine=fused")


@pytest.mark.parametrize(("baseline", "model"), [("others", ()), ("greedy", ()), ("others", SCANNED)])
def test_losses_are_the_formula(first, baseline, model):
    task, data, model = made(first, f"training.self_critical.baseline={baseline}", *model)
    model.train()
    shard = shard_of(task, data, photographs=3)
    loss, found = gradients(model, task.losses(model, shard, None))
    drawn = task.critic.sample(model, shard)
    expected = 0
    for photo in range(3):
        rows = slice(5 * photo, 5 * photo + 5)
        lengths = drawn.captions.mask[rows].sum(1).tolist()
        written = [row[:length].tolist() for row, length in zip(drawn.captions.targets[rows], lengths, strict=True)]
        texts = task.vocabulary.decode([[token for token in row if token != END] for row in written])
        rewards = torch.tensor(shard.reward(shard.rows[photo], texts, [row[-1] == END for row in written])).double()
        torch.testing.assert_close(rewards, drawn.rewards[rows])
        if baseline == "others":
            expected_baseline = torch.stack([rewards[[j for j in range(5) if j != i]].mean() for i in range(5)])
            torch.testing.assert_close(rewards - expected_baseline, drawn.advantages[rows])
        logs = log_probabilities(model, shard.photos[photo : photo + 1], written)
        expected = expected - (drawn.advantages[rows] * logs).sum()
    assert loss == pytest.approx(-float(drawn.rewards.sum()))
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(found, torch.cat([p.grad.flatten() for p in model.parameters()]))


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_the_mean_estimate_is_the_gradient_of_the_expected_reward(first, baseline):
    samples = 6000
    task, data, model = made(
        first,
        "decoding.max_length=2",
        f"training.self_critical.samples={samples}",
        f"training.self_critical.baseline={baseline}",
    )
    shard = shard_of(task, data, photographs=1)
    loss, found = gradients(model, task.losses(model, shard, None))
    words = range(len(task.vocabulary))
    every = [[END], *([a, b] for a, b in itertools.product(words, words) if a != END)]
    texts = task.vocabulary.decode([[token for token in row if token != END] for row in every])
    rewards = torch.tensor(shard.reward(shard.rows[0], texts, [row[-1] == END for row in every])).double()
    p = log_probabilities(model, shard.photos, every).exp()
    assert p.sum().item() == pytest.approx(1)
    model.zero_grad()
    expected = -(p * rewards).sum()
    expected.backward()
    exact = torch.cat([q.grad.flatten() for q in model.parameters()])
    assert loss / samples == pytest.approx(expected.item(), abs=0.01)
    assert float((found / samples - exact).norm()) < 0.1 * float(exact.norm())


def test_windows_report_the_reward_too(first):
    task, data, model = made(first, "training.truncate=3")
    shard = shard_of(task, data)
    loss, found = gradients(model, task.losses(model, shard, None))
    assert loss == pytest.approx(-float(task.critic.sample(model, shard).rewards.sum()))
    assert float(found.norm()) > 0


def test_two_workers_draw_the_same_and_add_up_to_one(first):
    task, data, model = made(first)
    whole = task.critic.sample(model, shard_of(task, data))
    shards = [task.critic.sample(model, shard_of(task, data, rank, 2)) for rank in range(2)]
    for rank, drawn in enumerate(shards):
        torch.testing.assert_close(drawn.rewards.view(-1, 5), whole.rewards.view(-1, 5)[rank::2])
    loss, found = gradients(model, task.losses(model, shard_of(task, data), None))
    shares = [gradients(model, task.losses(model, shard_of(task, data, rank, 2), None)) for rank in range(2)]
    assert sum(share for share, _ in shares) == pytest.approx(loss)
    torch.testing.assert_close(sum(share for _, share in shares), found)


def test_narrow_products_do_not_reach_what_is_drawn(first):
    task, data, model = made(first)
    shard = task.plan(data, 0)[0].shard(0, 1)
    model.float()
    expected = task.critic.sample(model, shard).rewards.sum()
    with torch.autocast("cpu", torch.bfloat16):
        (window_loss,) = task.losses(model, shard, None)
    assert float(window_loss.loss.detach()) == pytest.approx(-float(expected), rel=1e-5)
    window_loss.loss.backward()


def test_an_epoch_takes_every_photograph_once_and_draws_anew(first):
    task, data, _ = made(first)
    plans = [task.plan(data, epoch) for epoch in (0, 0, 1)]
    for plan in plans:
        assert sorted(row for batch in plan for row in batch.rows) == list(range(40))
        assert [batch.tokens for batch in plan] == [50] * 4
    orders = [[batch.rows.tolist() for batch in plan] for plan in plans]
    assert orders[0] == orders[1] != orders[2]
    assert plans[0][0].seed == plans[1][0].seed != plans[2][0].seed


def test_a_second_stage_raises_the_reward_and_resumes_exactly(first):
    path, run = first
    start = f"training.start_from={run.path}"
    more = ("training.self_critical.photographs=20", "training.self_critical.samples=10")
    whole, _ = train(path, *SECOND, start, *more)
    losses = [row["loss"] for row in whole.history() if row["kind"] == "train"]
    assert len(losses) == 40
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.05
    train(path, *SECOND, start, *more, "name=cut", "training.max_steps=13")
    cut, _ = train(path, *SECOND, start, *more, "name=cut", resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name]), name


def test_a_run_begins_with_the_best_weights_of_another(first):
    path, run = first
    still, _ = train(
        path,
        *("name=still", f"training.start_from={run.path}", "training.max_steps=1"),
        "training.optimizer.learning_rate=1e-12",
    )
    for name, value in weights(run, "best").items():
        torch.testing.assert_close(weights(still)[name], value)


def test_what_cannot_be_started_from_is_refused(first, tmp_path):
    path, run = first

    def refused(*overrides):
        with pytest.raises(UserError) as caught:
            api.train(path, overrides=[*SECOND, "name=third", *overrides], local=True)
        return str(caught.value)

    here = f"training.start_from={run.path}"
    assert "is not a run folder" in refused(f"training.start_from={tmp_path / 'none'}")
    with pytest.raises(UserError, match="is this run itself"):
        api.train(path, overrides=[here], local=True, overwrite=True)
    assert "another words.json" in refused(here, "data.limit=20")
    assert "model.decoder.hidden=24, the config says 8" in refused(here, "model.decoder.hidden=8")
    other = tmp_path / "dates.yaml"
    other.write_text(f"task: translation\ndata: {{source: dates}}\nstorage: {tmp_path}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"was trained with task=captioning, the config says translation"):
        api.train(other, overrides=[here], local=True)
    assert not (run.path.parent / "third").exists()


def test_self_critical_training_wants_its_metric():
    with pytest.raises(ValueError, match="without cider_d"):
        CaptioningConfig.model_validate(
            {
                "task": "captioning",
                "name": "x",
                "data": {"source": "scenes"},
                "training": {"self_critical": {}, "metric": "bleu_4"},
                "evaluation": {"metrics": ["bleu_4"]},
            }
        )
