"""Memory problems: what is drawn, what is learned from it, and what a truncation window cuts off."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from training_runs import train, train_together, weights
from unrolled.cli import main
from unrolled.config.load import load_config
from unrolled.data.synthetic_tasks import BLANK, DELIMITER, NUM_SYMBOLS, PROBLEMS, Adding, Copy, DelayedXOR
from unrolled.errors import UserError
from unrolled.models import SequenceModel
from unrolled.recurrence import CELLS, Stack
from unrolled.tasks import make_task, prepare

LENGTHS = st.integers(2, 60)
SEEDS = st.integers(-(2**40), 2**70)
SPLIT = st.sampled_from(["train", "validation", "test"])


def config(tmp_path, problem="adding", *, length=12, batch=5):
    path = tmp_path / f"{problem}.yaml"
    path.write_text(
        f"task: memory\nname: {problem}\nstorage: {tmp_path / 'runs'}\n"
        f"data: {{problem: {problem}, length: {length}, validation: 7, test: 205}}\n"
        "model: {hidden: 6}\n"
        f"training: {{batch: {batch}, epoch_steps: 6, epochs: 2, log_every: 5, precision: float64}}\n",
        encoding="utf-8",
    )
    return path


@given(LENGTHS, SEEDS, SPLIT, st.integers(0, 10**9))
def test_one_step_of_either_half_is_marked_and_the_target_is_made_of_those(length, seed, split, index):
    adding, xor = (kind(length).examples(seed, split, [index]) for kind in (Adding, DelayedXOR))
    for drawn in (adding, xor):
        marks = drawn.inputs[0, :, 1]
        assert marks[: length // 2].sum() == 1 and marks[length // 2 :].sum() == 1 and set(marks.tolist()) <= {0, 1}
    numbers, marks = adding.inputs[0].unbind(1)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert adding.targets.tolist() == [[pytest.approx(float((numbers * marks).sum()), abs=1e-6)]]
    bits = xor.inputs[0, xor.inputs[0, :, 1] == 1, 0]
    assert set(bits.tolist()) <= {0, 1} and xor.inputs[0, :, 0].sum() == bits.sum()
    assert xor.targets.tolist() == [[int(bits[0] != bits[1])]]


@given(LENGTHS, SEEDS, SPLIT, st.integers(0, 10**9))
def test_copy_is_symbols_silence_delimiter_and_room_for_the_answer(length, seed, split, index):
    drawn = Copy(length).examples(seed, split, [index])
    assert torch.equal(drawn.inputs.sum(2), torch.ones(1, length + 20))
    read, wanted = drawn.inputs[0].argmax(1).tolist(), drawn.targets[0].tolist()
    symbols = read[:10]
    assert all(symbol < NUM_SYMBOLS for symbol in symbols)
    assert read == [*symbols, *[BLANK] * (length - 1), DELIMITER, *[BLANK] * 10]
    assert wanted == [*[BLANK] * (length + 10), *symbols]


@pytest.mark.parametrize("problem", PROBLEMS)
@given(seed=SEEDS, split=SPLIT, indices=st.lists(st.integers(0, 10**6), min_size=2, max_size=5))
@settings(max_examples=20)
def test_an_example_depends_on_its_own_numbers_alone(problem, seed, split, indices):
    made = PROBLEMS[problem](20)
    together, last = made.examples(seed, split, indices), made.examples(seed, split, indices[-1:])
    assert torch.equal(together.inputs[-1:], last.inputs) and torch.equal(together.targets[-1:], last.targets)


@pytest.mark.parametrize("kind", [Adding, Copy])
def test_no_sequence_comes_twice(kind):
    drawn = [
        kind(8).examples(seed, split, range(500)).inputs for seed in (1, 2) for split in ("train", "validation", "test")
    ]
    assert len(torch.cat(drawn).unique(dim=0)) == 3000


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_baseline_is_what_the_best_constant_answer_reaches(problem):
    made = PROBLEMS[problem](30)
    drawn = made.examples(1, "test", range(4000))
    if problem == "adding":
        constant = torch.ones(1, 1, 1)
    elif problem == "delayed_xor":
        constant = torch.zeros(1, 1, 2)
    else:  # certain of the blanks, and of nothing among the symbols
        constant = torch.full((1, made.steps, NUM_SYMBOLS + 1), -1e4)
        constant[:, :-10, BLANK] = 0
        constant[:, -10:, :NUM_SYMBOLS] = 0
    outputs = constant.expand(4000, -1, -1)
    assert float(made.loss(outputs, drawn.targets).mean()) == pytest.approx(made.baseline["loss"], rel=0.05)
    score = made.score(made.predictions(outputs), drawn.targets)
    assert float(score.mean()) == pytest.approx(made.baseline[made.metric], rel=0.05)
    assert Copy(100).baseline["loss"] == pytest.approx(10 * math.log(8) / 120)


def test_plans_follow_from_seed_and_epoch_and_never_repeat(tmp_path):
    settings = load_config(config(tmp_path))
    task, data = make_task(settings, tmp_path), prepare(settings)
    batches = [*task.plan(data, 0), *task.plan(data, 1)]
    numbers = [number for batch in batches for number in batch.indices]
    assert numbers == list(range(2 * 6 * 5))
    whole, shards = batches[3].shard(0, 1), [batches[3].shard(rank, 2) for rank in range(2)]
    for rank, shard in enumerate(shards):
        assert torch.equal(shard.inputs, whole.inputs[rank::2])
    assert batches[0].shard(5, 6) is None


# Truncation -----------------------------------------------------------------------------------------------


def model(cell="gru", layers=2):
    torch.manual_seed(4)
    return SequenceModel(Stack(CELLS[cell], 3, 5, layers=layers), 2).double()


def gradients(made, outputs):
    torch.manual_seed(5)
    functional.mse_loss(outputs, torch.randn_like(outputs), reduction="sum").backward()
    found = {name: parameter.grad.clone() for name, parameter in made.named_parameters()}
    made.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("window", [11, 12, 10**6])
def test_a_window_as_long_as_the_sequence_changes_nothing(window):
    made, inputs = model(), torch.randn(4, 11, 3, dtype=torch.float64)
    whole, windowed = made(inputs, last=3), made(inputs, last=3, truncate=window)
    assert torch.equal(whole, windowed)
    want, got = gradients(made, whole), gradients(made, windowed)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("last", [1, 4, 11])
@pytest.mark.parametrize("window", [1, 3, 4, 10])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_shorter_window_is_a_graph_cut_by_hand(cell, window, last):
    made, inputs = model(cell), torch.randn(4, 11, 3, dtype=torch.float64)
    state, hidden = made.stack.begin(4), []
    for t in range(11):
        if t % window == 0:
            state = tuple(tuple(tuple(x.detach() for x in cell) for cell in layer) for layer in state)
        output, state = made.stack.step(inputs[:, t], state)
        hidden.append(output)
    reference = made.head(torch.stack(hidden, dim=1)[:, -last:])
    windowed = made(inputs, last=last, truncate=window)
    torch.testing.assert_close(windowed, reference, rtol=0, atol=1e-12)
    want, got = gradients(made, reference), gradients(made, windowed)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-11)


def test_nothing_flows_back_over_a_window_s_edge():
    made, inputs = model(), torch.randn(4, 11, 3, dtype=torch.float64, requires_grad=True)
    made(inputs, last=1, truncate=4).sum().backward()
    assert not inputs.grad[:, :8].any() and inputs.grad[:, 8:].all(dim=2).any()


# Runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["adding", "copy"])
def test_two_workers_end_at_the_same_parameters(tmp_path, problem):
    path = config(tmp_path, problem)
    alone, _ = train(path, "name=alone", "training.truncate=5")
    together = train_together(path, 2, "name=together", "training.truncate=5")
    want, got = weights(alone), weights(together)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)
    rows = [[row for row in run.history() if row["kind"] == "validation"][-1] for run in (alone, together)]
    name = "mse" if problem == "adding" else "accuracy"
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-9)
    assert rows[0][name] == pytest.approx(rows[1][name], abs=1e-9)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
    path = config(tmp_path, "delayed_xor")
    options = ["model.layers=2", "model.dropout=0.3"]
    whole, _ = train(path, "name=whole", *options)
    for step in (4, 9, 12):  # in the middle of an epoch, twice
        resumed, _ = train(path, "name=parts", *options, f"training.max_steps={step}", resume=step > 4)
    want, got = weights(whole), weights(resumed)
    assert all(torch.equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_run_is_scored_against_its_baseline(tmp_path, problem, capsys):
    path = config(tmp_path, problem)
    train(path)
    run = tmp_path / "runs" / problem
    assert main(["evaluate", str(run), "--local"]) == 0
    folder = run / "evaluation" / "test"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = PROBLEMS[problem].metric
    outputs = [json.loads(line) for line in (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(outputs) == 205  # two full shares and five sequences
    drawn = PROBLEMS[problem](12).examples(1, "test", range(205))
    assert [row["target"] for row in outputs] == drawn.targets[:, -len(outputs[0]["target"]) :].tolist()
    assert results["scores"][name] == pytest.approx(sum(row[name] for row in outputs) / 205)
    low, high = results["intervals"][name]
    assert low < results["scores"][name] < high
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Without memory" in page and {"adding": "0.1667", "copy": "12.5", "delayed_xor": "50.0"}[problem] in page


def test_a_small_adding_problem_is_learned(tmp_path):
    options = ["model.hidden=32", "data.validation=300", "training.optimizer.learning_rate=0.01"]
    run, _ = train(config(tmp_path, length=6, batch=32), *options, "training.epochs=60")
    scores = [row["mse"] for row in run.history() if row["kind"] == "validation"]
    assert scores[0] > 0.1
    assert min(scores) < 0.02


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.problem=multiplying"], ["data.problem", "adding", "delayed_xor"]),
        (["data.length=1"], ["data.length is 1", "2 or more"]),
        (["training.truncate=0"], ["training.truncate is 0", "1 or more"]),
        (["training.metric=accuracy"], ["training.metric", "'adding'", "loss and mse"]),
        (["data.source=dates"], ["data.source is not a key"]),
    ],
)
def test_a_mistake_in_a_config_is_one_sentence(tmp_path, overrides, words):
    with pytest.raises(UserError) as error:
        load_config(config(tmp_path), overrides)
    assert all(word in str(error.value) for word in words)


def test_training_sequences_cannot_be_evaluated(tmp_path, capsys):
    train(config(tmp_path))
    assert main(["evaluate", str(tmp_path / "runs" / "adding"), "--split", "train", "--local"]) == 2
    assert "validation and test" in capsys.readouterr().err
