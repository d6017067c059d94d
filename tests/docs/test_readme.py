"""Commands, links and Python examples of the README and of every page in docs/, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from repository import ROOT
from unrolled.cli import COMMANDS, OVERRIDE, main, make_parser

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
    if "_build" not in path.parts
}
README = PAGES["README.md"]
TRANSLATION = PAGES["docs/tutorials/translation.md"]
LANGUAGE = PAGES["docs/tutorials/language_modeling.md"]
SWEEP = PAGES["docs/tutorials/sweep.md"]


def blocks(page, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name in languages]


def commands(first):
    """The lines of all pages that begin with `first`, at a prompt or not, each once."""
    lines = [
        line.removeprefix("$ ")
        for page in PAGES.values()
        for block in blocks(page, "", "bash", "console")
        for line in block.replace("\\\n", "").splitlines()
    ]
    lines += re.findall(r"\| `([^`]+)` \|", README)  # in its table of tasks
    return list(dict.fromkeys(line for line in lines if line.startswith(f"{first} ")))


@pytest.mark.parametrize("line", commands("unrolled"))
def test_every_command_is_understood(line):
    words = shlex.split(line, comments=True)[1:]
    bare = words[0] != "generate"  # whose texts may look like overrides: there they stand behind --set
    options = make_parser().parse_args([word for word in words if not (bare and OVERRIDE.match(word))])
    assert options.command in COMMANDS
    if options.command == "submit":
        make_parser().parse_args(options.words)


@pytest.mark.parametrize("line", commands("python"))
def test_every_script_is_there(line):
    assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("line", commands("make"))
def test_every_target_is_there(line):
    assert f"\n{line.split()[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    paths = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[name])
    assert [path for path in paths if not ((ROOT / name).parent / path).exists()] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def test_your_own_parallel_text(tmp_path, monkeypatch):
    """The example with one's own files, in its smoke form."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "path" / "to" / "folder"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        for language, word in (("en", "dog"), ("de", "Hund")):
            (folder / f"{split}.{language}").write_text(f"the {word} .\n" * 40, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(blocks(TRANSLATION, "yaml")[0], encoding="utf-8")
    assert main(["train", "mine.yaml", "--local", "--smoke"]) == 0
    assert main(["evaluate", "runs/mine", "--split", "test", "--local"]) == 0
    assert (tmp_path / "runs/mine/evaluation/test/report.html").is_file()


def test_hello_says_what_the_tutorial_shows(tmp_path, monkeypatch, capsys):
    """The words of every line; numbers may differ in the last digit from machine to machine, times by far more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    hello = "$ unrolled train configs/language_modeling/hello"
    (block,) = (block for block in blocks(LANGUAGE, "console") if block.startswith(hello))
    for line in re.findall(r"^\$ unrolled (.*)$", block, re.MULTILINE):
        assert main(shlex.split(line)) == 0
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    shown = "".join(line for line in block.splitlines(keepends=True) if not line.startswith("$ "))
    words = [re.sub(r"-?\d+(\.\d+)?", "0", re.sub(r" +", " ", text)) for text in (said, shown)]
    assert words[0] == words[1]


def test_the_tuning_section_is_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (section,) = blocks(SWEEP, "yaml")
    config = "task: memory\ndata: {problem: adding, length: 10}\n" + section
    (tmp_path / "sweep.yaml").write_text(config, encoding="utf-8")
    assert main(["config", "sweep.yaml"]) == 0
    assert "sampler: tpe" in capsys.readouterr().out


def test_every_python_example_is_run_here():
    """Those of docs/bptt.md have a test of their own."""
    examples = {name for name, page in PAGES.items() if blocks(page, "python")} - {"docs/bptt.md"}
    ours = {"README.md", "docs/tutorials/first_run.md", *(f"docs/tutorials/{page}.md" for page in EXAMPLES)}
    assert examples == ours
    first_run = PAGES["docs/tutorials/first_run.md"]
    assert blocks(first_run, "python", "text") == blocks(README, "python", "text")


EXAMPLES = {"language_modeling": "hello", "sweep": "Run("}
"""Tutorials with a Python example, and something that it prints."""


@pytest.mark.parametrize("name", ["language_modeling", pytest.param("sweep", marks=pytest.mark.slow)])
def test_the_python_example_of_a_tutorial(name, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (code,) = blocks(PAGES[f"docs/tutorials/{name}.md"], "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[name] in done.stdout


@pytest.mark.slow
def test_the_python_example(tmp_path):
    """The main job as a notebook runs it, whole: two Ray workers, three strategies, a report."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    code = blocks(README, "python")[0] + "\nprint(report.scores['beam']['exact_match'], report.path.is_file())\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    written, found = done.stdout.splitlines()[-2:]
    assert written == "['2025-03-03']"
    exact, report = found.split()
    assert float(exact) >= 97 and report == "True"
