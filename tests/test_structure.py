"""The shape of the package: modules of a readable size, with a subject, and short paths through them."""

from __future__ import annotations

import ast

import pytest

from module_trace import measure
from repository import ROOT

MODULES = sorted((ROOT / "platform" / "unrolled").rglob("*.py"))
LINES, COUNT = 500, 150


def test_the_package_stays_small():
    assert len(MODULES) <= COUNT


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "platform" / "unrolled")))
def test_a_module_is_one_subject(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    first, *_ = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
    assert first.endswith((".", ":")), first
    assert not first.startswith(("What ", "How ", "Where ", "From ", "Who ", "When ", "Why ")), first


def test_an_update_and_a_search_pass_few_modules():
    passed = {name: len(set(moves)) for name, moves in measure().items()}
    assert passed["translation update"] <= 18
    assert passed["beam search"] <= 15
