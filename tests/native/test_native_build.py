"""Compiled functions where they cannot be: a run works all the same, and says what that costs."""

from __future__ import annotations

import pytest

import unrolled
from unrolled.native import build


@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_without_a_compiler_says_so_in_one_line(compiled, tmp_path, monkeypatch, capsys):
    if compiled and build.load() is None:
        pytest.skip("no C compiler")
    if not compiled:
        monkeypatch.setattr(build, "load", lambda: None)
    path = tmp_path / "xor.yaml"
    path.write_text(
        "task: memory\nname: xor\ndata: {problem: delayed_xor, length: 4, validation: 4, test: 4}\nmodel: {hidden: 4}\n"
        f"training: {{max_steps: 1}}\nstorage: {tmp_path}\n",
        encoding="utf-8",
    )
    run = unrolled.train(path, local=True)
    trained = capsys.readouterr().out
    run.evaluate("test", local=True)
    for said in (trained, capsys.readouterr().out):
        lines = [line for line in said.splitlines() if line.startswith("kernels")]
        assert len(lines) == (0 if compiled else 1)
        assert all("C compiler" in line and "times" in line for line in lines)
