"""Sphinx configuration of the documentation; `make docs` builds it into docs/_build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "platform"
sys.path.insert(0, str(SOURCE))

import unrolled  # noqa: E402

vars(unrolled).update({name: getattr(unrolled, name) for name in unrolled.__all__})  # they are imported on first use

project = "unrolled"
author = "the unrolled contributors"
version = release = unrolled.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # MathJax as part of the site, which opens without a network
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"unrolled {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

default_role = "code"  # `name` in a docstring
autodoc_class_signature = "separated"
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "exclude-members": "__new__",
    "show-inheritance": True,
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_inherit_docstrings = False

KEY_ROW = re.compile(
    r"\| `(?P<key>[^`]+)` \| (?P<tasks>[^|]+) \| (?P<values>[^|]+) \| (?P<default>[^|]+) \| (?P<meaning>.+) \|"
)
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def command_line(*arguments: str) -> str:
    """Returns what an `unrolled` command prints."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "100"}
    command = [sys.executable, "-m", "unrolled", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def config_keys() -> str:
    """Returns the config reference as Markdown, one definition list per section, from `unrolled config --schema`."""
    lines: list[str] = []
    section = ""
    for row in filter(None, map(KEY_ROW.match, command_line("config", "--schema").splitlines())):
        key, tasks, values, default, meaning = (row[name].strip() for name in KEY_ROW.groupindex)
        head, dot, _ = key.partition(".")
        if section != (section := f"`{head}`" if dot else "General"):
            lines += [f"### {section}", ""]
        default = default if default == "required" else f"default {default}"
        lines += [f"`{key}`", f": {meaning}", "", f"  *{tasks}* · {values} · {default}", ""]
    return "\n".join(lines)


def command_help() -> str:
    """Returns the help texts of all commands as Markdown, from `unrolled COMMAND --help`."""
    names = re.findall(r"^ {4}(\w+)", command_line("--help"), re.MULTILINE)
    sections = [f"## unrolled {name}\n\n```text\n{command_line(name, '--help')}```\n" for name in names]
    return "\n".join(sections)


def write_generated(_: Sphinx) -> None:
    """Writes the parts of the reference that the package itself prints."""
    folder = DOCS / "_build" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("config_keys.md", config_keys()), ("command_help.md", command_help())):
        (folder / name).write_text(text, encoding="utf-8")


def _escaped(found: re.Match[str]) -> str:
    return r"\|" if found[0] == "|" else found[0]


def to_rst(*arguments: Any) -> None:
    """Makes a docstring valid reStructuredText before napoleon reads its sections.

    Indented equations become literal blocks and bars text. Where a docstring begins with the line that introduces a
    section or equations, all other lines have lost their indentation.
    """
    lines: list[str] = arguments[-1]
    if lines and lines[0].startswith("Alias for field number"):  # of a named tuple
        lines.clear()
    first, *rest = lines or [""]
    if SECTION.match(first) or (first.endswith(":") and len(rest) > 1 and not rest[0]):
        rest = [f"    {line}" if line and not SECTION.match(line) else line for line in rest]
    result, literal, in_section, before = [first], False, bool(SECTION.match(first)), first
    for line in rest:
        indented = line.startswith("    ")
        if line and not indented:
            literal, in_section = False, bool(SECTION.match(line))
        elif indented and not result[-1] and not literal and not in_section and not before.lstrip().startswith("- "):
            literal = True
            result += [".. code-block:: text", ""]
        result.append(line if literal else re.sub(r"`[^`]*`|\|", _escaped, line))
        before = line or before
    lines[:] = result if lines else []


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_generated)
    app.connect("autodoc-process-docstring", to_rst, priority=400)
