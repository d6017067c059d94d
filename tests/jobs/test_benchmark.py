"""The benchmark script: what it compares is equal, what it writes is complete, what it is told wrongly it says."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repository import JOBS

sys.path += [str(JOBS), str(JOBS / "benchmarks")]

import benchmark
import captioning
import decoding
import kernels
import measure
import training
import vqa
from measure import Figure
from repository import JOBS
from unrolled import native
from unrolled.config.load import load_config
from unrolled.errors import UserError
from unrolled.models import Penalties, build_captioner
from unrolled.recurrence import CELLS
from unrolled.recurrence import state as nest


def figure(value=1.0, goal=None, better="lower", name="some/figure"):
    return Figure(name, value, goal, better, "a baseline", 5, (0.9, 1.1))


def run(*arguments):
    command = [sys.executable, benchmark.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_a_run_writes_its_figures_everywhere(tmp_path):
    names = ["absolute", "recurrence", "training", "decoding", "captioning", "questions"]
    record, page = tmp_path / "figures.json", tmp_path / "figures.md"
    done = run(*names, "--quick", "--threads", 1, "--json", record, "--markdown", page)
    assert done.returncode == 0, done.stderr
    written = json.loads(record.read_text(encoding="utf-8"))
    assert written.keys() == {"machine", "command", "figures"}
    assert {one["name"].partition("/")[0] for one in written["figures"]} == set(names)
    assert len({one["name"] for one in written["figures"]}) == len(written["figures"])
    for one in written["figures"]:
        assert one.keys() == {"name", "value", "goal", "better", "baseline", "runs", "spread", "absolute"}
        low, high = one["spread"]
        assert 0 < low <= high and (one["absolute"] or low <= one["value"] <= high)
        assert one["better"] in ("higher", "lower") and (one["runs"] >= 3 or one["absolute"]) and one["baseline"]
        assert one["goal"] is None or one["goal"] > 0
        assert one["name"] in done.stdout
        assert f"| {one['name']} |" in page.read_text(encoding="utf-8")
    assert written["machine"] in done.stdout and written["machine"] in page.read_text(encoding="utf-8")
    assert written["command"] in page.read_text(encoding="utf-8")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert_every_cell_is_measured({one["name"] for one in written["figures"]})


def assert_every_cell_is_measured(names):
    for cell in CELLS:
        for part in ("flops", "autograd"):
            assert any(name.startswith(f"recurrence/{cell}/") and name.endswith(part) for name in names)
    for cell in ("rnn", "lstm", "gru"):
        for part in ("fused", "bptt", "fused/ragged", "bptt/ragged"):
            assert any(name.startswith(f"recurrence/{cell}/") and name.endswith(part) for name in names)


def test_a_slip_in_the_name_is_answered():
    done = run("recurence")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == (
        "benchmark: 'recurence' is not a benchmark; there is absolute, recurrence, training, decoding, "
        "captioning, questions, ray, truncation, tuning, asha, kernels or all. Did you mean 'recurrence'?\n"
    )


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_missing_folder_is_answered_before_anything_is_measured(option, tmp_path, capsys):
    path = tmp_path / "nowhere" / "file"
    assert measure.main({"fails": lambda quick: 1 / 0}, ["fails", option, str(path)]) == 2
    assert str(path.parent) in capsys.readouterr().err


@pytest.mark.parametrize("threads", ["0", "-1", "many", "1.5"])
def test_threads_are_a_count(threads, capsys):
    with pytest.raises(SystemExit) as ended:
        measure.main({}, ["all", f"--threads={threads}"])
    assert ended.value.code == 2
    assert f"{threads!r} is not a number of threads" in capsys.readouterr().err


def test_names_are_chosen_once():
    assert measure.choose(["a", "b"], ["b", "b"]) == ["b"]
    assert measure.choose(["a", "b"], ["b", "all"]) == ["a", "b"]
    with pytest.raises(UserError):
        measure.choose(["a", "b"], ["a", "c"])


@pytest.mark.parametrize(
    ("value", "goal", "better", "missed"),
    [
        (1.0, 0.0, "lower", True),
        (1.0, 1.0, "lower", False),
        (1.0, 2.0, "higher", True),
        (2.0, 2.0, "higher", False),
        (math.nan, 1.0, "lower", True),
        (math.nan, 1.0, "higher", True),
        (9.0, None, "lower", False),
    ],
)
def test_check_fails_where_a_goal_is_missed(value, goal, better, missed, capsys):
    def work(quick):
        return [figure(goal=5.0), figure(value, goal, better, name="that/one")]

    assert measure.main({"work": work}, ["work", "--threads", "1"]) == 0
    capsys.readouterr()
    assert measure.main({"work": work}, ["work", "--threads", "1", "--check"]) == int(missed)
    assert ("missed: that/one" in capsys.readouterr().err) == missed


@pytest.mark.parametrize("value", [0.0123, 9.9996, 98.7654, 999.96, 1034.5])
def test_a_figure_of_any_size_takes_five_places(value):
    _, ratio, quartiles, *_ = measure.cells(replace(figure(value), spread=(value, value)))
    assert len(ratio) <= 5 and len(quartiles) <= 11
    assert float(ratio) == pytest.approx(value, rel=5e-4, abs=5e-4)


def test_a_ratio_is_the_median_of_the_rounds():
    made = measure.ratio(
        "x", [2.0, 9.0, 3.0, 8.0, 5.0], [1.0, 3.0, 2.0, 2.0, 1.0], goal=3, better="lower", baseline="b"
    )
    # The ratios of the rounds: 2, 3, 1.5, 4, 5.
    assert made == Figure("x", 3.0, 3, "lower", "b", 5, (2.0, 4.0))


def test_work_takes_turns_and_the_collector_rests():
    calls, collecting = [], []

    def work(name):
        calls.append(name)
        collecting.append(gc.isenabled())
        time.sleep(1.1 * measure.TURN_SECONDS)

    seconds = measure.take_turns({"a": lambda: work("a"), "b": lambda: work("b")}, 3)
    assert calls == ["a", "b"] * 5  # twice before the clock counts: to warm up and to see how long a call takes
    assert seconds.keys() == {"a", "b"} and all(len(times) == 3 for times in seconds.values())
    assert not any(collecting) and gc.isenabled()


def test_short_work_is_called_equally_often():
    counts = {"a": 0, "b": 0}

    def work(name, n):
        counts[name] += 1
        sum(range(n))

    measure.take_turns({"a": lambda: work("a", 10_000), "b": lambda: work("b", 50_000)}, 2)
    assert counts["a"] == counts["b"] > 4


@pytest.mark.parametrize("name", sorted(training.MODELS))
def test_the_plain_translator_computes_the_same_loss(name):
    """Else its speed would be the speed of something else."""
    config = training.configured(*training.MODELS[name])
    torch.manual_seed(0)
    ours = training.translator(config).double().eval()
    plain = training.PlainTranslator(config.model, config.data.vocabulary.size).double().eval()
    forward, backward = ours.encoder.stack.cells()[0]
    ((decoding,),) = ours.decoder.stack.cells()
    copies = {
        plain.reading.weight: ours.encoder.embedding.weight,
        plain.writing.weight: ours.decoder.embedding.weight,
        plain.key.weight: ours.decoder.attention.key.weight,
        plain.readout.weight: ours.decoder.readout.weight,
        plain.readout.bias: ours.decoder.readout.bias,
        plain.output.weight: ours.head.weight,
        plain.output.bias: ours.head.bias,
        **dict(zip(plain.bridges.parameters(), ours.decoder.bridges[0].parameters(), strict=True)),
        **dict(zip(plain.encoder.parameters(), forward.torch_weights() + backward.torch_weights(), strict=True)),
        **dict(zip(plain.decoder.parameters(), decoding.torch_weights(), strict=True)),
    }
    assert {id(parameter) for parameter in plain.parameters()} == {id(parameter) for parameter in copies}
    with torch.no_grad():
        for parameter, value in copies.items():
            parameter.copy_(value)
        (batch,) = training.caption_batches(config, 100, count=1)
        memory = ours.encode(batch.inputs, batch.input_mask)
        loss = ours.loss(memory, batch.decoder_inputs, batch.targets, batch.target_mask, smoothing=0.1)
        torch.testing.assert_close(plain.loss(batch, 0.1), loss / batch.target_mask.sum())


def test_the_products_that_are_counted_are_those_of_the_model():
    """By torch's own count, forward, of a batch without padding."""
    config = training.configured(*training.LSTM, "model.engine=autograd")
    model = training.translator(config).eval()
    tokens = torch.randint(4, 8000, (3, 9))
    everywhere = torch.ones(3, 9, dtype=torch.bool)
    batch = training.Batch(tokens, everywhere, tokens, tokens, everywhere)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = model.decoder(memory := model.encode(tokens, everywhere), tokens, model.start(memory))[0]
        model.head.log_probabilities(hidden.flatten(0, 1))
    bridges = 2 * 2 * 3 * 512 * 512  # once a sentence: not counted
    assert counter.get_total_flops() - bridges == sum(gemm.flops for gemm in training.gemms(config.model, batch))


@pytest.mark.parametrize(
    ("name", "together"),
    [("show_attend_tell", True), ("show_attend_tell", False), ("show_and_tell", False), ("karpathy", False)],
)
def test_the_products_of_captioning_are_those_of_the_model(name, together):
    """By torch's own count, forward; in float64, where nothing is compiled code that torch does not count."""
    config = captioning.configured(name, "model.engine=bptt", f"training.together={str(together).lower()}")
    (batch,) = captioning.caption_batches(config, 30, count=1)
    steps = int(batch.mask.sum(1).min())  # without padding
    batch = replace(
        batch,
        decoder_inputs=batch.decoder_inputs[:, :steps],
        targets=batch.targets[:, :steps],
        mask=batch.mask[:, :steps],
    )
    rows, owners = len(batch.mask), batch.photo_index if name == "show_attend_tell" else None
    places = captioning.positions(config)
    model = build_captioner(config.model, captioning.CHANNELS, places, captioning.VOCABULARY, Penalties())
    model = model.double().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        memory = model.encode(batch.photos.double())
        state = nest.select(model.start(memory), batch.photo_index)
        hidden = model.decoder.window(memory, batch.decoder_inputs, state, owners).outputs
        model.head.log_probabilities(hidden.flatten(0, 1))
    gates = 2 * rows * steps * config.model.decoder.hidden if name == "show_attend_tell" else 0  # β: one number a row
    made, given = captioning.gemms(config, batch)
    assert counter.get_total_flops() - gates == sum(gemm.flops for gemm in [*made, *given])


@pytest.mark.parametrize("name", vqa.SIZES)
def test_the_products_of_question_answering_are_those_of_the_model(name):
    """By torch's own count, forward, of a batch without padding; in float64 as above."""
    config = vqa.configured(name, "model.engine=autograd", "model.answers=classes")
    batch = vqa.question_batches(name, 60, count=1)[0]
    batch = replace(batch, tokens=torch.randint(4, 900, batch.tokens.shape), mask=torch.ones_like(batch.mask))
    model = vqa.classifier(config, vqa.SIZES[name]).double().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        joined = model(batch.photos.double(), batch.photo_index, batch.tokens, batch.mask)
        model.log_probabilities(joined)
    made, given = vqa.gemms(name, batch)
    assert counter.get_total_flops() == sum(gemm.flops for gemm in [*made, *given])


def test_batches_are_like_the_training_loops():
    config = load_config(training.CONFIG)
    batches = training.caption_batches(config, 400, count=3)
    assert len(batches) == 3
    for batch in batches:
        assert max(batch.inputs.numel(), batch.targets.numel()) <= 400
        assert int(batch.inputs.max()) < config.data.vocabulary.size


def test_the_plain_beam_finds_the_same():
    torch.manual_seed(0)
    config = training.configured("model.encoder.hidden=8", "model.decoder.hidden=16", "data.vocabulary.size=60")
    model = training.translator(config).double().eval()
    inputs = torch.randint(4, 60, (3, 6))
    with torch.no_grad():
        memory = model.encode(inputs, torch.ones_like(inputs, dtype=torch.bool))
        plain = [decoding.plain_beam(model, memory.select(torch.tensor([i])), 4, decoding.STEPS) for i in range(3)]
        assert plain == decoding.search(model, memory, decoding.Beam(4), batch=2)


def test_the_products_of_a_step_are_those_of_the_model():
    model = training.translator(training.configured(*training.LSTM, "model.decoder.conditioning=state")).eval()
    tokens = torch.randint(4, 8000, (5, 9))
    with torch.no_grad():
        memory = model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool))
        state = model.start(memory)
        with FlopCounterMode(display=False) as counter:
            model.step(tokens[:, 0], state, memory)
    assert counter.get_total_flops() == sum(gemm.flops for gemm in decoding.step_products(model, 5))


def test_kernels_are_left_out_by_name_and_every_goal_has_its_row():
    assert {name for stand_ins in kernels.WITHOUT.values() for name in stand_ins} <= set(native.__all__)
    made = {**kernels.UPDATES, **kernels.SEARCHES}
    tried = {f"{name}/{kernel}" for name, (_, several) in made.items() for kernel in several}
    assert {"/".join(row.split("/")[::2]) for row in kernels.GOALS} <= tried
    assert {row.rpartition("/")[2] for row in kernels.GOALS} == kernels.WITHOUT.keys() - {"all"}
