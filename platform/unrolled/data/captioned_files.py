"""Captioned photographs in files: each form that people have them in, with its reader.

- Karpathy's split JSON (`dataset_flickr8k.json`): `images`, each with `filename`, perhaps `filepath`, `split`, and
  `sentences` with their `raw` text. A split may be several, joined by a plus sign: `train+restval`.
- COCO's captions JSON (`annotations/captions_train2017.json`): `images` with `id` and `file_name`, `annotations` with
  `image_id` and `caption`. The split is what stands after `captions_`, whole or without its year.
- Flickr's token file (`Flickr8k.token.txt`: `name.jpg#0`, tab, caption; or `captions.txt`: `name.jpg,caption`) and a
  list of names for every split (`Flickr_8k.trainImages.txt` or `train.txt`).
- Photographs with a table beside them (`metadata.csv` or `metadata.jsonl` with a column `file_name`), in a folder for
  every split; a photograph may have several rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.config.captioning_data import Data
from unrolled.data.photo_files import photo_paths, read_json, read_lines
from unrolled.data.sources import names_of
from unrolled.errors import UserError, listing


@dataclass(frozen=True)
class Photos:
    """What a reader found, a photograph each: its name in the file, its path, and its captions."""

    names: list[str]
    paths: list[Path]
    captions: list[list[str]]


def karpathy(data: Data, split: str) -> Photos | None:
    """Reads Karpathy's JSON; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    files = sorted(folder.glob("dataset*.json"))
    files = [file for file in files if _has(read_json(file), "images", "sentences")]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"data.source: {folder} has {listing(file.name for file in files)}; keep one of them.")
    rows = read_json(files[0])["images"]
    wanted = {name for part in split.split("+") for name in names_of(part)}
    chosen = [row for row in rows if row.get("split") in wanted]
    if not chosen:
        there = sorted({str(row.get("split")) for row in rows})
        raise UserError(f"data.splits: {files[0]} has no split {split!r}; it has {listing(there)}.")
    names = [str(Path(row.get("filepath", "")) / row["filename"]) for row in chosen]
    captions = [[_text(sentence.get("raw"), files[0]) for sentence in row["sentences"]] for row in chosen]
    return _found(data, names, captions)


def coco(data: Data, split: str) -> Photos | None:
    """Reads COCO's captions; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    files = sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])
    if not files:
        return None
    known = {file.stem.removeprefix("captions_"): file for file in files}
    chosen = next(
        (fitting for name in names_of(split) if (fitting := [key for key in known if _is_year(key, name)])), []
    )
    if len(chosen) != 1:
        what = "several files" if chosen else "no captions"
        raise UserError(f"data.splits: {folder} has {what} for split {split!r}; it has {listing(known)}.")
    file = known[chosen[0]]
    content = read_json(file)
    if not _has(content, "images", "file_name"):
        raise UserError(f"{file}: is not a captions file of COCO; it has no images with file_name.")
    written: dict[Any, list[str]] = {}
    for annotation in content.get("annotations", []):
        written.setdefault(annotation.get("image_id"), []).append(_text(annotation.get("caption"), file))
    names = [row["file_name"] for row in content["images"]]
    return _found(data, names, [written.get(row.get("id"), []) for row in content["images"]], chosen[0])


def flickr(data: Data, split: str) -> Photos | None:
    """Reads a token file and a list of names; `None` if the folder has no token file."""
    folder = Path(data.source).expanduser()
    tokens = sorted([*folder.rglob("*.token.txt"), *folder.rglob("*.token"), *folder.glob("captions.txt")])
    if not tokens:
        return None
    written = _token_file(tokens[0])
    patterns = [pattern for name in names_of(split) for pattern in (f"*{name}Images.txt", f"{name}.txt")]
    lists = [file for pattern in patterns for file in sorted(folder.rglob(pattern))]
    if not lists:
        raise UserError(
            f"data.splits: {folder} has no list of the photographs of split {split!r}, "
            f"such as {listing(patterns[:2])}, a name a line."
        )
    names = [line.strip() for line in read_lines(lists[0]) if line.strip()]
    return _found(data, names, [written.get(name, []) for name in names])


def metadata(data: Data, split: str) -> Photos | None:
    """Reads the table beside photographs; `None` if no split's folder has one."""
    folder = Path(data.source).expanduser()
    if not [*folder.glob("*/metadata.csv"), *folder.glob("*/metadata.jsonl")]:
        return None
    tables = [
        table
        for name in names_of(split)
        for ending in ("csv", "jsonl")
        if (table := folder / name / f"metadata.{ending}").is_file()
    ]
    if not tables:
        there = sorted(table.parent.name for table in folder.glob("*/metadata.*"))
        raise UserError(f"data.splits: {folder} has no folder {split!r} with metadata; it has {listing(there)}.")
    captions: dict[str, list[str]] = {}
    columns = [data.columns.captions] if isinstance(data.columns.captions, str) else data.columns.captions
    for row in _rows(tables[0]):
        for column in ("file_name", *columns):
            if column not in row:
                raise UserError(
                    f"{tables[0]}: has no column {column!r} (data.columns.captions); it has {listing(row)}."
                )
        texts = captions.setdefault(row["file_name"], [])
        for column in columns:
            value = row[column]
            texts += [_text(text, tables[0]) for text in (value if isinstance(value, list) else [value])]
    paths = [tables[0].parent / name for name in captions]
    return Photos(list(captions), paths, list(captions.values()))


READERS: Sequence[Callable[[Data, str], Photos | None]] = (karpathy, coco, flickr, metadata)


def _found(data: Data, names: list[str], captions: list[list[str]], part: str = "") -> Photos:
    return Photos(names, photo_paths(data.source, data.images, names, part), captions)


def _token_file(file: Path) -> dict[str, list[str]]:
    lines = read_lines(file)
    if lines and lines[0].replace(" ", "") == "image,caption":
        return _gathered((row[0], row[-1]) for row in csv.reader(lines[1:]) if row)
    return _gathered(_token_lines(lines, file))


def _token_lines(lines: Sequence[str], file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        name, tab, caption = line.partition("\t")
        if not line.strip():
            continue
        if not tab or "#" not in name:
            raise UserError(f"{file}, line {number}: is not a photograph's name, #, a number, a tab and a caption.")
        yield name.rpartition("#")[0], caption


def _gathered(lines: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for name, caption in lines:
        captions.setdefault(name, []).append(caption)
    return captions


def _rows(table: Path) -> list[dict[str, Any]]:
    lines = read_lines(table)
    if table.suffix == ".csv":
        return [{key: value or "" for key, value in row.items()} for row in csv.DictReader(lines)]
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{table}, line {number}: is not JSON ({error.msg}).") from None
    return rows


def _has(content: Any, key: str, inner: str) -> bool:
    rows = content.get(key) if isinstance(content, dict) else None
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and inner in rows[0]


def _is_year(name: str, split: str) -> bool:
    """`train2017` is COCO's name of `train`."""
    rest = name.removeprefix(split)
    return name.startswith(split) and (not rest or rest.isdecimal())


def _text(value: object, file: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{file}: holds a caption that is not text ({value!r}).")
    return value
