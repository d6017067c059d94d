"""Data sources: built-in data, folders, files, `s3://` addresses and hub ids; columns, running text and JSON files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from unrolled.config.language_modeling import TextData
from unrolled.config.translation import TranslationData
from unrolled.data.builtin_dates import dates
from unrolled.errors import UserError, did_you_mean, listing

BUILT_IN: dict[str, Callable[[], dict[str, list[dict[str, str]]]]] = {"dates": dates}
TABLE_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
"""File endings of tables, and the reader of `datasets` for each."""
ALIASES = {"validation": ("val", "valid", "dev"), "test": ("test_2016_flickr",), "train": ("training",)}
"""Further names of splits."""

datasets.disable_progress_bars()
for _logger in ("datasets", "huggingface_hub"):
    logging.getLogger(_logger).setLevel(logging.ERROR)


def open_split(source: str, split: str, columns: Mapping[str, str], limit: int | None = None) -> Dataset:
    """Opens one split.

    Args:
        source: `data.source`.
        split: a name that the source has.
        columns: required columns, by the key below `data` that names them.
        limit: number of rows from the first one; `None` for all.

    Raises:
        UserError: no such source or split, a missing column, an empty split, pairs that do not match, text that
            is not UTF-8.
    """
    rows = _open(source, split, list(columns.values()))
    for key, column in columns.items():
        if column not in rows.column_names:
            raise UserError(
                f"data.{key}: {source} has no column {column!r} in split {split!r}; "
                f"it has {listing(rows.column_names)}.{did_you_mean(column, rows.column_names)}"
            )
    if len(rows) == 0:
        raise UserError(f"data.splits: split {split!r} of {source} is empty.")
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def read_columns(source: str, split: str, columns: Mapping[str, str], limit: int | None = None) -> list[list[str]]:
    """Returns the texts of each column of one split; arguments as in `open_split`. Raises `UserError` as `open_split`,
    or for a value that is not text."""
    rows = open_split(source, split, columns, limit)
    columns_texts = []
    for column in columns.values():
        texts = list(rows[column])
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                kind = "nothing" if text is None else type(text).__name__
                raise UserError(f"{source}, split {split!r}, row {number}: column {column!r} holds {kind}, not text.")
        columns_texts.append(texts)
    return columns_texts


def read_pairs(data: TranslationData, split: str) -> tuple[list[str], list[str]]:
    """Returns the texts of both columns of one split of parallel text; raises as `read_columns`."""
    columns = {"columns.input": data.columns.input, "columns.target": data.columns.target}
    inputs, targets = read_columns(data.source, split, columns, data.limit)
    return inputs, targets


def _open(source: str, split: str, columns: Sequence[str]) -> Dataset:
    if source in BUILT_IN:
        return Dataset.from_list(get_split(BUILT_IN[source](), split, source))
    if "://" in source:
        reader = next((reader for ending, reader in TABLE_READERS.items() if source.endswith(ending)), None)
        if reader is None:
            raise UserError(f"data.source: {source}: the address of files must end in {listing(TABLE_READERS)}.")
        return _load(source, split, reader, data_files={split: source.replace("{split}", split)})
    folder = Path(source).expanduser()
    if folder.is_file():
        raise UserError(f"data.source: {folder} is a file; give the folder that holds a file for every split.")
    if folder.is_dir():
        return _open_folder(folder, split, columns)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"data.source: {source} is neither a folder here, nor built in ({listing(BUILT_IN)}), nor a hub id "
            f"(owner/name).{did_you_mean(source, BUILT_IN)}"
        )
    return _load(source, split, source)


def get_split(splits: Mapping[str, Any], split: str, source: str) -> Any:
    """Returns the value of one split; raises `UserError` where there is none."""
    if split not in splits:
        raise UserError(
            f"data.splits: {source} has no split {split!r}; it has {listing(splits)}.{did_you_mean(split, splits)}"
        )
    return splits[split]


def _open_folder(folder: Path, split: str, columns: Sequence[str]) -> Dataset:
    """Opens a folder of tables (parquet, JSON lines, CSV), or of parallel text such as train.en and train.de."""
    tables = table_files(folder)
    for name in split_aliases(split):
        chosen = [file for file in tables if _belongs(file, name)]
        if chosen:
            return _open_tables(folder, split, chosen)
    if tables:
        raise UserError(
            f"data.splits: {folder} has no file for split {split!r}; "
            f"it has {listing(sorted(str(file.relative_to(folder)) for file in tables))}."
        )
    return _parallel_text(folder, split, columns)


def _open_tables(folder: Path, split: str, files: list[Path]) -> Dataset:
    endings = sorted({file.suffix for file in files})
    if len(endings) > 1:
        raise UserError(f"data.source: {folder} mixes {listing(endings)} files in split {split!r}; keep one kind.")
    delimiter = {"delimiter": "\t"} if endings == [".tsv"] else {}
    return _load(
        str(folder), split, TABLE_READERS[endings[0]], data_files={split: [str(f) for f in files]}, **delimiter
    )


def table_files(folder: Path) -> list[Path]:
    """Returns the tables of a folder at any depth, hidden files excluded."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in TABLE_READERS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def split_aliases(split: str) -> tuple[str, ...]:
    """Returns the names of a split in the order in which they are tried."""
    return (split, *ALIASES.get(split, ()))


def _belongs(file: Path, split: str) -> bool:
    """`train.parquet`, `train-00000-of-00003.parquet`, `train_part.csv` and `train/anything.jsonl` hold `train`."""
    stem = file.name[: -len(file.suffix)]
    return stem == split or stem.startswith((f"{split}-", f"{split}_", f"{split}.")) or file.parent.name == split


def _load(source: str, split: str, reader: str, **options: Any) -> Dataset:
    try:
        return datasets.load_dataset(reader, split=split, **options)
    except Exception as error:  # readers raise errors of every class; the first cause is the helpful one
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UnicodeDecodeError):
            raise UserError(f"data.source: {source}, split {split!r}: is not UTF-8 text ({cause.reason}).") from None
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(
                f"data.source: {source} needs the package {cause.name}, which is not installed; "
                "for s3:// that is `pip install 'unrolled[s3]'`."
            ) from None
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise UserError(f"data.source: {source}, split {split!r} cannot be read: {reason[:300]}") from None


def _parallel_text(folder: Path, split: str, columns: Sequence[str]) -> Dataset:
    files = {}
    for column in columns:
        paths = [path for name in split_aliases(split) if (path := folder / f"{name}.{column}").is_file()]
        if not paths:
            raise UserError(
                f"data.source: {folder} has no file {split}.{column} (parallel text is one file a split and column, "
                f"one sentence a line); it has {_first_files(folder)}."
            )
        files[column] = paths[0]
    contents = {column: _decode(path) for column, path in files.items()}
    texts = {column: text.removesuffix("\n").split("\n") if text else [] for column, text in contents.items()}
    (input_file, target_file), (inputs, targets) = files.values(), texts.values()
    if len(inputs) != len(targets):
        raise UserError(
            f"{input_file} has {len(inputs):,} lines but {target_file} has {len(targets):,}; "
            "parallel text needs one for one."
        )
    return Dataset.from_dict(texts)


def _first_files(folder: Path) -> str:
    return listing(sorted(path.name for path in folder.iterdir())[:12])


TEXTS = {"hello": "hello"}
"""Built-in texts."""


def read_text(data: TextData, split: str) -> str:
    """Returns the running text of a split, unchanged.

    Args:
        split: `train`, `validation`, `test`, or another split of the source. A single file and a built-in text have
            the first two: the last `data.validation_share` is for validation.

    Raises:
        UserError: no such source or split, a text that is empty or not UTF-8.
    """
    name = data.splits.model_dump().get(split, split)
    path = Path(data.source).expanduser()
    if data.source in TEXTS:
        text = _split_text(TEXTS[data.source], data, split)
    elif path.is_file():
        text = _split_text(_decode(path), data, split)
    elif path.is_dir() and not table_files(path):
        text = _decode(_text_file(path, name))
    else:
        _check_address(data.source)
        text = "\n".join(read_columns(data.source, name, {"column": data.column})[0])
    if not text:
        raise UserError(f"data.source: {data.source}, split {split!r} is empty: there is no text to read.")
    return text


def _check_address(source: str) -> None:
    is_path = source.startswith((".", "/", "~")) or source.endswith(".txt") or source.count("/") != 1
    if "://" not in source and is_path and not Path(source).expanduser().is_dir():
        raise UserError(
            f"data.source: {source} is neither a text file nor a folder here, nor a built-in text ({listing(TEXTS)}), "
            f"nor a hub id (owner/name).{did_you_mean(source, TEXTS)}"
        )


def _split_text(text: str, data: TextData, split: str) -> str:
    """Returns the part of one text that is for a split; with `data.validation_share` 0, all of it."""
    if split not in ("train", "validation"):
        raise UserError(f"--split {split}: {data.source} is one text; it has train and validation.")
    if data.validation_share == 0:
        return text
    boundary = round(len(text) * (1 - data.validation_share))
    return text[:boundary] if split == "train" else text[boundary:]


def _text_file(folder: Path, split: str) -> Path:
    for name in split_aliases(split):
        for ending in (".txt", ""):
            if (path := folder / f"{name}{ending}").is_file():
                return path
    raise UserError(
        f"data.source: {folder} has no file {split}.txt, nor {listing(TABLE_READERS)} files; "
        f"it has {_first_files(folder)}."
    )


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text.") from None


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file; raises `UserError` where it is not one."""
    try:
        return json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: is not JSON ({error.msg}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}).") from None


def read_lines(file: Path) -> list[str]:
    """Returns the lines of a text file, without a byte-order mark; raises `UserError` where it cannot be read."""
    try:
        return file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}).") from None
