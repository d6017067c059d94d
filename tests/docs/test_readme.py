"""The README's commands and its Python example, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from repository import ROOT
from unrolled.cli import COMMANDS, OVERRIDE, main, make_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands():
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("unrolled ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_understood(words):
    bare = words[0] != "generate"  # whose texts may look like overrides: there they stand behind --set
    options = make_parser().parse_args([word for word in words if not (bare and OVERRIDE.match(word))])
    assert options.command in COMMANDS
    if options.command == "submit":
        make_parser().parse_args(options.words)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()


def test_your_own_parallel_text(tmp_path, monkeypatch):
    """The example with one's own files, in its smoke form."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "path" / "to" / "folder"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        for language, word in (("en", "dog"), ("de", "Hund")):
            (folder / f"{split}.{language}").write_text(f"the {word} .\n" * 40, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    assert main(["train", "mine.yaml", "--local", "--smoke"]) == 0
    assert main(["evaluate", "runs/mine", "--split", "test", "--local"]) == 0
    assert (tmp_path / "runs/mine/evaluation/test/report.html").is_file()


def test_hello_says_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    """The words of every line; numbers may differ in the last digit from machine to machine, times by far more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (block,) = (block for block in blocks() if block.startswith("$ unrolled train configs/language_modeling/hello"))
    for line in re.findall(r"^\$ unrolled (.*)$", block, re.MULTILINE):
        assert main(shlex.split(line)) == 0
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    shown = "".join(line for line in block.splitlines(keepends=True) if not line.startswith("$ "))
    words = [re.sub(r"-?\d+(\.\d+)?", "0", re.sub(r" +", " ", text)) for text in (said, shown)]
    assert words[0] == words[1]


@pytest.mark.slow
def test_the_python_example(tmp_path):
    """The main job as a notebook runs it, whole: two Ray workers, three strategies, a report."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    code = blocks("python")[0] + "\nprint(report.scores['beam']['exact_match'], report.path.is_file())\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    written, found = done.stdout.splitlines()[-2:]
    assert written == "['2025-03-03']"
    exact, report = found.split()
    assert float(exact) >= 97 and report == "True"
