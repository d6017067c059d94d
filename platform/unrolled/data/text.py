"""Running text of a split: from a file, a folder of text files, or a column of any other source."""

from __future__ import annotations

from pathlib import Path

from unrolled.config.language_modeling import Data
from unrolled.data.sources import PACKED, column_texts, names_of, packed_files
from unrolled.errors import UserError, listing, nearest

TEXTS = {"hello": "hello"}
"""Built-in texts."""


def read_text(data: Data, split: str) -> str:
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
            f"nor a hub id (owner/name).{nearest(source, TEXTS)}"
        )


def _cut(text: str, data: Data, split: str) -> str:
    """A text without splits: its last part is for validation; with share 0, all of it is for both."""
    if split not in ("train", "validation"):
        raise UserError(f"--split {split}: {data.source} is one text; it has train and validation.")
    if data.validation_share == 0:
        return text
    place = round(len(text) * (1 - data.validation_share))
    return text[:place] if split == "train" else text[place:]


def _file(folder: Path, split: str) -> Path:
    for name in names_of(split):
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
