"""Config files: reading, overrides, and errors that name the place."""

from __future__ import annotations

import io
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode

from unrolled.config import CONFIGS, Config, Section
from unrolled.errors import UserError, did_you_mean, listing

Key = tuple[str | int, ...]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file and applies overrides such as ``model.decoder.cell=lstm``.

    Raises:
        UserError: one sentence that names the file and line, or the override, and what is accepted.
    """
    path = Path(path)
    text = _read(path)
    values = _parse(text, path)
    values.setdefault("name", path.stem)
    for override in overrides:
        _apply(values, override)
    given = _Given(text, path, overrides)
    kind = _class(values, given)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error, kind, given)) from None
    return _absolute_paths(config)


def dump_config(config: Config) -> str:
    """Returns the complete config as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(config.model_dump(), stream)
    return stream.getvalue()


def replace_keys(config: Config, changes: Mapping[str, Any], place: str) -> Config:
    """Returns the config with other values at some keys, such as ``{"model.cell": "gru"}``.

    Raises:
        UserError: one sentence that begins with `place` and says what is accepted.
    """
    values = config.model_dump()
    for key, value in changes.items():
        section, name = locate(values, key)
        section[name] = value
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error, type(config), _Given("", Path(place), ()))) from None


def all_keys(config: Config) -> list[str]:
    """Returns every key that can have a value of its own, such as `model.decoder.cell`."""
    return [key for key, *_ in _fields(type(config))]


def reference_table() -> str:
    """Returns every key with its tasks, type, default and meaning as a Markdown table; a key that means the same in
    several tasks stands there once."""
    users: dict[tuple[str, ...], list[str]] = {("task", _listed(CONFIGS), "required", "what is learned"): [*CONFIGS]}
    for task, kind in CONFIGS.items():
        for row in _fields(kind):
            if row[0] != "task":
                users.setdefault(row, []).append(task)
    sections = list(dict.fromkeys(key.partition(".")[0] for key, *_ in users))
    rows = ["| key | task | values | default | meaning |", "|---|---|---|---|---|"]
    for field in sorted(users, key=lambda field: sections.index(field[0].partition(".")[0])):
        key, values, default, meaning = field
        tasks = "all" if len(users[field]) == len(CONFIGS) else ", ".join(users[field])
        rows.append(f"| `{key}` | {tasks} | {values} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such config file.{did_you_mean(str(path), beside)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; a config is a YAML file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}.") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping with the keys {listing(Config.model_fields)}.")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets one key in place; its value is read as YAML: `4`, `null` and `[a, b]` mean what they do in a file."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write key.path=value, for example model.decoder.cell=lstm.")
    try:
        value = YAML(typ="safe", pure=True).load(text) if text else ""
    except YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value.") from None
    try:
        section, name = locate(values, key)
    except TypeError as error:
        raise UserError(f"override {override!r}: {error} is a value, not a section.") from None
    section[name] = value


# Dotted keys ----------------------------------------------------------------------------------------------


def locate(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Returns the section of nested `values` that holds a dotted key, and the last part of the key.

    Sections on the way that are absent or null are added. Below `tuning.space` the whole rest is one key.

    Raises:
        TypeError: a part of the key is a value, not a section; the message is that part with those before it.
    """
    space = "tuning.space."
    *parents, name = ["tuning", "space", key.removeprefix(space)] if key.startswith(space) else key.split(".")
    section = values
    for depth, parent in enumerate(parents):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise TypeError(".".join(parents[: depth + 1]))
    return section, name


def value_at(values: dict[str, Any], key: str) -> Any:
    """Returns what nested `values` have at a dotted key such as `model.cell`."""
    section, name = locate(values, key)
    return section[name]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Returns the first dotted key at which nested values differ, with both values; keys are prefixed with `key`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            found = first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if old == new else (key, old, new)


STARTED = "training.start_from"
PATHS = ("data.source", "data.images", "model.features.weights")
"""Keys that may name a folder or file."""


def _absolute_paths(config: Config) -> Config:
    """A folder, file or run is remembered by its full path, so that the run's own config works from anywhere."""
    for key in PATHS:
        config = _replaced(config, key.split("."), _absolute)
    started: Config = _replaced(config, STARTED.split("."), lambda given: str(resolve_storage(given)))
    return started


def _replaced(section: Section, key: Sequence[str], change: Callable[[str], str]) -> Any:
    """Returns the section with the text at `key` changed, where there is one."""
    value = getattr(section, key[0], None)
    if isinstance(value, Section) and len(key) > 1:
        return section.model_copy(update={key[0]: _replaced(value, key[1:], change)})
    if isinstance(value, str) and len(key) == 1:
        return section.model_copy(update={key[0]: change(value)})
    return section


def _absolute(given: str) -> str:
    path = Path(given).expanduser()
    names_a_path = "/" in given or given.startswith((".", "~")) or (path.suffix and path.is_file())
    return str(path.resolve()) if names_a_path and path.exists() else given


def runs_folder(config: Config) -> Path:
    """Returns the folder of run folders; a relative one stands under `$UNROLLED_STORAGE` where that is set."""
    return resolve_storage(config.storage)


def resolve_storage(path: str | Path) -> Path:
    """Returns a relative `path` under `$UNROLLED_STORAGE` if that is set, else under the current folder."""
    base = Path(os.environ.get("UNROLLED_STORAGE") or ".").expanduser()
    return (base / Path(path).expanduser()).resolve()


# Sentences ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """What the user wrote: a file and overrides."""

    text: str
    path: Path
    overrides: Sequence[str]


def _class(values: dict[str, Any], given: _Given) -> type[Config]:
    """Returns the config class of the task that `values` name."""
    if "task" not in values:
        raise UserError(f"{given.path}: task is missing (what is learned): one of {listing(CONFIGS)}.")
    task = values["task"]
    if isinstance(task, str) and task in CONFIGS:
        return CONFIGS[task]
    place = _place(("task",), given, missing=False)
    hint = did_you_mean(str(task), CONFIGS)
    raise UserError(f"{place}: task is {_shown(task)}; expected one of {listing(CONFIGS)}.{hint}")


def _sentence(error: ValidationError, kind: type[Config], given: _Given) -> str:
    problem = error.errors()[0]
    key = tuple(part for part in problem["loc"])
    name = ".".join(str(part) for part in key)
    if problem["type"] == "value_error":  # our own check across keys: the message says it all
        return f"{given.path}: {problem['ctx']['error']}."
    place = _place(key, given, missing=problem["type"] == "missing")
    if problem["type"] == "extra_forbidden":
        known = list(_section(kind, key[:-1]).model_fields)
        hint = did_you_mean(str(key[-1]), known) or f" Known there: {listing(known)}."
        return f"{place}: {name} is not a key.{hint}"
    if problem["type"] == "missing":
        return f"{place}: {name} is missing ({_meaning(kind, key)})."
    return f"{place}: {name} is {_shown(problem['input'])}; expected {_expected(problem)}."


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else "a section" if isinstance(value, dict) else format_value(value)


def _expected(problem: Any) -> str:
    context = problem.get("ctx", {})
    words: dict[str, Callable[[], str]] = {
        "literal_error": lambda: "one of " + str(context.get("expected", "")).replace("'", ""),
        "int_type": lambda: "a whole number",
        "float_type": lambda: "a number",
        "bool_type": lambda: "true or false",
        "string_type": lambda: "text",
        "list_type": lambda: "a list such as [a, b]",
        "model_type": lambda: "a section with keys of its own",
        "greater_than": lambda: f"more than {context['gt']:g}",
        "greater_than_equal": lambda: f"{context['ge']:g} or more",
        "less_than": lambda: f"less than {context['lt']:g}",
        "less_than_equal": lambda: f"{context['le']:g} or less",
        "too_short": lambda: f"{context['min_length']} or more entries",
        "string_pattern_mismatch": lambda: "letters, digits and . _ + - only",
    }
    make = words.get(problem["type"])
    return make() if make else problem["msg"][0].lower() + problem["msg"][1:]


def _place(key: Key, given: _Given, *, missing: bool) -> str:
    name = ".".join(str(part) for part in key)
    for override in given.overrides:
        set_key = override.partition("=")[0]
        if name == set_key or (name.startswith(set_key + ".") and not missing) or set_key.startswith(name + "."):
            return f"override {override!r}"
    line = _line(given.text, key)
    return f"{given.path}, line {line}" if line and not missing else str(given.path)


def _line(text: str, key: Key) -> int | None:
    node = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    line = None
    for part in key:
        if not isinstance(node, MappingNode):
            return line
        found = [(name, value) for name, value in node.value if name.value == str(part)]
        if not found:
            return line
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


# The schema, walked ---------------------------------------------------------------------------------------


def _section(kind: type[Config], key: Key) -> type[BaseModel]:
    section: type[BaseModel] = kind
    entry = False
    for part in key:
        if entry:  # a key that the user chose, such as one of tuning.space
            entry = False
            continue
        inner, entry = _inner(section.model_fields[str(part)].annotation)
        assert inner is not None
        section = inner
    return section


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Returns the section that a field holds, if it does, also where it may be null; and whether the field holds many
    of them, by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return _inner(arguments[1])[0], True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for found in map(_inner, arguments) if found[0]), (None, False))
    return None, False


def _meaning(kind: type[Config], key: Key) -> str:
    field = _section(kind, key[:-1]).model_fields[str(key[-1])]
    return field.description or "a section: " + listing(_section(kind, key).model_fields)


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner, many = _inner(field.annotation)
        if inner is not None and not many:
            yield from _fields(inner, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{format_value(field.default)}`"
        yield prefix + name, _values(field.annotation), default, field.description or ""


def format_value(value: object) -> str:
    """Returns a value as a config file writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _listed(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _values(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return _listed(arguments)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_values(argument) for argument in arguments)
    if origin is list:
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "section"
    return {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "null"}[annotation]
