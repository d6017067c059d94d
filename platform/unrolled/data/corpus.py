"""Tokenised corpora on disk: built once per fingerprint, memory-mapped by every worker."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from unrolled.errors import UserError
from unrolled.files import build_cached

FORMAT = 3
"""Raise when the files change their meaning, so that older ones are built again."""
SPLITS = ("train", "validation")
Content = TypeVar("Content")
"""What a corpus is made of, per split; anything that JSON can hold."""


@dataclass(frozen=True)
class Corpus:
    """A folder of the cache: vocabularies in JSON files, and one Arrow file per split."""

    folder: Path

    @property
    def fingerprint(self) -> str:
        """Names the content: equal data, equal fingerprint."""
        return self.folder.name

    def path(self, split: str) -> Path:
        """Returns the file of `train` or `validation`."""
        return self.folder / f"{split}.arrow"

    def save(self, folder: Path) -> None:
        """Copies the vocabularies."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("*.json"):
            shutil.copyfile(file, folder / file.name)


class TokenTable:
    """One split, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._flat: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def values(self, column: str) -> pa.Array:
        """Returns a column where it lies in the file: `combine_chunks` copies even a single chunk."""
        chunks = self.table.column(column)
        return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()

    def tokens(self, column: str, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the token ids of some rows, without begin and end symbols."""
        values, offsets = self._values_and_offsets(column)
        return [values[offsets[i] : offsets[i + 1]] for i in indices]

    def num_tokens(self, column: str) -> np.ndarray:
        """Returns the number of tokens of every row, int64."""
        _, offsets = self._values_and_offsets(column)
        return np.diff(offsets).astype(np.int64)

    def _values_and_offsets(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        if column not in self._flat:
            array = self.values(column)
            self._flat[column] = array.values.to_numpy(), array.offsets.to_numpy()
        return self._flat[column]


def build_corpus(
    settings: Sequence[Any],
    read: Callable[[str], Content],
    tokenize: Callable[[Mapping[str, Content], Path], Mapping[str, pa.Table]],
    fingerprint: str | None = None,
) -> Path:
    """Returns the folder of a corpus in the cache, which is built first where there is none.

    Args:
        settings: kind of the corpus and options that its files depend on besides the content.
        read: opens a split.
        tokenize: learns vocabularies, saves them in a folder, and returns a table per split.
        fingerprint: of settings and content where another process has computed it: the source is then opened only
            if this machine has no such folder yet.

    Raises:
        UserError: the data cannot be used, or the cache cannot be written.
    """

    def read_splits() -> dict[str, Content]:
        return {split: read(split) for split in SPLITS}

    contents: dict[str, Content] = {}
    if fingerprint is None:
        contents = read_splits()
        digest = hashlib.sha256(json.dumps([FORMAT, *settings], sort_keys=True).encode())
        for content in contents.values():
            digest.update(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        fingerprint = digest.hexdigest()[:20]

    def build(folder: Path) -> None:
        for split, table in tokenize(contents or read_splits(), folder).items():
            path = str(Corpus(folder).path(split))
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

    return build_cached(fingerprint, build)


def token_rows(rows: Sequence[Sequence[int]]) -> pa.Array:
    """Returns a column of token ids."""
    return pa.array(rows, pa.large_list(pa.int32()))


def check_max_length(lengths: np.ndarray, max_length: int, source: str, noun: str) -> None:
    """Raises `UserError` where `data.max_length` leaves no example of `lengths` `(examples, sides)` in tokens, end
    symbols included."""
    shortest = int(lengths.max(1).min())
    if shortest > max_length:
        ends = "end symbol" if lengths.shape[1] == 1 else "end symbols"
        raise UserError(
            f"data.max_length: {max_length} leaves no {noun} of {source} to learn from; the shortest has "
            f"{shortest} tokens, {ends} included."
        )
