"""Config files: reading, overrides, dotted keys, and errors that name the place."""

from __future__ import annotations

import io
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode

from unrolled.config import CONFIGS, Config, Section
from unrolled.errors import UserError, did_you_mean, listing

FORMAT = 1
"""Version of the layout of run and sweep folders; raised whenever files in them change their meaning."""
PATH_KEYS = ("data.source", "data.images", "model.features.weights")
"""Keys that may name a folder or file."""
FORMER_NAMES = {"lecture": "squared_norm"}
"""Renamed values, for the suggestion in an error."""

ConfigLike = str | Path | Mapping[str, Any] | Config
"""A YAML file, or the content of a config as a dict or as an object."""
Key = tuple[str | int, ...]


def load_config(config: ConfigLike, overrides: Sequence[str] = ()) -> Config:
    """Returns a complete, validated config.

    Args:
        config: a YAML file, a dict or a `Config`. `name` defaults to that of the file, or to the task.
        overrides: key.path=value, such as ``model.decoder.cell=lstm``.

    Raises:
        UserError: one sentence that names the file and line, or the override, and what is accepted.
    """
    if isinstance(config, (str, Path)):
        return _load_file(Path(config), overrides)
    if isinstance(config, Config):
        if not overrides:
            return config
        config = config.model_dump()
    values = deepcopy(dict(config))
    values.setdefault("name", str(values.get("task")))
    return _validate(values, _Source("", Path("config"), overrides))


def load_stored_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads the config of a run or sweep folder, which also states the folder's format.

    Raises:
        UserError: as `load_config`; or the folder has another format than `FORMAT`.
    """
    return _load_file(path, overrides, stored=True)


def _load_file(path: Path, overrides: Sequence[str], *, stored: bool = False) -> Config:
    text = _read(path)
    values = _parse(text, path)
    found = values.pop("format", None)
    if found != FORMAT and (stored or found is not None):
        form = "no format number" if found is None else f"format {found}"
        raise UserError(f"{path.parent}: has {form}; this version of unrolled reads format {FORMAT}.")
    values.setdefault("name", path.stem)
    return _validate(values, _Source(text, path, overrides))


def _validate(values: dict[str, Any], source: _Source) -> Config:
    for override in source.overrides:
        _apply(values, override)
    kind = _config_class(values, source)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(_error_sentence(error, kind, source)) from None
    return _with_absolute_paths(config)


def dump_config(config: Config) -> str:
    """Returns the complete config as YAML."""
    return _to_yaml(config.model_dump())


def dump_stored_config(config: Config) -> str:
    """Returns the complete config and the format number, as a run or sweep folder keeps them."""
    return _to_yaml({"format": FORMAT} | config.model_dump())


def _to_yaml(values: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(values, stream)
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
        raise UserError(_error_sentence(error, type(config), _Source("", Path(place), ()))) from None


def all_keys(config: Config) -> list[str]:
    """Returns every key that can have a value of its own, such as `model.decoder.cell`."""
    return [key for key, *_ in _fields(type(config))]


def reference_table() -> str:
    """Returns every key with its tasks, type, default and meaning as a Markdown table.

    A key that means the same in several tasks has one row.
    """
    rows: dict[tuple[str, str, str, str], list[str]] = {
        ("task", _code_list(CONFIGS), "required", "task to train"): [*CONFIGS]
    }
    for task, kind in CONFIGS.items():
        for row in _fields(kind):
            if row[0] != "task":
                rows.setdefault(row, []).append(task)
    sections = list(dict.fromkeys(key.partition(".")[0] for key, *_ in rows))
    lines = ["| key | task | values | default | meaning |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: sections.index(row[0].partition(".")[0])):
        key, values, default, meaning = row
        tasks = "all" if len(rows[row]) == len(CONFIGS) else ", ".join(rows[row])
        lines.append(f"| `{key}` | {tasks} | {values} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def resolve_storage(path: str | Path) -> Path:
    """Returns a relative `path` below `$UNROLLED_STORAGE` if that is set, else below the current folder."""
    base = Path(os.environ.get("UNROLLED_STORAGE") or ".").expanduser()
    return (base / Path(path).expanduser()).resolve()


# Reading --------------------------------------------------------------------------------------------------


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


def short_labels(keys: Iterable[str], least: int = 1) -> dict[str, str]:
    """Returns the shortest suffix of each dotted key that no other key has, such as `encoder.cell` beside
    `decoder.cell`; of at least `least` parts where that leaves out some."""
    parts = {key: min(least, max(1, key.count("."))) for key in keys}
    while True:
        labels = {key: ".".join(key.split(".")[-count:]) for key, count in parts.items()}
        shared = [key for key in parts if list(labels.values()).count(labels[key]) > 1]
        if not shared:
            return labels
        parts |= {key: parts[key] + 1 for key in shared}


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


# Paths ----------------------------------------------------------------------------------------------------


def _with_absolute_paths(config: Config) -> Config:
    """Makes the paths of folders, files and runs absolute, so that a run's own config works from anywhere."""
    for key in PATH_KEYS:
        config = _changed(config, key.split("."), _absolute_path)
    result: Config = _changed(config, ["training", "start_from"], lambda run: str(resolve_storage(run)))
    return result


def _changed(section: Section, key: Sequence[str], change: Callable[[str], str]) -> Any:
    """Returns the section with the text at `key` changed, if there is one."""
    value = getattr(section, key[0], None)
    if isinstance(value, Section) and len(key) > 1:
        return section.model_copy(update={key[0]: _changed(value, key[1:], change)})
    if isinstance(value, str) and len(key) == 1:
        return section.model_copy(update={key[0]: change(value)})
    return section


def _absolute_path(text: str) -> str:
    path = Path(text).expanduser()
    names_a_path = "/" in text or text.startswith((".", "~")) or (path.suffix and path.is_file())
    return str(path.resolve()) if names_a_path and path.exists() else text


# Error messages -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Where the values of a config come from, for error messages."""

    text: str
    path: Path
    overrides: Sequence[str]


def _config_class(values: dict[str, Any], source: _Source) -> type[Config]:
    if "task" not in values:
        raise UserError(f"{source.path}: task is missing: one of {listing(CONFIGS)}.")
    task = values["task"]
    if isinstance(task, str) and task in CONFIGS:
        return CONFIGS[task]
    place = _location(("task",), source, missing=False)
    hint = did_you_mean(str(task), CONFIGS)
    raise UserError(f"{place}: task is {_format_input(task)}; expected one of {listing(CONFIGS)}.{hint}")


def _error_sentence(error: ValidationError, kind: type[Config], source: _Source) -> str:
    problem = error.errors()[0]
    key = tuple(part for part in problem["loc"])
    name = ".".join(str(part) for part in key)
    if problem["type"] == "value_error":  # a check across keys, whose message is complete
        return f"{source.path}: {problem['ctx']['error']}."
    place = _location(key, source, missing=problem["type"] == "missing")
    if problem["type"] == "extra_forbidden":
        known = list(_section_class(kind, key[:-1]).model_fields)
        hint = did_you_mean(str(key[-1]), known) or f" Known there: {listing(known)}."
        return f"{place}: {name} is not a key.{hint}"
    if problem["type"] == "missing":
        return f"{place}: {name} is missing ({_description(kind, key)})."
    return f"{place}: {name} is {_format_input(problem['input'])}; expected {_expected(problem)}.{_suggestion(problem)}"


def _suggestion(problem: Any) -> str:
    """Returns the nearest accepted value as a question, where a fixed set of values is accepted."""
    given, accepted = problem["input"], re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    if problem["type"] != "literal_error" or not isinstance(given, str):
        return ""
    new_name = FORMER_NAMES.get(given, given)
    return did_you_mean(new_name if new_name in accepted else given, accepted)


def _format_input(value: object) -> str:
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


def _location(key: Key, source: _Source, *, missing: bool) -> str:
    name = ".".join(str(part) for part in key)
    for override in source.overrides:
        set_key = override.partition("=")[0]
        if name == set_key or (name.startswith(set_key + ".") and not missing) or set_key.startswith(name + "."):
            return f"override {override!r}"
    line = _line_number(source.text, key)
    return f"{source.path}, line {line}" if line and not missing else str(source.path)


def _line_number(text: str, key: Key) -> int | None:
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


# Walking the schema ---------------------------------------------------------------------------------------


def _section_class(kind: type[Config], key: Key) -> type[BaseModel]:
    section: type[BaseModel] = kind
    entry = False
    for part in key:
        if entry:  # a key that the user chose, such as one of tuning.space
            entry = False
            continue
        inner, entry = _inner_section(section.model_fields[str(part)].annotation)
        assert inner is not None
        section = inner
    return section


def _inner_section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Returns the section that a field holds or may hold, if any, and whether it holds a dict of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return _inner_section(arguments[1])[0], True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for found in map(_inner_section, arguments) if found[0]), (None, False))
    return None, False


def _description(kind: type[Config], key: Key) -> str:
    field = _section_class(kind, key[:-1]).model_fields[str(key[-1])]
    return field.description or "a section: " + listing(_section_class(kind, key).model_fields)


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner, many = _inner_section(field.annotation)
        if inner is not None and not many:
            yield from _fields(inner, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"`{format_value(field.default)}`"
        yield prefix + name, _format_type(field.annotation), default, field.description or ""


def format_value(value: object) -> str:
    """Returns a value as a config file writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _code_list(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _format_type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return _code_list(arguments)
    if origin is typing.Annotated:
        return _format_type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_format_type(argument) for argument in arguments)
    if origin is list:
        return f"list of {_format_type(arguments[0])}"
    if origin is dict:
        return "section"
    return {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "null"}[annotation]
