"""The command line as a user meets it: real files, real training in this process, exact exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

import unrolled
from repository import ROOT
from small_configs import write_tiny
from training_runs import copied
from unrolled.cli import main

FAST = ["training.epochs=1", "training.max_steps=6", "training.validate_every=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(write_tiny(folder)), "--local", *FAST]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture
def run(trained, tiny, tmp_path, capsys):
    """A trained run of its own; the training's words are read."""
    capsys.readouterr()
    return copied(trained, tmp_path / "runs")


def fails(capsys, arguments, code=2):
    """Runs a command that must fail; returns its one sentence."""
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("unrolled: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_train_evaluate_generate(tiny, tmp_path, capsys):
    assert main(["train", str(tiny), "--local", *FAST, "model.decoder.cell=lstm"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("run ") and "gru 12 → lstm 12" in said[1] and "without Ray" in said[3]
    assert said[-2].startswith("trained: 6 steps")
    folder = tmp_path / "runs" / "tiny"
    for name in ("config.yaml", "vocabulary/input.json", "metrics.jsonl", "checkpoints/step-6/model.safetensors"):
        assert (folder / name).is_file()

    assert main(["evaluate", str(folder), "--local", "--decode", "greedy,sample,beam", "decoding.beam.size=3"]) == 0
    said = capsys.readouterr().out
    assert "nrefs:1|case:mixed" in said and str(folder / "evaluation/test/report.html") in said
    results = json.loads((folder / "evaluation/test/results.json").read_text(encoding="utf-8"))
    assert set(results["strategies"]) == {"greedy", "sample", "beam"}
    assert results["strategies"]["beam"]["settings"]["size"] == 3
    for scores in results["strategies"].values():
        assert {"bleu", "chrf", "exact_match", "intervals", "signatures"} <= scores.keys()
    rows = [json.loads(line) for line in (folder / "evaluation/test/outputs.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == results["examples"] == 96
    assert "decoding.beam.size=3" in (folder / "evaluation/test/report.html").read_text(encoding="utf-8")

    assert main(["generate", str(folder), "3 March 2025", "5. Mai 1999", "--decode", "greedy"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_generate_reads_files_and_standard_input(run, tmp_path, capsys, monkeypatch):
    texts = tmp_path / "texts.txt"
    texts.write_text("3 March 2025\n\n5. Mai 1999\n", encoding="utf-8")
    assert main(["generate", str(run), "--file", str(texts)]) == 0
    from_file = capsys.readouterr().out
    assert len(from_file.split("\n")) == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(texts.read_bytes())))
    assert main(["generate", str(run)]) == 0
    assert capsys.readouterr().out == from_file


def test_options_and_words_reach_the_search(run, capsys):
    def written(*words):
        assert main(["generate", str(run), "3 March 2025", "5. Mai 1999", *words]) == 0
        return capsys.readouterr().out.splitlines()

    for spelling in ("beam:size=4,groups=2,diversity=1.5", "mbr:samples=3,top_k=9", "best:samples=3,typical=0.9"):
        assert len(written("--decode", spelling)) == 2
    assert all(line.startswith("199") for line in written("--set", "decoding.prefix='199'", "--decode", "sample"))
    assert len(written("--decode", "beam:min_length=9,max_length=9,coverage_penalty=0.2")) == 2
    often = Counter("".join(written("--decode", "sample"))).most_common(1)[0][0]
    assert not any(often in line for line in written("--set", f"decoding.banned=['{often}']", "--decode", "sample"))
    assert all("0-0" in line for line in written("--set", "decoding.required=['0-0']", "--decode", "beam:max_length=9"))


def test_options_and_words_that_cannot_be_kept_are_refused(run, capsys):
    for arguments, words in [
        (["--decode", "greedy:size=3"], "greedy has no option 'size'"),
        (["--decode", "sample", "--set", "decoding.required=['0']"], "decoding.required wants a beam search"),
        (["--set", "decoding.prefix=ü§"], "decoding.prefix: the target vocabulary cannot write all of 'ü§'"),
        (["--set", "decoding.sample.top_p=1.5"], "decoding.sample.top_p"),
    ]:
        assert words in fails(capsys, ["generate", run, "3 March 2025", *arguments])


@pytest.mark.parametrize(
    ("spelling", "count"), [("beam:size=8", 3), ("beam:size=8", 8), ("best:samples=9", 2), ("sample", 4), ("greedy", 1)]
)
def test_n_best_lists_are_in_order_and_begin_with_the_output(run, capsys, spelling, count):
    texts = ["3 March 2025", "5. Mai 1999"]
    arguments = ["generate", str(run), *texts, "--decode", spelling]
    assert main([*arguments, "--n-best", str(count)]) == 0
    lists = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")]
    # Two of the eight hypotheses of a beam may be one text.
    assert len(lists) == 2 and all(len(lines) == count or count == 8 > len(lines) > 5 for lines in lists)
    for lines in lists:
        scores = [float(line.split("\t")[0]) for line in lines]
        assert scores == sorted(scores, reverse=True)
    assert main(arguments) == 0
    outputs = capsys.readouterr().out.splitlines()
    written = [[line.split("\t", 1)[1] for line in lines] for lines in lists]
    if spelling == "sample":  # sample 0 is the output; others may be more probable
        assert all(output in texts for output, texts in zip(outputs, written, strict=True))
    else:
        assert [texts[0] for texts in written] == outputs
        assert all(len(set(texts)) == len(texts) for texts in written)


def test_n_best_lists_in_python_have_the_scores(run):
    (found,) = unrolled.load(run).candidates(["3 March 2025"], 3, "beam:size=8")
    assert found[0].text == unrolled.load(run).generate(["3 March 2025"], "beam:size=8")[0]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True) and len(found) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n-best", "6"], "beam keeps 5 hypotheses; accepted is 1 to 5, or a larger size, as in beam:size=6."),
        (["--n-best", "9", "--decode", "best:samples=8"], "best draws 8 samples; accepted is 1 to 8"),
        (["--n-best", "2", "--decode", "greedy"], "greedy finds one output of an input; beam, best and sample"),
        (["--n-best", "2", "--decode", "mbr"], "mbr finds one output of an input"),
        (["--n-best", "0"], "--n-best is 0; accepted is a whole number, 1 or more."),
        (["--n-best", "two"], "invalid int value: 'two'"),
        (["--n-best", "2", "--explain"], "not allowed with argument --n-best"),
    ],
)
def test_n_best_lists_that_cannot_be_made_are_refused(run, capsys, arguments, words):
    assert words in fails(capsys, ["generate", run, "3 March 2025", *arguments])


def test_required_words_do_not_keep_a_run_from_its_greedy_validations(tiny):
    assert main(["train", str(tiny), "--local", "--smoke", "name=required", "decoding.required=['0']"]) == 0


def test_json_lines_are_json(tiny, capsys):
    assert main(["train", str(tiny), "--local", "--json", *FAST]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["kind"] for row in rows} == {"train", "validation"}


def test_runs_lists_them(run, capsys):
    assert main(["runs", str(run.parent)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.startswith("RUN") and line.startswith("tiny") and "finished" in line and len(line) <= 100


def test_config_prints_the_whole_and_the_reference(tiny, capsys):
    assert main(["config", str(tiny), "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert main(["config", "--schema"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "| `seed` | all | whole number | `1` | random seed of parameters, batches and dropout |" in rows
    assert len(rows) == len(set(rows)) > 150


def test_smoke_tries_a_config(tiny, capsys):
    assert main(["train", str(tiny), "--local", "--smoke"]) == 0
    assert "4 steps" in capsys.readouterr().out


REPRESENTATIVE = {"multi30k", "show_attend_tell", "daquar", "coco", "shakespeare", "adding"}
"""One config per family; the others run in the slow suite."""


def shipped_configs():
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        yield pytest.param(path, id=path.stem, marks=() if path.stem in REPRESENTATIVE else pytest.mark.slow)


@pytest.mark.parametrize("config", shipped_configs())
def test_every_shipped_config_runs(config, tmp_path, shared_data, capsys):
    if config.stem == "vqa":
        pytest.skip("VQA's own files are not at hand")
    overrides = [f"storage={tmp_path}"]
    if found := re.search(r"\n  source: \.\./shared/data/(\S+)", config.read_text(encoding="utf-8")):
        overrides.append(f"data.source={shared_data / found[1]}")
    if config.parent.name in ("captioning", "pointing", "question_answering"):
        overrides.append("data.limit=16")  # whose features are the most of the work
    assert main(["train", str(config), "--local", "--smoke", *overrides]) == 0
    decode = ["--decode", "greedy"] if config.parent.name in ("translation", "captioning") else []
    assert main(["evaluate", str(tmp_path / config.stem), "--local", "--split", "validation", *decode]) == 0


def test_resume_and_overwrite(run, tiny, capsys):
    assert "exists already" in fails(capsys, ["train", tiny, "--local"])
    assert main(["train", str(tiny), "--local", "--resume", "training.max_steps=8"]) == 0
    assert "continuing from step 6" in capsys.readouterr().out
    assert main(["train", str(run / "config.yaml"), "--local", "--overwrite"]) == 0


def test_the_python_interface(tiny, capsys):
    trained = unrolled.train(tiny, local=True, overrides=FAST)
    report = trained.evaluate(split="validation", decode=["greedy"], local=True)
    assert report.path.is_file() and set(report.scores) == {"greedy"}
    assert len(trained.generate(["3 March 2025"])) == 1
    assert unrolled.load(trained.path).path == trained.path


def test_bad_input_gets_a_sentence_and_writes_nothing(tiny, tmp_path, capsys):
    for arguments, words in [
        (["trian"], "Did you mean 'train'?"),
        (["train", tmp_path / "no.yaml"], "no such config file"),
        (["train", tiny, "--local", "model.decoder.sell=gru"], "Did you mean 'cell'?"),
        (["train", tiny, "--local", "training.keep=two"], "whole number"),
        (["train", tiny, "--local", "data.source=./nowhere"], "neither a folder here"),
        (["train", tiny, "--local", "data.columns.target=iso"], "no column 'iso'"),
        (["train", tiny, "--local", "data.splits.train=learn"], "no split 'learn'"),
        (["train", tiny, "--local", "--resume"], "no run to resume"),
        (["train", tiny, "--local", "--workers", "2"], "--local"),
        (["train", tiny, "--workers", "two"], "'two' is no number of workers, such as 2, or 1..4"),
        (["train", tiny, "--workers", "3..2"], "--workers 3..2: the second number must not be smaller"),
        (["train", tiny, "--local", "--workers", "1..2"], "--workers 1..2 cannot be kept"),
        (["train", tiny, "--wrkers", "2"], "--wrkers"),
        (["evaluate", tmp_path / "runs" / "tiny"], "is not a run folder"),
        (["config"], "--schema"),
        (["runs", tmp_path / "none"], "no such folder"),
    ]:
        assert words in fails(capsys, arguments)
    assert not (tmp_path / "runs").exists()


def test_bad_evaluations_write_nothing(run, capsys):
    for arguments, words in [
        (["--decode", "greedy,bream"], "Did you mean 'beam'?"),
        (["--decode", "greedy,greedy"], "given twice"),
        (["--split", "tset"], "no split 'tset'"),
        (["--checkpoint", "step-5"], "Did you mean 'step-6'?"),
        (["model.encoder.hidden=13"], "belongs to another model"),
    ]:
        assert words in fails(capsys, ["evaluate", run, "--local", *arguments])
    assert not (run / "evaluation").exists()


def test_a_diverging_run_ends_with_code_1(tiny, capsys):
    arguments = ["train", tiny, "--local", "training.optimizer.name=sgd", "training.optimizer.learning_rate=1e300"]
    arguments += ["training.skip_non_finite=1"]
    assert "not finite" in fails(capsys, arguments, code=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint(tiny, tmp_path, number):
    command = [sys.executable, "-m", "unrolled", "train", str(tiny), "--local", "training.epochs=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped:" in said and "--resume" in said and "Traceback" not in said
    assert list((tmp_path / "runs" / "tiny" / "checkpoints").glob("step-*"))


def test_help_is_quick_to_read():
    said = subprocess.run(
        [sys.executable, "-m", "unrolled", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(len(line) <= 100 for line in said.splitlines())
