"""Questions about photographs in tables: a folder of parquet, JSON lines or CSV files, an address, or a hub id."""

from __future__ import annotations

import hashlib
from typing import Any

import datasets
from datasets import Dataset

from unrolled.config.answering_data import Data
from unrolled.data.asked import Asked, Question, ask
from unrolled.data.captioned_tables import Table
from unrolled.data.photographs import Chosen
from unrolled.data.sources import open_split
from unrolled.errors import UserError


def question_table(data: Data, split: str) -> Asked:
    """Opens one split, a question a row; rows with one photograph share it.

    Raises:
        UserError: as `sources.open_split`, or a column that holds something else than it should.
    """
    named = {key: column for key, column in data.columns.model_dump().items() if column is not None}
    rows = open_split(data.source, split, {f"columns.{key}": column for key, column in named.items()})
    place = f"{data.source}, split {split!r}"
    table = Table(rows, data.columns.image, data.images or data.source, place)
    owners, firsts = _photographs(table)
    asked = [
        _Row(cells, f"{place}, row {row}").question(f"{split}-{row}", owners[row])
        for row, cells in enumerate(_cells(rows, named))
    ]
    asked.sort(key=lambda each: each.photo)
    return Asked(Chosen(table, firsts), [table.names[row] for row in firsts], asked)


class _Row:
    """One row. `cells`: by key of `data.columns`."""

    def __init__(self, cells: dict[str, Any], place: str) -> None:
        self._cells, self._place = cells, place

    def question(self, id: str, photo: int) -> Question:
        given, kind, choices = (self._cells.get(key) for key in ("id", "kind", "choices"))
        wrong = [] if choices is None else self._texts("choices", choices)
        if "choices" in self._cells and not wrong:
            raise UserError(f"{self._place}: has no candidates (data.columns.choices).")
        (question,) = self._texts("question", self._cells["question"])
        answers = self._answers(wrong)
        known = None if kind is None else self._texts("kind", kind)[0]
        return ask(id if given is None else str(given), photo, question, answers, wrong, known)

    def _answers(self, choices: list[str]) -> list[str]:
        """One answer or several; a number is the place among candidates."""
        value = self._cells["answer"]
        if isinstance(value, int) and choices:
            if not 0 <= value < len(choices):
                raise UserError(f"{self._place}: answer {value} is no place among {len(choices)} candidates.")
            return [choices[value]]
        return self._texts("answer", value) or [""]

    def _texts(self, key: str, value: Any) -> list[str]:
        values = value if isinstance(value, list) else ["" if value is None else value]
        texts: list[Any] = [each.get("answer") if isinstance(each, dict) else each for each in values]
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{self._place}: column of data.columns.{key} holds {type(text).__name__}, not text.")
        return texts


def _cells(rows: Dataset, named: dict[str, str]) -> list[dict[str, Any]]:
    """Returns every row's values but the photograph, by key; classes by their names."""
    columns = {}
    for key, column in named.items():
        if key != "image":
            values, feature = list(rows[column]), rows.features[column]
            if isinstance(feature, datasets.ClassLabel):
                values = [None if value is None else feature.int2str(value) for value in values]
            columns[key] = values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _photographs(table: Table) -> tuple[list[int], list[int]]:
    """Returns each row's photograph, and each photograph's first row."""
    known: dict[bytes, int] = {}
    owners: list[int] = []
    firsts: list[int] = []
    for row, image in enumerate(table):
        key = hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image).encode()
        if key not in known:
            known[key] = len(firsts)
            firsts.append(row)
        owners.append(known[key])
    return owners, firsts
