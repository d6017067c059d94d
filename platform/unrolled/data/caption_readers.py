"""Readers of captioned photographs: files, tables and built-in scenes.

Forms of files in a folder:

- Karpathy's split JSON (`dataset_flickr8k.json`): `images`, each with `filename`, perhaps `filepath`, `split`, and
  `sentences` with their `raw` text. A split may be several, joined by a plus sign: `train+restval`.
- COCO's captions JSON (`annotations/captions_train2017.json`): `images` with `id` and `file_name`, `annotations` with
  `image_id` and `caption`. The split is the part after `captions_`, with or without its year.
- Flickr's token file (`Flickr8k.token.txt`: `name.jpg#0`, tab, caption; or `captions.txt`: `name.jpg,caption`) and a
  list of names per split (`Flickr_8k.trainImages.txt` or `train.txt`).
- Photographs beside a table (`metadata.csv` or `metadata.jsonl` with a column `file_name`), in one folder per split;
  a photograph may have several rows.

Tables are a folder of parquet, JSON lines or CSV files, an address, or a hub id.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from unrolled.config.captioning import CaptionData
from unrolled.data.builtin_scenes import NAME, SIZES, scenes
from unrolled.data.images import EncodedPhoto, PhotoSet, examples, photo_paths, quantity, scene_photos, select_photos
from unrolled.data.sources import get_split, open_split, read_json, read_lines, split_aliases
from unrolled.errors import UserError, listing


@dataclass(frozen=True)
class CaptionSet(PhotoSet):
    """One split. `captions`: one or more per photograph, none of them empty."""

    captions: list[list[str]]


def open_captions(data: CaptionData, split: str) -> CaptionSet:
    """Opens one split: `train`, `validation`, `test`, or another one of the source. Raises `UserError` for no such
    source or split, files in none of the known forms, or no photograph with a caption."""
    name = data.splits.model_dump().get(split, split)
    if data.source == NAME:
        get_split(SIZES, name, NAME)
        captions = [[scene.caption] for scene in scenes()[name][: data.limit]]
        names = [f"{NAME}/{name}/{row}.png" for row in range(len(captions))]
        return CaptionSet(select_photos(scene_photos(name), range(len(captions))), names, captions)
    if Path(data.source).expanduser().is_dir():
        for reader in READERS:
            if (photos := reader(data, name)) is not None:
                return _without_empty(photos, data, name)
    return _without_empty(_read_table(data, name), data, name)


def _without_empty(photos: CaptionSet, data: CaptionData, split: str) -> CaptionSet:
    """Leaves out empty captions and the photographs that then have none; keeps the first `data.limit`."""
    rows: list[int] = []
    captions: list[list[str]] = []
    incomplete, without = [], []
    for row, texts in enumerate(photos.captions):
        if data.limit is not None and len(rows) == data.limit:
            break
        written = [line for text in texts if (line := " ".join(text.split()))]
        if written:
            rows.append(row)
            captions.append(written)
            if len(written) < len(texts):
                incomplete.append(photos.names[row])
        else:
            without.append(photos.names[row])
    if not rows:
        raise UserError(f"data.source: {data.source}, split {split!r} has no photograph with a caption.")
    dropped = [
        f"split {split!r}: {quantity(names, 'photograph')} {what} ({examples(names)})"
        for names, what in (
            (without, "without caption left out"),
            (incomplete, "with empty captions, which are left out"),
        )
        if names
    ]
    names = [photos.names[row] for row in rows]
    return CaptionSet(select_photos(photos.images, rows), names, captions, dropped=dropped)


def _read_karpathy(data: CaptionData, split: str) -> CaptionSet | None:
    """Reads Karpathy's JSON; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    contents = {file: read_json(file) for file in sorted(folder.glob("dataset*.json"))}
    files = [file for file, content in contents.items() if has_rows(content, "images", "sentences")]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"data.source: {folder} has {listing(file.name for file in files)}; keep one of them.")
    rows = contents[files[0]]["images"]
    wanted = {name for part in split.split("+") for name in split_aliases(part)}
    chosen = [row for row in rows if row.get("split") in wanted]
    if not chosen:
        existing = sorted({str(row.get("split")) for row in rows})
        raise UserError(f"data.splits: {files[0]} has no split {split!r}; it has {listing(existing)}.")
    names = [str(Path(row.get("filepath", "")) / row["filename"]) for row in chosen]
    captions = [[_text(sentence.get("raw"), files[0]) for sentence in row["sentences"]] for row in chosen]
    return CaptionSet(photo_paths(data.source, data.images, names), names, captions)


def _read_coco(data: CaptionData, split: str) -> CaptionSet | None:
    """Reads COCO's captions; `None` if the folder has none."""
    folder = Path(data.source).expanduser()
    files = sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])
    if not files:
        return None
    known = {file.stem.removeprefix("captions_"): file for file in files}
    # `train2017` is COCO's name of `train`.
    years = (rf"{re.escape(name)}\d*" for name in split_aliases(split))
    matches = ([key for key in known if re.fullmatch(year, key)] for year in years)
    chosen = next(filter(None, matches), [])
    if len(chosen) != 1:
        what = "several files" if chosen else "no captions"
        raise UserError(f"data.splits: {folder} has {what} for split {split!r}; it has {listing(known)}.")
    file = known[chosen[0]]
    content = read_json(file)
    if not has_rows(content, "images", "file_name"):
        raise UserError(f"{file}: is not a captions file of COCO; it has no images with file_name.")
    annotations = content.get("annotations", [])
    captions = _group((each.get("image_id"), _text(each.get("caption"), file)) for each in annotations)
    names = [row["file_name"] for row in content["images"]]
    paths = photo_paths(data.source, data.images, names, chosen[0])
    return CaptionSet(paths, names, [captions.get(row.get("id"), []) for row in content["images"]])


def _read_flickr(data: CaptionData, split: str) -> CaptionSet | None:
    """Reads a token file and a list of names; `None` if the folder has no token file."""
    folder = Path(data.source).expanduser()
    files = sorted([*folder.rglob("*.token.txt"), *folder.rglob("*.token"), *folder.glob("captions.txt")])
    if not files:
        return None
    captions = _read_token_file(files[0])
    patterns = [pattern for name in split_aliases(split) for pattern in (f"*{name}Images.txt", f"{name}.txt")]
    lists = [file for pattern in patterns for file in sorted(folder.rglob(pattern))]
    if not lists:
        raise UserError(
            f"data.splits: {folder} has no list of the photographs of split {split!r}, "
            f"such as {listing(patterns[:2])}, a name a line."
        )
    names = [line.strip() for line in read_lines(lists[0]) if line.strip()]
    return CaptionSet(photo_paths(data.source, data.images, names), names, [captions.get(name, []) for name in names])


def _read_metadata(data: CaptionData, split: str) -> CaptionSet | None:
    """Reads the table beside photographs; `None` if no split's folder has one.

    Not by `imagefolder` of `datasets`, which guesses types: the captions "42" and "NA" would be a number and missing.
    """
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
        existing = sorted(table.parent.name for table in folder.glob("*/metadata.*"))
        raise UserError(f"data.splits: {folder} has no folder {split!r} with metadata; it has {listing(existing)}.")
    captions: dict[str, list[str]] = {}
    columns = _columns(data)
    for row in _read_rows(tables[0]):
        for column in ("file_name", *columns):
            if column not in row:
                raise UserError(
                    f"{tables[0]}: has no column {column!r} (data.columns.captions); it has {listing(row)}."
                )
        texts = captions.setdefault(row["file_name"], [])
        for column in columns:
            value = row[column]
            texts += [_text(text, tables[0]) for text in (value if isinstance(value, list) else [value])]
    return CaptionSet([tables[0].parent / name for name in captions], list(captions), list(captions.values()))


READERS: Sequence[Callable[[CaptionData, str], CaptionSet | None]] = (
    _read_karpathy,
    _read_coco,
    _read_flickr,
    _read_metadata,
)


def has_rows(content: Any, key: str, inner: str) -> bool:
    """Returns whether a JSON object has a list `key` of objects, the first of which has `inner`."""
    rows = content.get(key) if isinstance(content, dict) else None
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and inner in rows[0]


def _text(value: object, file: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{file}: holds a caption that is not text ({value!r}).")
    return value


def _group(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    """Returns the captions of each photograph."""
    captions: dict[Any, list[str]] = {}
    for photo, caption in pairs:
        captions.setdefault(photo, []).append(caption)
    return captions


def _read_token_file(file: Path) -> dict[str, list[str]]:
    lines = read_lines(file)
    if lines and lines[0].replace(" ", "") == "image,caption":
        return _group((row[0], row[-1]) for row in csv.reader(lines[1:]) if row)
    return _group(_token_lines(lines, file))


def _token_lines(lines: Sequence[str], file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        name, tab, caption = line.partition("\t")
        if not line.strip():
            continue
        if not tab or "#" not in name:
            raise UserError(f"{file}, line {number}: is not a photograph's name, #, a number, a tab and a caption.")
        yield name.rpartition("#")[0], caption


def _read_rows(table: Path) -> list[dict[str, Any]]:
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


def _read_table(data: CaptionData, split: str) -> CaptionSet:
    """Opens one split of a table; a column of captions holds a text, a list of texts, or nothing. Raises `UserError` as
    `open_split`, or for captions that are not text."""
    columns = {"columns.image": data.columns.image}
    columns |= {f"columns.captions{f'.{n}' if n else ''}": column for n, column in enumerate(_columns(data))}
    rows, place = open_split(data.source, split, columns), f"{data.source}, split {split!r}"
    captions: list[list[str]] = [[] for _ in range(len(rows))]
    for column in _columns(data):
        for row, value in enumerate(rows[column]):
            texts = [] if value is None else value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{place}, row {row}: column {column!r} holds something else than captions.")
            captions[row].extend(texts)
    table = PhotoTable(rows, data.columns.image, data.images or data.source, place)
    return CaptionSet(table, table.names, captions)


def _columns(data: CaptionData) -> list[str]:
    columns = data.columns.captions
    return [columns] if isinstance(columns, str) else list(columns)


class PhotoTable(Sequence[EncodedPhoto]):
    """The photographs of one split of a table, one per row.

    Args:
        rows: with photographs in `column`.
        folder: of relative paths among them.
        place: named by errors.

    Attributes:
        names: of the photographs, as in the table, else by row.
    """

    def __init__(self, rows: Dataset, column: str, folder: str, place: str) -> None:
        self._column, self._folder, self._place = column, Path(folder).expanduser(), place
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._images = rows.select_columns([column])
        self.names = [_photo_name(row, value) for row, value in enumerate(self._images[column])]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> EncodedPhoto:  # type: ignore[override]
        """Returns the encoded photograph of a row, or the path of its file; raises `UserError` where the column holds
        something else."""
        value = self._images[row][self._column]
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return self._folder / value
        if value is None:
            return b""  # reported as unreadable
        raise UserError(f"{self._place}, row {row}: column {self._column!r} holds no photograph.")


def _photo_name(row: int, value: object) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else f"row {row}"
