"""Captioned photographs in tables: a folder of parquet, JSON lines or CSV files, an address, or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets import Dataset

from unrolled.config.captioning_data import Data
from unrolled.data.photographs import Stored
from unrolled.data.sources import open_split
from unrolled.errors import UserError


class Table(Sequence[Stored]):
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

    def __getitem__(self, row: int) -> Stored:  # type: ignore[override]
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


def open_table(data: Data, split: str) -> tuple[Table, list[list[str]]]:
    """Opens one split: its photographs, and the captions of each; raises `UserError` as `sources.open_split`, or where
    captions are not text."""
    captions = _listed(data.columns.captions)
    columns = {"columns.image": data.columns.image}
    columns |= {f"columns.captions{f'.{n}' if n else ''}": column for n, column in enumerate(captions)}
    rows, place = open_split(data.source, split, columns), f"{data.source}, split {split!r}"
    return Table(rows, data.columns.image, data.images or data.source, place), _captions(rows, data, place)


def _name(row: int, value: object) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else f"row {row}"


def _captions(rows: Dataset, data: Data, place: str) -> list[list[str]]:
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
