"""Ensembles of text-generating runs, on the command line and in Python."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import unrolled
from small_configs import TINY
from unrolled.cli import main
from unrolled.cluster.ray_session import connect
from unrolled.data.batching import collate_inputs
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN
from unrolled.decoding import EnsembleScorer
from unrolled.evaluation import load_task_and_model
from unrolled.models import Scorer

TEXTS = ["3 March 2025", "5. Mai 1999", "Monday 12 July 2010"]
LONGEST = 14
RUNS = {
    "one": ["data.limit=200"],
    "two": ["data.limit=200", "seed=2", "model.decoder.cell=lstm", "model.decoder.hidden=16"],
    "double": ["data.limit=200", "seed=3", "training.precision=float64"],
    "blind": ["data.limit=200", "model.decoder.conditioning=state"],
    "words": ["data.limit=200", "data.vocabulary.kind=word"],
    "back": ["data.limit=200", "data.columns={input: target, target: input}"],
}
REMEMBER = """
task: memory
name: adding
data: {problem: adding, length: 5, validation: 8, test: 8}
training: {max_steps: 2, validate_every: 2}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs that write something different for most inputs."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "tiny.yaml"
    path.write_text(TINY + f"storage: {folder}\n", encoding="utf-8")
    more = ["training.max_steps=40", "training.epochs=99", "training.optimizer.learning_rate=0.02"]
    for name, options in RUNS.items():
        unrolled.train(path, local=True, overrides=[f"name={name}", *more, "training.validate_every=40", *options])
    (folder / "adding.yaml").write_text(REMEMBER + f"storage: {folder}\n", encoding="utf-8")
    unrolled.train(folder / "adding.yaml", local=True)
    return folder


@pytest.fixture
def runs(trained, tmp_path, capsys):
    """A folder of runs of its own; the training's words are read."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    return tmp_path


def opened(folder, *names):
    return [unrolled.load(folder / name) for name in names]


def read(folder):
    rows = (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), [json.loads(row) for row in rows]


def test_a_run_with_itself_writes_what_it_writes_alone(runs):
    (one,) = opened(runs, "one")
    decode = ["greedy", "beam:min_length=8", "beam:coverage_penalty=0.2", "sample", "mbr:samples=4"]
    alone = one.evaluate(decode=decode, local=True)
    before = {path: path.read_bytes() for path in alone.path.parent.rglob("*") if path.is_file()}
    together = one.evaluate(decode=decode, local=True, ensemble=[one])
    assert together.path.parent == one.path / "evaluation" / "test-with-one"
    (results, rows), (single, own) = read(together.path.parent), read(alone.path.parent)
    assert [row["outputs"] for row in rows] == [row["outputs"] for row in own]
    assert len({row["outputs"]["beam:min_length=8"] for row in rows}) > 3
    for name in decode[:2]:
        assert together.scores[name]["chrf"] == alone.scores[name]["chrf"]
        assert together.scores[name]["model_score"] == pytest.approx(alone.scores[name]["model_score"], abs=1e-6)
    assert [row.get("attention") for row in rows] == [row.get("attention") for row in own]
    assert results["parameters"] == 2 * single["parameters"]
    assert {path: path.read_bytes() for path in before} == before  # the run's own report is as it was


@torch.no_grad()
@pytest.mark.parametrize("others", [["two"], ["two", "double"], ["blind"]])
def test_every_greedy_step_takes_the_best_mean_probability(runs, others):
    one, *more = opened(runs, "one", *others)
    found = one.candidates(
        TEXTS, 1, "greedy:length_factor=null", ensemble=more, overrides=["decoding.precision=float32"]
    )
    loaded = [load_task_and_model(run.predictor().members, torch.device("cpu")) for run in (one, *more)]
    vocabularies = loaded[0][0].vocabularies
    for text, (candidate,) in zip(TEXTS, found, strict=True):
        padded, mask = collate_inputs(vocabularies.input.encode([text]))
        memories = [model.encode(padded, mask) for _, model in loaded]
        states = [model.start(memory) for (_, model), memory in zip(loaded, memories, strict=True)]
        written, total, last = [], 0.0, BEGIN
        while last != END and len(written) < LONGEST:
            mean = torch.zeros(len(vocabularies.target), dtype=torch.float64)
            for place, (_, model) in enumerate(loaded):
                logits, states[place] = model.step(torch.tensor([last]), states[place], memories[place])
                mean += logits[0].double().softmax(0) / len(loaded)
            allowed = mean.clone()
            allowed[[PAD, BEGIN, UNKNOWN]] = 0
            last = int(allowed.argmax())
            written.append(last)
            total += float(mean[last].log())
        assert candidate.text == vocabularies.target.decode([[token for token in written if token != END]])[0]
        assert candidate.score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_mean_scorer_means_what_its_scorers_say(precision):
    draw = torch.Generator().manual_seed(1)
    kinds = [(5, torch.float32), (9, torch.float64), (5, torch.float32)]
    parts = [torch.randn(4, size, generator=draw, dtype=kind) for size, kind in kinds]
    scorers = [
        Scorer(torch.randn(30, size, generator=draw, dtype=kind), torch.zeros(30, dtype=kind), precision)
        for size, kind in kinds
    ]
    each = [scorer.logits(part)[1].double().softmax(1) for scorer, part in zip(scorers, parts, strict=True)]
    want = (sum(each) / 3).log()
    mean, outputs, never = EnsembleScorer(scorers), torch.cat(parts, 1), torch.zeros(30, dtype=torch.bool)
    never[int(want[0].argmax())] = True
    sums, logits = mean.logits(outputs)
    torch.testing.assert_close(logits - sums[:, None], want, atol=1e-5, rtol=0, check_dtype=False)
    sums, values, tokens = mean.topk(outputs, 3, never)
    best = want.masked_fill(never, -float("inf")).topk(3)
    assert torch.equal(tokens, best.indices)
    torch.testing.assert_close(values - sums[:, None], best.values, atol=1e-5, rtol=0, check_dtype=False)


def test_an_evaluation_of_an_ensemble_says_what_it_is_and_goes_on(runs, capsys):
    words = ["evaluate", str(runs / "one"), "--ensemble", str(runs / "two"), str(runs / "double"), "--local"]
    words += ["--decode", "greedy,beam:coverage_penalty=0.2", "decoding.beam.size=3"]
    assert main(words) == 0
    capsys.readouterr()
    folder = runs / "one" / "evaluation" / "test-with-two+double"
    results, rows = read(folder)
    assert results["run"] == "one + two + double" and results["checkpoint"].startswith("one step-40; two step-40")
    assert results["ensemble"] == [str(runs / name) for name in ("one", "two", "double")]
    alone = [sum(p.numel() for p in run.predictor().model.parameters()) for run in opened(runs, "one", "two")]
    assert results["parameters"] == 2 * alone[0] + alone[1]
    assert all(sum(row) == pytest.approx(1, abs=0.03) for row in rows[0]["attention"]["weights"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "one + two + double" in page and "# double\n" in page and "3 models as one, decoded in 2 ways" in page
    assert not (runs / "one" / "evaluation" / "test").exists()

    again = shlex.split(results["command"])
    assert again[:6] == ["unrolled", *words[:5]] and "--local" not in again
    assert main([*again[1:], "--local"]) == 0
    assert "greedy: 96 of 96 found" not in (said := capsys.readouterr().out) and "greedy: 200 of 200 found" in said
    assert read(folder)[1] == rows
    weights = next((runs / "double" / "checkpoints").glob("step-*")) / "model.safetensors"
    changed = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(changed, weights)
    record = weights.with_name("progress.json")
    values = json.loads(record.read_text(encoding="utf-8"))
    values["sha256"][weights.name] = unrolled.training.checkpoint.sha256(weights)
    record.write_text(json.dumps(values), encoding="utf-8")
    assert main(words) == 0
    assert "found" not in capsys.readouterr().out and read(folder)[1] != rows


def test_generate_takes_texts_before_and_behind_the_ensemble(runs, capsys):
    one, two, double = opened(runs, "one", "two", "double")
    beam = "beam:min_length=8"
    want = one.generate(TEXTS, beam, ensemble=[two, double])
    assert want != one.generate(TEXTS, beam)
    together = ["--ensemble", str(two.path), "--ensemble", str(double.path)]
    for words in ([*TEXTS, *together], [*together, *TEXTS], [TEXTS[0], *together, *TEXTS[1:]]):
        assert main(["generate", str(one.path), *words, "--decode", beam]) == 0
        assert capsys.readouterr().out.splitlines() == want
    assert main(["generate", str(one.path), *together, "--decode", beam, "--n-best", "2", TEXTS[0]]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split("\t")[1] == want[0]


def test_unknown_words_are_copied_from_where_all_look(runs, capsys):
    words = ["generate", str(runs / "words"), "--ensemble", str(runs / "words"), "--decode", "greedy", *TEXTS]
    assert main([*words, "--set", "decoding.replace_unknown=true"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TEXTS)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate one --ensemble words", "words and {}/one cannot answer together: vocabulary/input.json of the one"),
        ("evaluate one --ensemble two back", "back and {}/one cannot answer together: the one writes input, the other"),
        ("evaluate one --ensemble adding", "the one was trained with task=memory, the other with task=translation"),
        ("evaluate adding --ensemble adding", "runs of task memory write no answers together; leave it out"),
        ("evaluate one two --ensemble double", "goes with one run, not with 2"),
        ("evaluate one --ensemble tow", "tow: is not a run folder"),
        ("evaluate one --ensemble two --checkpoint step-3", "--checkpoint step-3: {}/one has"),
        ("evaluate one --ensemble blind --decode beam:coverage_penalty=0.2", "blind: beam.coverage_penalty wants"),
        ("generate one x --ensemble blind --set decoding.replace_unknown=true", "blind: decoding.replace_unknown"),
        ("generate one x --ensemble words", "cannot answer together"),
        ("generate one --ensemble two --explain", "--explain shows the steps of one run"),
        ("generate one x --ensmble two", "unrecognized arguments: --ensmble"),
        ("evaluate one --ensemble", "argument --ensemble: expected at least one argument"),
        ("evaluate --ensemble one --outputs one --references one", "--ensemble cannot be given as well"),
    ],
)
def test_what_cannot_decode_together_is_one_sentence(runs, capsys, command, said):
    words = [str(runs / word) if word in {*RUNS, "adding", "tow"} else word for word in command.split()]
    assert main([*words, *(["--local"] if words[0] == "evaluate" else [])]) == 2
    error = capsys.readouterr().err
    assert said.format(runs) in error and error.count("\n") == 1, error
    assert not list(runs.glob("*/evaluation"))


def test_a_member_without_a_whole_checkpoint_is_named(runs, capsys):
    words = ["evaluate", str(runs / "one"), "--ensemble", str(runs / "two"), "--local"]
    weights = next((runs / "two" / "checkpoints").glob("step-*")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(words) == 2
    assert "is damaged" in (said := capsys.readouterr().err) and str(weights) in said
    shutil.rmtree(runs / "two" / "checkpoints")
    assert main(words) == 2
    assert f"{runs / 'two'}: has no checkpoint yet" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_write_the_same_together(runs, tmp_path):
    one, two = opened(runs, "one", "two")
    outcomes = []
    with connect(None, tmp_path / "log.txt"):
        for options in ({"local": True}, {"workers": 2}):
            report = one.evaluate(decode=["greedy", "beam", "mbr:samples=4"], ensemble=[two], **options)
            outcomes.append([row["outputs"] for row in read(report.path.parent)[1]])
            shutil.rmtree(one.path / "evaluation")
    assert outcomes[0] == outcomes[1]
