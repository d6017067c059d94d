"""Tokenised sentence pairs on disk, memory-mapped by every worker.

How long outputs may reasonably become: as long as training has seen them.

Tokenised data on disk: made once, memory-mapped by every worker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from unrolled.config.translation import TranslationData
from unrolled.data.sources import read_pairs
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError
from unrolled.files import build_cached, write_atomic

FILE = "lengths.json"


@dataclass(frozen=True)
class TargetLengths:
    """The longest target of training, in tokens with the end symbol, for each length of its input without it."""

    targets: Mapping[int, int]

    @classmethod
    def of(cls, lengths: np.ndarray) -> TargetLengths:
        """Reads them off tokens of input and target, end symbols included, `(examples, 2)`."""
        inputs = lengths[:, 0] - 1
        longest = np.zeros(inputs.max() + 1, dtype=np.int64)
        np.maximum.at(longest, inputs, lengths[:, 1])
        return cls({int(length): int(longest[length]) for length in np.unique(inputs)})

    def factor(self, offset: int) -> float:
        """Returns the least factor with which no target of training is longer than ⌊factor · input⌋ + offset.

        An empty input counts as one token.
        """
        # Upwards in the last place, so that rounding down a product never takes a token away.
        ratios = ((target - offset) / max(1, length) for length, target in self.targets.items())
        return float(np.nextafter(max(0.0, *ratios), np.inf))

    def save(self, folder: Path) -> None:
        """Writes `lengths.json`."""
        write_atomic(folder / FILE, json.dumps(sorted(self.targets.items())))

    @classmethod
    def load(cls, folder: Path) -> TargetLengths | None:
        """Reads what `save` wrote; `None` where there is no such file."""
        path = folder / FILE
        return cls(dict(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else None


FORMAT = 1
"""Raise when the files change their meaning, so that older ones are made again."""
Tokens = np.ndarray


@dataclass(frozen=True)
class Vocabularies:
    """The vocabularies of both sides; the same object twice where they are shared."""

    input: Vocabulary
    target: Vocabulary

    def save(self, folder: Path) -> None:
        """Writes `input.json` and `target.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.input.save(folder / "input.json")
        self.target.save(folder / "target.json")

    @classmethod
    def load(cls, folder: Path) -> Vocabularies:
        """Reads what `save` wrote; raises `UserError` for a missing or foreign file."""
        return cls(Vocabulary.load(folder / "input.json"), Vocabulary.load(folder / "target.json"))


class ParallelSplit:
    """One tokenised split, memory-mapped: token numbers, lengths and raw texts of both sides.

    Attributes:
        lengths: `(examples, 2)`, tokens of input and target, end symbols included.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._texts = table.select(["input_text", "target_text"])
        self._sides = [_Ragged(table.column(name)) for name in ("input", "target")]
        self.lengths = np.stack([side.lengths + 1 for side in self._sides], axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, indices: Sequence[int] | np.ndarray) -> tuple[list[Tokens], list[Tokens]]:
        """Returns input and target tokens of these examples, without begin and end symbols."""
        inputs, targets = self._sides
        return [inputs[i] for i in indices], [targets[i] for i in indices]

    def texts(self) -> tuple[list[str], list[str]]:
        """Returns the raw texts of both sides, in order."""
        return self._texts.column(0).to_pylist(), self._texts.column(1).to_pylist()


class _Ragged:
    """Rows of different lengths over one flat array."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self.values = array.values.to_numpy()
        self.offsets = array.offsets.to_numpy()
        self.lengths = np.diff(self.offsets).astype(np.int64)

    def __getitem__(self, row: int) -> Tokens:
        tokens: Tokens = self.values[self.offsets[row] : self.offsets[row + 1]]
        return tokens


@dataclass(frozen=True)
class ParallelCorpus:
    """A folder of the cache with everything that training reads."""

    folder: Path

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @property
    def vocabularies(self) -> Vocabularies:
        return Vocabularies.load(self.folder)

    def save(self, folder: Path) -> None:
        """Writes the vocabularies, and how long targets are."""
        self.vocabularies.save(folder)
        TargetLengths.of(self.split("train").lengths).save(folder)

    def split(self, name: str) -> ParallelSplit:
        """Opens `train` or `validation`."""
        return ParallelSplit(self.folder / f"{name}.arrow")


def prepare_pairs(data: TranslationData, fingerprint: str | None = None) -> ParallelCorpus:
    """Learns the vocabularies on the training split and tokenises training and validation, unless that was done.

    Args:
        fingerprint: of the data, where another process has computed it: the source is then opened only if this
            machine has no such folder yet.

    Raises:
        UserError: the data cannot be used; see `sources.open_split`; or the cache cannot be written.
    """
    texts: dict[str, tuple[list[str], list[str]]] = {}
    if fingerprint is None:
        texts = _read(data)
        fingerprint = _fingerprint(data, texts)
    prepared = ParallelCorpus(build_cached(fingerprint, lambda folder: _build(folder, data, texts or _read(data))))
    shortest = int(prepared.split("train").lengths.max(1).min())
    if shortest > data.max_length:
        raise UserError(
            f"data.max_length: {data.max_length} leaves no pair of {data.source} to learn from; the shortest has "
            f"{shortest} tokens, end symbols included."
        )
    return prepared


def _read(data: TranslationData) -> dict[str, tuple[list[str], list[str]]]:
    return {"train": read_pairs(data, data.splits.train), "validation": read_pairs(data, data.splits.validation)}


def _fingerprint(data: TranslationData, texts: dict[str, tuple[list[str], list[str]]]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, data.vocabulary.model_dump()], sort_keys=True).encode())
    for columns in texts.values():
        for column in columns:
            digest.update(f"{len(column)}\n".encode() + "\n".join(column).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]


def _build(folder: Path, data: TranslationData, texts: dict[str, tuple[list[str], list[str]]]) -> None:
    inputs, targets = texts["train"]
    if data.vocabulary.shared:
        both = learn_vocabulary([*inputs, *targets], data.vocabulary)
        vocabularies = Vocabularies(both, both)
    else:
        vocabularies = Vocabularies(*(learn_vocabulary(side, data.vocabulary) for side in (inputs, targets)))
    vocabularies.save(folder)
    for split, (inputs, targets) in texts.items():
        _write(folder / f"{split}.arrow", vocabularies, inputs, targets)


def _write(path: Path, vocabularies: Vocabularies, inputs: list[str], targets: list[str]) -> None:
    numbers = pa.large_list(pa.int32())
    table = pa.table(
        {
            "input": pa.array(vocabularies.input.encode(inputs), numbers),
            "target": pa.array(vocabularies.target.encode(targets), numbers),
            "input_text": pa.array(inputs, pa.large_string()),
            "target_text": pa.array(targets, pa.large_string()),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
