"""Data sources: built-in data, folders, files, `s3://` addresses and hub names.

Where examples come from: built-in data, a folder, files, an `s3://` address or a hub id, all opened alike.

Running text of a split: from a file, a folder of text files, or a column of any other source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from unrolled.config.language_modeling import TextData
from unrolled.config.translation import TranslationData
from unrolled.data.dates import dates
from unrolled.errors import UserError, did_you_mean, listing

BUILT_IN: dict[str, Callable[[], dict[str, list[dict[str, str]]]]] = {"dates": dates}
PACKED = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
"""File endings that `datasets` reads, and the name of its reader."""
OTHER_NAMES = {"validation": ("val", "valid", "dev"), "test": ("test_2016_flickr",), "train": ("training",)}
"""Names under which splits are found besides their own."""

datasets.disable_progress_bars()
for _chatty in ("datasets", "huggingface_hub"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)


def open_split(source: str, split: str, columns: Mapping[str, str], limit: int | None = None) -> Dataset:
    """Opens one split.

    Args:
        source: `data.source`.
        split: a name that the source has.
        columns: that the rows must have, by the key below `data` that names them.
        limit: takes only the first rows.

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


def column_texts(source: str, split: str, columns: Mapping[str, str], limit: int | None = None) -> list[list[str]]:
    """Returns the texts of each column of one split; arguments as in `open_split`.

    Raises:
        UserError: as `open_split`, or a value that is not text.
    """
    rows = open_split(source, split, columns, limit)
    found = []
    for column in columns.values():
        texts = list(rows[column])
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"{source}, split {split!r}, row {number}: column {column!r} holds {_kind(text)}, not text."
                )
        found.append(texts)
    return found


def read_pairs(data: TranslationData, split: str) -> tuple[list[str], list[str]]:
    """Returns the texts of both columns of one split of parallel text; raises as `column_texts`."""
    columns = {"columns.input": data.columns.input, "columns.target": data.columns.target}
    inputs, targets = column_texts(data.source, split, columns, data.limit)
    return inputs, targets


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _open(source: str, split: str, columns: Sequence[str]) -> Dataset:
    if source in BUILT_IN:
        made = BUILT_IN[source]()
        return Dataset.from_list(get_split(made, split, source))
    if "://" in source:
        return _load(source, split, _reader(source), data_files={split: source.replace("{split}", split)})
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
    """Returns what the splits hold under that name; raises `UserError` where there is none."""
    if split not in splits:
        raise UserError(
            f"data.splits: {source} has no split {split!r}; it has {listing(splits)}.{did_you_mean(split, splits)}"
        )
    return splits[split]


def _open_folder(folder: Path, split: str, columns: Sequence[str]) -> Dataset:
    """A folder of packed files (parquet, JSON lines, CSV), or of parallel text such as train.en and train.de."""
    packed = packed_files(folder)
    for name in split_aliases(split):
        chosen = [file for file in packed if _belongs(file, name)]
        if chosen:
            return _open_packed(folder, split, chosen)
    if packed:
        raise UserError(
            f"data.splits: {folder} has no file for split {split!r}; "
            f"it has {listing(sorted(str(file.relative_to(folder)) for file in packed))}."
        )
    return _parallel_text(folder, split, columns)


def _open_packed(folder: Path, split: str, files: list[Path]) -> Dataset:
    endings = sorted({file.suffix for file in files})
    if len(endings) > 1:
        raise UserError(f"data.source: {folder} mixes {listing(endings)} files in split {split!r}; keep one kind.")
    delimiter = {"delimiter": "\t"} if endings == [".tsv"] else {}
    return _load(str(folder), split, PACKED[endings[0]], data_files={split: [str(f) for f in files]}, **delimiter)


def packed_files(folder: Path) -> list[Path]:
    """Returns the files of a folder, at any depth, that hold tables."""
    return [file for file in _files(folder) if file.suffix in PACKED]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def split_aliases(split: str) -> tuple[str, ...]:
    """Returns the names under which a split is looked for."""
    return (split, *OTHER_NAMES.get(split, ()))


def _belongs(file: Path, split: str) -> bool:
    """`train.parquet`, `train-00000-of-00003.parquet`, `train_part.csv` and `train/anything.jsonl` hold `train`."""
    stem = file.name[: -len(file.suffix)]
    return stem == split or stem.startswith((f"{split}-", f"{split}_", f"{split}.")) or file.parent.name == split


def _load(source: str, split: str, reader: str, **options: Any) -> Dataset:
    try:
        return datasets.load_dataset(reader, split=split, **options)
    except Exception as error:  # the reader's own errors come in every class; the cause is what helps
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


def _reader(address: str) -> str:
    for ending, reader in PACKED.items():
        if address.endswith(ending):
            return reader
    raise UserError(f"data.source: {address}: the address of files must end in {listing(PACKED)}.")


def _parallel_text(folder: Path, split: str, columns: Sequence[str]) -> Dataset:
    files = {}
    for column in columns:
        found = [path for name in split_aliases(split) if (path := folder / f"{name}.{column}").is_file()]
        if not found:
            there = sorted(path.name for path in folder.iterdir())
            raise UserError(
                f"data.source: {folder} has no file {split}.{column} (parallel text is one file a split and column, "
                f"one sentence a line); it has {listing(there[:12])}."
            )
        files[column] = found[0]
    texts = {column: _lines(path) for column, path in files.items()}
    (one, first), (other, second) = ((files[column], lines) for column, lines in texts.items())
    if len(first) != len(second):
        raise UserError(
            f"{one} has {len(first):,} lines but {other} has {len(second):,}; parallel text needs one for one."
        )
    return Dataset.from_dict(texts)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text.") from None
    return text.removesuffix("\n").split("\n") if text else []


TEXTS = {"hello": "hello"}
"""Built-in texts."""


def read_text(data: TextData, split: str) -> str:
    """Returns the text of a split, character by character as it was written.

    Args:
        split: `train`, `validation`, `test`, or another split of the source. A single file and a built-in text have
            the first two: the last `data.validation_share` is for validation.

    Raises:
        UserError: no such source or split, a text that is empty or not UTF-8.
    """
    name = data.splits.model_dump().get(split, split)
    path = Path(data.source).expanduser()
    if data.source in TEXTS:
        text = _cut(TEXTS[data.source], data, split)
    elif path.is_file():
        text = _cut(_read(path), data, split)
    elif path.is_dir() and not packed_files(path):
        text = _read(_file(path, name))
    else:
        _check_address(data.source)
        text = "\n".join(column_texts(data.source, name, {"column": data.column})[0])
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


def _cut(text: str, data: TextData, split: str) -> str:
    """A text without splits: its last part is for validation; with share 0, all of it is for both."""
    if split not in ("train", "validation"):
        raise UserError(f"--split {split}: {data.source} is one text; it has train and validation.")
    if data.validation_share == 0:
        return text
    place = round(len(text) * (1 - data.validation_share))
    return text[:place] if split == "train" else text[place:]


def _file(folder: Path, split: str) -> Path:
    for name in split_aliases(split):
        for ending in (".txt", ""):
            if (path := folder / f"{name}{ending}").is_file():
                return path
    there = sorted(path.name for path in folder.iterdir())
    raise UserError(
        f"data.source: {folder} has no file {split}.txt, nor {listing(PACKED)} files; it has {listing(there[:12])}."
    )


def _read(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text.") from None
