"""Evaluations of text-generating runs: several strategies, the decode cache, and files of outputs made elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics

import pytest
from safetensors.torch import load_file, save_file

import unrolled
from small_configs import TINY
from unrolled.cli import main
from unrolled.errors import RunFailed
from unrolled.evaluation.results import f1_by_frequency, score_table
from unrolled.evaluation.worker_pool import chunk_by_length
from unrolled.metrics import score
from unrolled.tasks import make_task

LIMIT = 300
"""Pairs of a split: two whole chunks and a short one."""
DECODE = (
    "greedy,sample,sample:temperature=0.5,samples=3,beam:size=1,length_penalty=0.6,beam:size=4,best=3,best:samples=4"
)


def trained(folder):
    """Trains a run that writes something different for most inputs."""
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("limit: 96", f"limit: {LIMIT}") + f"storage: {folder}\n", encoding="utf-8")
    few = ["training.max_steps=40", "training.optimizer.learning_rate=0.02", "training.validate_every=40"]
    return unrolled.train(path, local=True, overrides=few).path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(original, tmp_path, capsys):
    """A run of its own to evaluate; the training's words are read."""
    folder = tmp_path / "tiny"
    shutil.copytree(original, folder)
    capsys.readouterr()
    return folder


def evaluate(run, *words, code=0):
    assert main(["evaluate", str(run), "--local", *words]) == code
    return run / "evaluation" / "test"


def read(folder):
    rows = (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "results.json").read_text(encoding="utf-8")), [json.loads(row) for row in rows]


def without_times(results):
    """What must be the same whoever decoded, when, and how often."""
    for name in ("created", "workers", "command"):
        del results[name]
    for row in results["strategies"].values():
        del row["seconds"], row["sentences_per_second"]
    return results


def test_what_is_told_of_many_strategies(run, capsys):
    results, rows = read(evaluate(run, "--decode", DECODE))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines if not line.startswith("report: "))
    strategies = results["strategies"]
    names = ["greedy", "sample", "sample:temperature=0.5,samples=3", "beam:size=1,length_penalty=0.6"]
    names += ["beam:size=4,best=3", "best:samples=4"]
    assert list(strategies) == names == list(rows[0]["outputs"])
    assert [row["kind"] for row in strategies.values()] == ["greedy", "sample", "sample", "beam", "beam", "best"]
    for name, row in strategies.items():
        assert set(row["letters"]) == set(row["intervals"]) == {"exact_match", "bleu", "chrf"}
        assert row["model_score"] < 0 < row["distinct_1"] <= 100 and row["length_ratio"] > 0
        texts = [one["outputs"][name] for one in rows]
        assert row["chrf"] == score(["chrf"], texts, [one["reference"] for one in rows])["chrf"]
    greedy, narrow = strategies["greedy"], strategies["beam:size=1,length_penalty=0.6"]
    assert narrow["chrf"] == greedy["chrf"] and narrow["model_score"] == pytest.approx(greedy["model_score"])
    assert strategies["sample"]["model_score"] < strategies["best:samples=4"]["model_score"]
    assert set(results["comparisons"]) == {"exact_match", "bleu", "chrf"}
    comparison = results["comparisons"]["chrf"]
    assert comparison["systems"] == names and len(comparison["p"]) == len(comparison["corrected"][0]) == 6
    for name in ("beam:size=4,best=3", "best:samples=4"):
        for row in rows:
            found = row.get("nbest", {}).get(name, [{"text": row["outputs"][name], "score": 0}])
            assert found[0]["text"] == row["outputs"][name] and 1 <= len(found) <= 4
            assert len({one["text"] for one in found}) == len(found)
            assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert [("attention" in row) for row in rows] == [True] * 6 + [False] * (LIMIT - 6)
    looked = rows[0]["attention"]
    assert looked["input"][-1] == looked["output"][-1] == "</s>" and len(looked["weights"]) == len(looked["output"])
    assert "".join(looked["input"][:-1]) == rows[0]["input"] and looked["strategy"] in names
    assert all(sum(row) == pytest.approx(1, abs=0.03) and len(row) == len(looked["input"]) for row in looked["weights"])


def test_five_of_a_long_list_of_the_best_are_kept(run):
    _, rows = read(evaluate(run, "--decode", "beam:size=8,best=8"))
    assert max(len(found) for row in rows for found in row.get("nbest", {}).values()) == 5


def test_several_samples_are_several_corpora(run):
    """Sample 0 is what one sample would be; mean and deviation are those of whole corpora."""
    several = "sample:samples=3"
    folder = evaluate(run, "--decode", f"sample,{several}")
    results, rows = read(folder)
    one, three = results["strategies"]["sample"], results["strategies"][several]
    assert three["chrf"] == one["chrf"] and "samples" not in one and three["samples"]["count"] == 3
    files = [file.read_text(encoding="utf-8") for file in (folder / "decoded").iterdir()]
    lines = [json.loads(line) for file in files for line in file.splitlines()]
    plan, corpora = list(chunk_by_length([row["input"] for row in rows])), [{}, {}, {}]
    for line in lines:
        for place, (_, candidates) in zip(plan[line["chunk"]], line["answers"], strict=True):
            for corpus, (text, _) in zip(corpora, candidates, strict=False):
                corpus[place] = text
    references = [row["reference"] for row in rows]
    each = [score(["chrf"], [corpus[i] for i in range(LIMIT)], references)["chrf"] for corpus in corpora]
    assert three["samples"]["mean"]["chrf"] == pytest.approx(statistics.mean(each))
    assert three["samples"]["deviation"]["chrf"] == pytest.approx(statistics.stdev(each)) != 0


def test_what_is_decoded_is_not_decoded_again(run, capsys):
    folder = evaluate(run, "--decode", "greedy,beam")
    first = read(folder)
    (folder / "results.json").unlink()
    capsys.readouterr()
    evaluate(run, "--decode", "greedy,beam")
    said = capsys.readouterr().out
    assert "greedy: 300 of 300 found from an earlier start\nbeam: 300 of 300 found" in said and "00 decoded" not in said
    second = read(folder)
    assert second[1] == first[1]
    assert second[0]["strategies"] == first[0]["strategies"]  # speeds too: those of the decoding
    for change in (["decoding.banned=['19']"], ["decoding.banned=['19']", "data.limit=250"]):
        before = set((folder / "decoded").iterdir())
        evaluate(run, "--decode", "greedy", *change)
        assert "found" not in capsys.readouterr().out
        after = set((folder / "decoded").iterdir())
        assert len(after) == 1 and not after & before  # what nobody can use any more is gone
    evaluate(run, "--decode", "greedy", *change, "decoding.beam.size=4")  # which greedy does not read
    assert "greedy: 250 of 250 found" in capsys.readouterr().out


def test_torn_and_damaged_files_are_decoded_where_they_must_be(run, capsys):
    folder = evaluate(run, "--decode", "greedy")
    want = without_times(read(folder)[0]), read(folder)[1]
    (file,) = (folder / "decoded").iterdir()
    whole = file.read_bytes()
    first, second, third, _ = whole.split(b"\n")
    for content, found, damaged in (
        (b"\n".join([first, second, third[:-9]]), 256, ""),
        (first[:40], 0, ""),
        (b"\n".join([first, second.replace(b'"answers": [[-', b'"answers": [[-1'), third, b""]), 172, "line 2"),
        (b"\xff\xfe\n[1]\n{}\n" + third + b"\n", 44, "line 1, 2, 3"),
    ):
        file.write_bytes(content)
        capsys.readouterr()
        evaluate(run, "--decode", "greedy")
        said = capsys.readouterr().out
        assert (f"greedy: {found} of 300 found from an earlier start" in said) == (found > 0)
        assert (": damaged in" in said) == bool(damaged) and damaged in said
        assert (without_times(read(folder)[0]), read(folder)[1]) == want
        assert len(file.read_bytes().splitlines()) == 3


def break_for(run, character):
    """Makes the model give NaN for every text that has the character."""
    vocabulary = json.loads((run / "vocabulary" / "input.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder,) = (run / "checkpoints").glob("step-*")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.embedding.weight"][vocabulary[character]] = float("nan")
    save_file(weights, folder / "model.safetensors")
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    progress["sha256"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")


def test_nan_names_the_sentence_and_keeps_what_is_decoded(run, capsys):
    inputs, _ = make_task(unrolled.load(run).folder.config(), run / "vocabulary").examples("test")
    plan = [[inputs[i] for i in chunk] for chunk in chunk_by_length(inputs)]
    first = {letter: next(i for i, texts in enumerate(plan) if letter in "".join(texts)) for letter in "".join(inputs)}
    character = max(first, key=lambda letter: (first[letter], letter))
    assert first[character] > 0
    broken = [number for number, text in enumerate(inputs) if character in text]
    break_for(run, character)
    with pytest.raises(RunFailed, match="NaN") as error:
        unrolled.load(run).evaluate(decode=["greedy"], local=True)
    assert int(str(error.value).split()[-1].rstrip(".")) in broken
    evaluate(run, "--decode", "greedy", code=1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "NaN" in said and "Traceback" not in said
    (file,) = (run / "evaluation" / "test" / "decoded").iterdir()
    assert len(file.read_bytes().splitlines()) == first[character]


def test_several_splits_and_runs_end_in_one_table(run, original, capsys):
    other = run.with_name("other")
    shutil.copytree(original, other)
    words = ["evaluate", str(run), str(other), "--split", "validation,test", "--decode", "greedy,sample", "--local"]
    words.append("data.limit=20")
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(place for place, line in enumerate(lines) if "exact match" in line)
    names = [" ".join(line.split()[:3]) for line in lines[start + 1 : start + 9]]
    assert names == [
        f"{a} {b} {c}" for a in ("tiny", "other") for b in ("validation", "test") for c in ("greedy", "sample")
    ]
    assert sum(line.startswith("report: ") for line in lines) == 4
    assert read(other / "evaluation" / "test")[1] == read(run / "evaluation" / "test")[1]
    assert main([*words, "--json"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(report["scores"]) for report in reports] == [{"greedy", "sample"}] * 4


def test_texts_from_elsewhere_score_as_those_of_the_run(run, tmp_path, capsys):
    results, rows = read(evaluate(run, "--decode", "greedy,sample"))
    files = {name: tmp_path / f"{name}.txt" for name in ("greedy", "sample")}
    for name, path in files.items():
        path.write_text("".join(row["outputs"][name] + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "truth.txt").write_text("\r\n".join(row["reference"] for row in rows), encoding="utf-8")
    words = ["evaluate", "--references", str(tmp_path / "truth.txt"), "--metrics", "exact_match,bleu,chrf"]
    words += [word for path in files.values() for word in ("--outputs", str(path))]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, path in files.items():
        own = results["strategies"][name]
        for key, value in found["scores"][str(path)].items():
            assert value == own[key], key
    assert found["comparisons"]["chrf"]["p"] == results["comparisons"]["chrf"]["p"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 100 or line in map(str, files.values()) for line in said.splitlines())
    assert "nrefs:1|case:mixed" in said and "no significant difference" in said
    twice = [*words, "--references", str(files["greedy"])]
    assert main(twice) == 0
    assert "nrefs:2" in capsys.readouterr().out


def test_texts_from_elsewhere_that_cannot_be_scored(tmp_path, capsys):
    a, b, empty, latin = (tmp_path / name for name in ("a", "b", "empty", "latin"))
    a.write_text("one\ntwo\n", encoding="utf-8")
    b.write_text("one\n", encoding="utf-8")
    empty.write_text("", encoding="utf-8")
    latin.write_bytes(b"eins\nf\xfcnf\n")
    for words, said in [
        (["--outputs", b, "--references", a], f"{a} has 2 lines but {b} has 1"),
        (["--outputs", a, "--references", a, "--references", b], f"{a} has 2 lines but {b} has 1"),
        (["--outputs", empty, "--references", a], f"{empty}: is empty"),
        (["--outputs", tmp_path / "none", "--references", a], "none: cannot be read (No such file or directory)"),
        (["--outputs", tmp_path, "--references", a], "cannot be read (Is a directory)"),
        (["--outputs", latin, "--references", a], f"{latin}, line 2: is not UTF-8"),
        (["--outputs", a, "--references", a, "--metrics", "bleu,chfr"], "Did you mean 'chrf'?"),
        (["--outputs", a, "--outputs", a, "--references", a], "given twice"),
        (["--outputs", a], "wants --references"),
        (["--references", a], "goes with --outputs"),
        (["runs/x", "--outputs", a, "--references", a], "a run cannot be given as well"),
        ([], "give the folder of a run, or --outputs FILE"),
    ]:
        assert main(["evaluate", *map(str, words)]) == 2, words
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_bad_evaluations_are_refused_before_work(run, capsys):
    for words, said in [
        (["--split", "test,tset"], "no split 'tset'"),
        (["--split", "test,test"], "given twice"),
        (["--decode", "greedy,beam", "decoding.required=['1']"], "decoding.required wants a beam search"),
        (["--decode", "beam:size=4,groups=2,diversity=1", "decoding.required=['1']"], "not several"),
        (["--decode", "beam:coverage_penalty=0.2", "model.decoder.conditioning=state"], "another model"),
        (["--decode", "greedy:max_length=3", "decoding.prefix=19-19"], "decoding.prefix has 5 tokens"),
        (["--decode", "greedy", "decoding.prefix=語"], "cannot write all of '語'"),
        (["--decode", "sample:samples=0"], "sample.samples is 0"),
    ]:
        evaluate(run, *words, code=2)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    shutil.rmtree(run / "checkpoints")
    evaluate(run, code=2)
    assert "has no checkpoint yet; train it first" in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_words_by_frequency():
    training = ["the cat sat ."] * 12 + ["the dog ."] * 4
    rows = f1_by_frequency(training, {"a": ["the cat cat .", "a bird"], "b": ["", ""]}, ["the cat .", "the dog zebra"])
    assert rows["a"] == [
        {"label": "never", "words": 1, "f1": 0.0},
        {"label": "1–9 times", "words": 1, "f1": 0.0},
        {"label": "10–99 times", "words": 4, "f1": pytest.approx(2 * 3 / (4 + 4))},
    ]
    assert [row["f1"] for row in rows["b"]] == [0, 0, 0]


def test_the_table_fits_the_console():
    metrics = ["bleu", "chrf", "chrf++", "ter", "exact_match"]
    row = dict.fromkeys(metrics, 100.0) | {"signatures": {}, "sentences_per_second": 12345.6}
    row |= {"intervals": {name: [99.9, 100.0] for name in metrics}, "letters": dict.fromkeys(metrics, "abc")}
    lines = score_table(metrics, {"greedy": row, "sample:temperature=0.7,top_k=10,samples=20": row})
    assert max(map(len, lines)) <= 100 and "12,346" in lines[1]
    assert lines[2] == "sample:temperature=0.7,top_k=10,samples=20" and lines[3].startswith("      ")
    assert "99.9–100.0" in "\n".join(score_table(metrics[:2], {"greedy": row}))
