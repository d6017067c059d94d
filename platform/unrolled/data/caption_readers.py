"""Readers of captioned photographs: files, tables and built-in scenes.

Captioned photographs in files: each form that people have them in, with its reader.

- Karpathy's split JSON (`dataset_flickr8k.json`): `images`, each with `filename`, perhaps `filepath`, `split`, and
  `sentences` with their `raw` text. A split may be several, joined by a plus sign: `train+restval`.
- COCO's captions JSON (`annotations/captions_train2017.json`): `images` with `id` and `file_name`, `annotations` with
  `image_id` and `caption`. The split is what stands after `captions_`, whole or without its year.
- Flickr's token file (`Flickr8k.token.txt`: `name.jpg#0`, tab, caption; or `captions.txt`: `name.jpg,caption`) and a
  list of names for every split (`Flickr_8k.trainImages.txt` or `train.txt`).
- Photographs with a table beside them (`metadata.csv` or `metadata.jsonl` with a column `file_name`), in a folder for
  every split; a photograph may have several rows.

Captioned photographs in tables: a folder of parquet, JSON lines or CSV files, an address, or a hub id.

Captioned photographs of any source: the photographs as they are stored, and what is written about each.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset

from unrolled.config.captioning import CaptionData
from unrolled.data.images import (
    EncodedPhoto,
    PhotoSet,
    ScenePhotos,
    Selected,
    examples,
    photo_paths,
    quantity,
    read_json,
    read_lines,
)
from unrolled.data.scenes import NAME, SIZES, scenes
from unrolled.data.sources import get_split, open_split, split_aliases
from unrolled.errors import UserError, listing


@dataclass(frozen=True)
class Photos:
    """What a reader found, a photograph each: its name in the file, its path, and its captions."""

    names: list[str]
    paths: list[Path]
    captions: list[list[str]]


def karpathy(data: CaptionData, split: str) -> Photos | None:
    """Reads Karpathy's JSON; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    files = sorted(folder.glob("dataset*.json"))
    files = [file for file in files if _has(read_json(file), "images", "sentences")]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"data.source: {folder} has {listing(file.name for file in files)}; keep one of them.")
    rows = read_json(files[0])["images"]
    wanted = {name for part in split.split("+") for name in split_aliases(part)}
    chosen = [row for row in rows if row.get("split") in wanted]
    if not chosen:
        there = sorted({str(row.get("split")) for row in rows})
        raise UserError(f"data.splits: {files[0]} has no split {split!r}; it has {listing(there)}.")
    names = [str(Path(row.get("filepath", "")) / row["filename"]) for row in chosen]
    captions = [[_text(sentence.get("raw"), files[0]) for sentence in row["sentences"]] for row in chosen]
    return _found(data, names, captions)


def coco(data: CaptionData, split: str) -> Photos | None:
    """Reads COCO's captions; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    files = sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])
    if not files:
        return None
    known = {file.stem.removeprefix("captions_"): file for file in files}
    chosen = next(
        (fitting for name in split_aliases(split) if (fitting := [key for key in known if _is_year(key, name)])), []
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


def flickr(data: CaptionData, split: str) -> Photos | None:
    """Reads a token file and a list of names; `None` if the folder has no token file."""
    folder = Path(data.source).expanduser()
    tokens = sorted([*folder.rglob("*.token.txt"), *folder.rglob("*.token"), *folder.glob("captions.txt")])
    if not tokens:
        return None
    written = _token_file(tokens[0])
    patterns = [pattern for name in split_aliases(split) for pattern in (f"*{name}Images.txt", f"{name}.txt")]
    lists = [file for pattern in patterns for file in sorted(folder.rglob(pattern))]
    if not lists:
        raise UserError(
            f"data.splits: {folder} has no list of the photographs of split {split!r}, "
            f"such as {listing(patterns[:2])}, a name a line."
        )
    names = [line.strip() for line in read_lines(lists[0]) if line.strip()]
    return _found(data, names, [written.get(name, []) for name in names])


def metadata(data: CaptionData, split: str) -> Photos | None:
    """Reads the table beside photographs; `None` if no split's folder has one."""
    folder = Path(data.source).expanduser()
    if not [*folder.glob("*/metadata.csv"), *folder.glob("*/metadata.jsonl")]:
        return None
    tables = [
        table
        for name in split_aliases(split)
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


READERS: Sequence[Callable[[CaptionData, str], Photos | None]] = (karpathy, coco, flickr, metadata)


def _found(data: CaptionData, names: list[str], captions: list[list[str]], part: str = "") -> Photos:
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


class PhotoTable(Sequence[EncodedPhoto]):
    """The photographs of one split of a table, a row each.

    Args:
        rows: of which `column` holds photographs.
        folder: that paths among them begin at.
        place: named by errors.

    Attributes:
        names: of the photographs, as the table has them, else by row.
    """

    def __init__(self, rows: Dataset, column: str, folder: str, place: str) -> None:
        self._column, self._folder, self._place = column, Path(folder).expanduser(), place
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._images = rows.select_columns([column])
        self.names = [_name(row, value) for row, value in enumerate(self._images[column])]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> EncodedPhoto:  # type: ignore[override]
        """Returns the encoded photograph of a row, or the path of its file; raises `UserError` where the column holds
        something else."""
        value = self._images[row][self._column]
        found = value
        if isinstance(value, dict):
            found = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(found, bytes):
            return found
        if isinstance(found, str):
            return self._folder / found
        if found is None:
            return b""  # which is reported as unreadable
        raise UserError(f"{self._place}, row {row}: column {self._column!r} holds no photograph.")


def open_table(data: CaptionData, split: str) -> tuple[PhotoTable, list[list[str]]]:
    """Opens one split: its photographs, and the captions of each; raises `UserError` as `sources.open_split`, or where
    captions are not text."""
    captions = _listed(data.columns.captions)
    columns = {"columns.image": data.columns.image}
    columns |= {f"columns.captions{f'.{n}' if n else ''}": column for n, column in enumerate(captions)}
    rows, place = open_split(data.source, split, columns), f"{data.source}, split {split!r}"
    return PhotoTable(rows, data.columns.image, data.images or data.source, place), _captions(rows, data, place)


def _name(row: int, value: object) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else f"row {row}"


def _captions(rows: Dataset, data: CaptionData, place: str) -> list[list[str]]:
    """Returns the captions of each row; a column holds a text or a list of texts, or nothing."""
    found: list[list[str]] = [[] for _ in range(len(rows))]
    for column in _listed(data.columns.captions):
        for row, value in enumerate(rows[column]):
            texts = [] if value is None else value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{place}, row {row}: column {column!r} holds something else than captions.")
            found[row].extend(texts)
    return found


def _listed(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


@dataclass(frozen=True)
class CaptionSet(PhotoSet):
    """One split. `captions`: of each photograph one or more, none of them empty."""

    captions: list[list[str]]


class _Kept(NamedTuple):
    """What is left of a split, with the row of each photograph."""

    rows: list[int]
    captions: list[list[str]]
    dropped: list[str]


def open_captions(data: CaptionData, split: str) -> CaptionSet:
    """Opens one split.

    Args:
        split: `train`, `validation`, `test`, or another split of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, or no photograph with a caption.
    """
    name = data.splits.model_dump().get(split, split)
    if data.source == NAME:
        return _scenes(name, data.limit)
    folder = Path(data.source).expanduser()
    if folder.is_dir():
        for reader in READERS:
            if (photos := reader(data, name)) is not None:
                return _captioned(photos.paths, photos.names, photos.captions, data, name)
    table, captions = open_table(data, name)
    return _captioned(table, table.names, captions, data, name)


def _scenes(split: str, limit: int | None) -> CaptionSet:
    get_split(SIZES, split, NAME)
    captions = [[scene.caption] for scene in scenes()[split][:limit]]
    names = [f"{NAME}/{split}/{row}.png" for row in range(len(captions))]
    return CaptionSet(Selected(ScenePhotos(split), range(len(captions))), names, captions)


def _captioned(
    images: Sequence[EncodedPhoto],
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    data: CaptionData,
    split: str,
) -> CaptionSet:
    kept = _keep(names, captions, data, split)
    return CaptionSet(
        Selected(images, kept.rows), [names[row] for row in kept.rows], kept.captions, dropped=kept.dropped
    )


def _keep(names: Sequence[str], captions: Sequence[Sequence[str]], data: CaptionData, split: str) -> _Kept:
    """Leaves out empty captions and the photographs that then have none, and keeps the first `data.limit`."""
    rows: list[int] = []
    kept: list[list[str]] = []
    empty, without = [], []
    for row, texts in enumerate(captions):
        if data.limit is not None and len(rows) == data.limit:
            break
        whole = [" ".join(text.split()) for text in texts]
        written = [text for text in whole if text]
        if len(written) < len(texts) and written:
            empty.append(names[row])
        if written:
            rows.append(row)
            kept.append(written)
        else:
            without.append(names[row])
    if not rows:
        raise UserError(f"data.source: {data.source}, split {split!r} has no photograph with a caption.")
    dropped = [
        f"split {split!r}: {quantity(found, 'photograph')} {what} ({examples(found)})"
        for found, what in ((without, "without caption left out"), (empty, "with empty captions, which are left out"))
        if found
    ]
    return _Kept(rows, kept, dropped)
