"""Language models: invalid input, carried state, training, evaluation, generation and explanation."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from repository import CONFIGS
from training_runs import TEXT, config_of_text, train, train_together, weights
from unrolled.cli import main
from unrolled.config.language_modeling import LanguageModelConfig
from unrolled.config.load import load_config
from unrolled.data.lm_corpus import Lanes
from unrolled.errors import UserError
from unrolled.evaluation import EnsembleMember, load_task_and_model
from unrolled.models import build_language_model
from unrolled.recurrence import state as nest
from unrolled.tasks import prepare
from unrolled.training.run_dir import RunDir, choose_checkpoint

CONFIG = """\
task: language_modeling
name: text
data: {source: %s}
model: {hidden: 8, layers: 2, dropout: 0.0}
training:
  epochs: 2
  lanes: 5
  truncate: 24
  validate_every: 8
  log_every: 5
decoding: {max_length: 20}
evaluation: {prime: the k, temperatures: [0.5, 1.0]}
"""
EXACT = ["training.precision=float64", "training.max_steps=21", "training.epochs=99"]


@pytest.fixture
def config(tmp_path):
    """A config that trains in a second; its text and runs lie beside it."""
    return config_of_text(tmp_path, CONFIG)


# ---- Invalid input


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        (b"", [], "is empty: there is no text"),
        (b"a\xe9b", [], "line 1: is not UTF-8"),
        (b"a" * 999, [], "one character alone, 'a'"),
        (b"to be or not", [], r"has 11 units .* need 121 or more"),
        (b"ab" * 500 + b"!", [], "'!' .*is not in the training text"),
        (TEXT.encode(), ["data.validation_share=0.0001"], "less than two units|is empty"),
        (TEXT.encode(), ["data.source=./nowhere.txt"], "neither a text file nor a folder"),
        (TEXT.encode(), ["data.source=helo"], "Did you mean 'hello'"),
        (TEXT.encode(), ["model.tie=true"], r"model\.embedding \(null\) equal to model\.hidden \(8\)"),
        (TEXT.encode(), ["training.lane=3"], "Did you mean 'lanes'"),
        (TEXT.encode(), ["task=language_modelling"], "Did you mean 'language_modeling'"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(config, tmp_path, capsys, content, overrides, words):
    (tmp_path / "text.txt").write_bytes(content)
    assert main(["train", str(config), "--local", *overrides]) == 2
    said = capsys.readouterr().err
    assert said.startswith("unrolled: ") and said.count("\n") == 1
    assert re.search(words, said)
    assert not (tmp_path / "runs").exists()


# ---- The model


def test_two_windows_with_carried_state_are_one():
    torch.manual_seed(1)
    model = build_language_model(LanguageModelConfig(cell="lstm", hidden=7, layers=2, embedding=5), 9).double().eval()
    tokens = torch.randint(9, (3, 21))
    whole, end = model.losses(tokens[:, :-1], tokens[:, 1:], None)
    first, state = model.losses(tokens[:, :8], tokens[:, 1:9], None)
    second, after = model.losses(tokens[:, 8:-1], tokens[:, 9:], nest.detach(state))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    nest.map(torch.testing.assert_close, after, end)
    torch.testing.assert_close(model.loss(tokens[:, :-1], tokens[:, 1:], None)[0], whole.sum())


@pytest.mark.parametrize("variant", [{}, {"embedding": 6}, {"embedding": 8, "tie": True}])
def test_steps_are_the_windows_of_a_forward_pass(variant):
    torch.manual_seed(1)
    model = build_language_model(LanguageModelConfig(cell="gru", hidden=8, **variant), 5).double().eval()
    tokens = torch.randint(5, (2, 9))
    primed = model.prime(tokens[:, :4])
    log, state = model.step(torch.full((2,), -1), model.start(primed), primed)
    logs = [log]
    for place in range(4, 9):
        log, state = model.step(tokens[:, place], state, primed)
        logs.append(log)
    want = model.head.logits(model(tokens)[0].flatten(0, 1)).view(2, 9, 5)[:, 3:]
    torch.testing.assert_close(torch.stack(logs, dim=1), want)


# ---- Training


@pytest.mark.parametrize(("size", "lanes"), [(2, 5), (3, 2)])  # of three workers with two lanes, one has none
def test_any_number_of_workers_gives_the_same_parameters(config, size, lanes):
    options = (*EXACT, f"training.lanes={lanes}", "model.layers=1")
    alone, _ = train(config, "name=alone", *options)
    together = train_together(config, size, "name=together", *options)
    want, got = weights(alone), weights(together)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-9)
    rows = [[row["loss"] for row in run.history() if row["kind"] == "validation"] for run in (alone, together)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-9)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(config):
    options = ["model.dropout=0.3", "model.embedding=6", "training.keep=9", "training.epochs=99"]
    whole, _ = train(config, "name=whole", *options, "training.max_steps=31")
    for step in (7, 16, 31):  # in the middle of epochs: the state is carried over
        resumed, progress = train(config, "name=parts", *options, f"training.max_steps={step}", resume=step > 7)
        assert progress.batch > 0
    want = weights(whole)
    assert all(torch.equal(want[name], got) for name, got in weights(resumed).items())


def test_another_number_of_workers_continues_a_run(config):
    whole, _ = train(config, "name=whole", *EXACT)
    train_together(config, 2, "name=parts", *EXACT, "training.max_steps=9")
    resumed, _ = train(config, "name=parts", *EXACT, resume=True)
    want = weights(whole)
    for name, got in weights(resumed).items():
        torch.testing.assert_close(got, want[name], rtol=0, atol=1e-9)


def test_the_state_is_carried_and_begins_anew_with_each_epoch(config):
    """Repeats a run with one rate of zero: its training loss must be the loss of whole lanes, window after window."""
    run, _ = train(config, *EXACT, "training.optimizer.learning_rate=1e-300", "training.log_every=1")
    _, model = load_task_and_model([EnsembleMember(run, run.config(), choose_checkpoint(run))], torch.device("cpu"))
    stream = prepare(run.config()).split("train")
    cut = Lanes.of_equal_length(stream, 5)
    window = cut.windows(range(5), 0, cut.steps)
    losses, _ = model.losses(window.inputs, window.targets, None)
    windows = [chunk.mean().item() for chunk in losses.detach().split(24, dim=1)]
    rows = [row["loss"] for row in run.history() if row["kind"] == "train"]
    assert len(rows) > len(windows) > 2
    assert rows == pytest.approx([windows[i % len(windows)] for i in range(len(rows))], abs=1e-6)


def test_lanes_of_a_run_are_kept(config):
    train(config, "training.max_steps=3")
    with pytest.raises(UserError, match=r"training\.lanes=5, the config says 4"):
        train(config, "training.max_steps=9", "training.lanes=4", resume=True)


def test_validation_is_the_loss_of_one_long_reading(config):
    run, _ = train(config, *EXACT)
    row = [row for row in run.history() if row["kind"] == "validation"][-1]
    _, model = load_task_and_model(
        [EnsembleMember(run, run.config(), choose_checkpoint(run, "last"))], torch.device("cpu")
    )
    units = torch.from_numpy(prepare(run.config()).split("validation").astype(np.int64))[None]
    loss = model.losses(units[:, :-1], units[:, 1:], None)[0].mean().item()
    assert row["loss"] == pytest.approx(loss, abs=1e-12)
    assert row["bits_per_character"] == pytest.approx(loss / math.log(2))
    assert row["perplexity"] == pytest.approx(math.exp(loss))


def test_lanes_of_an_examination_do_not_depend_on_who_reads_them(config, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 5, encoding="utf-8")
    run, _ = train(config, *EXACT, "training.max_steps=2", "evaluation.lanes=3", "data.validation_share=0.5")
    task, model = load_task_and_model([EnsembleMember(run, run.config(), choose_checkpoint(run))], torch.device("cpu"))
    units = task.open("validation")
    together = task.evaluate_shard(model, units, 0, 1)
    assert task.num_shards(units) == len(together) == 3
    for rank in range(3):
        (lane,) = task.evaluate_shard(model, units, rank, 3)
        np.testing.assert_allclose(lane, together[rank], atol=1e-12)
    assert sum(map(len, together)) == len(units) - 1


# ---- Hello, from the command line


@pytest.fixture(scope="module")
def hello(tmp_path_factory):
    """The shipped config, trained in a second."""
    folder = tmp_path_factory.mktemp("hello")
    shipped = CONFIGS / "language_modeling" / "hello.yaml"
    assert main(["train", str(shipped), "--local", f"storage={folder}"]) == 0
    return folder / "hello"


def test_hello_is_learned_and_written(hello, capsys):
    assert main(["generate", str(hello), "h", "he", "--set", "decoding.max_length=4", "--decode", "greedy"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "hello" and second.startswith("hello")
    for arguments, words in (
        (["x"], "'x' (at place 1)"),
        ([""], "the prime text is empty"),
        (["h", "--n-best", "2"], "gives no scores"),
    ):
        assert main(["generate", str(hello), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["generate", str(hello), "h", "--decode", "beam"]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_the_explanation_is_what_a_hand_computes(hello, capsys):
    assert main(["generate", str(hello), "--explain"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    tensors = {name: value.double().numpy() for name, value in weights(RunDir(hello), "best").items()}
    u, w = (next(v for k, v in tensors.items() if k.endswith(f"weight_{side}")) for side in ("input", "hidden"))
    biases = [v for k, v in tensors.items() if "bias" in k and not k.startswith("head")]
    v, c = tensors["head.weight"], tensors["head.bias"]
    hidden, columns, total = np.zeros(3), [], 0.0
    for place, target in ((0, 1), (1, 2), (2, 2), (2, 3)):  # h e l l -> e l l o
        hidden = np.tanh(u @ np.eye(4)[place] + w @ hidden + sum(biases))
        scores = v @ hidden + c
        softmax = np.exp(scores) / np.exp(scores).sum()
        loss = -math.log(softmax[target])
        total += loss
        columns.append([*hidden, *scores, *softmax, loss])
    rows = [re.findall(r"-?\d+\.\d{4}", line) for line in said.splitlines() if not line.startswith("sum")]
    shown = np.array([row for row in rows if len(row) == 4], dtype=float).T
    np.testing.assert_allclose(shown, np.array(columns), atol=1.1e-4)
    assert float(re.search(r"sum of the losses (\S+) nats", said)[1]) == pytest.approx(total, abs=2e-4)
    assert re.search(r"^reads +h +e +l +l$", said, re.MULTILINE)
    assert re.search(r"^target y +e +l +l +o$", said, re.MULTILINE)


def test_long_texts_are_explained_in_blocks(hello, capsys):
    assert main(["generate", str(hello), "--explain", "hello" * 5]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100 and said.count("target y") == 3
    assert main(["generate", str(hello), "--explain", "h"]) == 2
    assert "two characters or more" in capsys.readouterr().err


# ---- Evaluation and samples


def test_evaluation_reports_and_samples(config, tmp_path, capsys):
    assert main(["train", str(config), "--local", "training.epochs=30", "training.optimizer.learning_rate=0.02"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"validation loss \d\.\d{3}  bits per character \d\.\d{3}  perplexity", said)
    run = tmp_path / "runs" / "text"
    assert main(["evaluate", str(run), "--split", "validation", "--local"]) == 0
    assert "bits per character" in capsys.readouterr().out
    folder = run / "evaluation" / "validation"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    low, high = results["intervals"]["loss"]
    assert low < results["scores"]["loss"] < high < math.log(len(set(TEXT)))
    rows = [json.loads(line) for line in (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "".join(row["text"] for row in rows) == TEXT[round(len(TEXT) * 0.9) :][1:]
    page = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("Temperature 0.5", "Temperature 1", "Hardest to foresee", "Learning curves", "the k"):
        assert words in page
    for arguments, words in (
        (["--split", "test"], "train and validation"),
        (["--decode", "beam"], "leave --decode out"),
    ):
        assert main(["evaluate", str(run), "--local", "--split", "validation", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["runs", str(run.parent)]) == 0
    assert re.search(r"text +finished .* loss \d\.\d{3}", capsys.readouterr().out)


def test_samples_depend_on_seed_and_temperature(config, capsys):
    run, _ = train(config, "training.epochs=30", "training.optimizer.learning_rate=0.02")

    def written(*settings):
        options = [word for setting in settings for word in ("--set", setting)]
        assert main(["generate", str(run.path), "the k", *options]) == 0
        return capsys.readouterr().out

    assert written() == written() != written("decoding.sample.seed=2")
    assert written().startswith("the k") and len(written("decoding.max_length=30").removesuffix("\n")) == 35
    cold = [written("decoding.sample.temperature=0.001", f"decoding.sample.seed={seed}") for seed in (1, 2)]
    assert cold[0] == cold[1]


def test_a_model_of_words_trains_and_writes(config, capsys):
    options = ["data.vocabulary.kind=word", "training.truncate=7", "data.vocabulary.min_frequency=3"]
    assert main(["train", str(config), "--local", *options]) == 0
    said = capsys.readouterr().out
    assert "word vocabulary" in said and "bits per character" not in said and "perplexity" in said
    run = load_config(config).storage + "/text"
    assert main(["generate", run, "the king", "--decode", "greedy"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("the king") and "<unk>" not in said
    assert main(["generate", run, "--explain"]) == 2
    assert "models of characters" in capsys.readouterr().err
