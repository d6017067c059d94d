"""`unrolled profile`: where the time of an update goes, for every task, alone and together."""

from __future__ import annotations

import re
import time

import pytest

from unrolled.cli import main
from unrolled.training.profiler import OUTSIDE, PHASES, Operation, Profile, profile, table

TEXT = "the king is dead, long live the queen!\n" * 20
CONFIGS = {
    "language": "task: language_modeling\ndata: {source: %s}\nmodel: {hidden: 8}\ntraining: {lanes: 4, truncate: 16}\n",
    "memory": "task: memory\ndata: {problem: adding, length: 20}\nmodel: {hidden: 8}\ntraining: {batch: 4}\n",
}
DIVERGING = ["training.optimizer.name=sgd", "training.optimizer.learning_rate=1e300"]
ALONE = [part for part in PHASES if part != "communication"]


@pytest.fixture
def write(tmp_path):
    """Writes one of `CONFIGS`; returns its path."""

    def written(name):
        (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIGS[name].replace("%s", str(tmp_path / "text.txt")), encoding="utf-8")
        return path

    return written


def parts(lines):
    """Milliseconds and share of every row of the upper table."""
    rows = [re.match(r"(\w+) +([\d.]+) +([\d.]+) %", line) for line in lines[: lines.index("")]]
    return {row[1]: (float(row[2]), float(row[3])) for row in rows if row}


def test_the_parts_are_the_whole(tiny, tmp_path, capsys):
    assert main(["profile", str(tiny), "--steps", "3", "model.decoder.cell=lstm"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == "" and max(map(len, lines)) <= 100
    assert lines[0].startswith("tiny: 3 updates of ") and "; 1 process with " in lines[0]
    rows = parts(lines)
    assert list(rows) == [*ALONE, "together"]
    milliseconds, share = rows.pop("together")
    assert share == 100 and milliseconds > 0
    assert sum(row[0] for row in rows.values()) == pytest.approx(milliseconds, abs=0.01)
    assert sum(row[1] for row in rows.values()) == pytest.approx(100, abs=0.5)
    assert not (tmp_path / "runs").exists()


def test_an_update_takes_no_longer_than_it_is_watched(tiny):
    began = time.perf_counter()
    measured = profile(tiny, steps=4)
    assert 0 < 4 * measured.total < time.perf_counter() - began
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert measured.skipped == 0 and measured.updates == 4 and measured.tokens > 0


def test_operations_and_what_is_around_them_are_all_of_the_time(tiny):
    operations = profile(tiny, steps=2).operations
    seconds = [operation.seconds for operation in operations]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(operation.share for operation in operations) == pytest.approx(1)
    calls = {operation.name: operation.calls for operation in operations}
    assert calls[OUTSIDE] == 1 and calls["aten::mm"] >= 1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("overrides", [[], ["training.accumulate=2", "training.moving_average=0.9"]], ids=len)
def test_other_tasks(write, name, overrides):
    """More updates than an epoch of the language model has, too: it begins again, with an empty state."""
    measured = profile(write(name), overrides=overrides, steps=16)
    assert list(measured.seconds) == ALONE and measured.skipped == 0
    together = 2 if overrides else 1
    assert measured.tokens == pytest.approx({"language": 4 * 16, "memory": 4}[name] * together, rel=0.2)


def test_truncated_windows(tiny):
    """The walk back through the encoder, behind the last window, belongs to the backward pass."""
    whole = profile(tiny, overrides=["training.truncate=4"], steps=2).seconds
    assert list(whole) == ALONE and whole["backward"] > 0


def test_communication_is_a_part_of_what_workers_do_together(write, capsys):
    assert main(["profile", str(write("language")), "--steps", "2", "--workers", "2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "2 processes with " in lines[0] and " each" in lines[0]
    assert list(parts(lines)) == [*PHASES, "together"]
    assert captured.err == ""


def test_a_run_is_profiled_by_its_config(tiny, tmp_path, capsys):
    assert main(["train", str(tiny), "--local", "--smoke"]) == 0
    run = tmp_path / "runs" / "tiny"
    before = sorted(run.rglob("*"))
    capsys.readouterr()
    assert main(["profile", str(run), "--steps", "1"]) == 0
    assert capsys.readouterr().out.startswith("tiny: 1 update of ")
    assert sorted(run.rglob("*")) == before


def test_updates_that_are_not_made_are_counted(tiny, capsys):
    assert main(["profile", str(tiny), "--steps", "2", *DIVERGING]) == 0
    assert "2 updates not made: loss or gradient not finite" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_update_that_fails_ends_with_code_1(tiny, workers, capfd):
    words = [*DIVERGING, "training.detect_anomaly=true"]
    assert main(["profile", str(tiny), "--steps", "2", "--workers", str(workers), *words]) == 1
    error = capfd.readouterr().err
    assert "not finite at step" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.yaml"], "missing.yaml"),
        (["missing"], "is not a run folder"),
        (["CONFIG", "--steps", "0"], "--steps 0: give 1 or more."),
        (["CONFIG", "--steps", "many"], "--steps"),
        (["CONFIG", "--workers", "0"], "--workers 0: give 1 or more."),
        (["CONFIG", "--workers", "1..2"], "--workers"),
        (["CONFIG", "model.decoder.cell=gur"], "gru"),
        (["CONFIG", "data.source=./nowhere"], "./nowhere"),
    ],
)
def test_bad_input_is_one_sentence(words, message, tiny, capsys):
    assert main(["profile", *(str(tiny) if word == "CONFIG" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unrolled: ") and message in error and error.count("\n") == 1


def test_long_names_and_large_numbers_fit():
    operations = [Operation("autograd::engine::evaluate_function: " + "Long" * 20, 12_345.6, 123.4567, 1.0)]
    seconds = dict.fromkeys(PHASES, 123.4567)
    lines = table(Profile("x", "2 processes with 16 threads each", "float32", 20, 3, 1e6, seconds, 5, operations))
    assert max(map(len, lines)) <= 100
    assert re.search(r"Long\w*… +12,345.6 123456.700 +100.0 %$", lines[-2])
