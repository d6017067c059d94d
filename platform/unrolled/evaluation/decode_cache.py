"""Decoded outputs on disk, so that an interrupted evaluation continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.decoding import Candidate, Output, Strategy
from unrolled.errors import RunFailed
from unrolled.files import explain_write_errors, iterate_json_lines, write_atomic

FORMAT = 1
"""Raise when the meaning of the files changes, so that older ones are not read."""
STRATEGY_KEYS = {"sample", "beam", "samples"}
"""Keys of the config's `decoding` that reach a search only as settings of single strategies."""


@dataclass(frozen=True)
class CachedChunk:
    """The outputs of one chunk of a split, and the seconds that it added to the decoding."""

    outputs: Sequence[Output]
    seconds: float


class DecodeCache:
    """The file `evaluation/<split>/decoded/<fingerprint>.jsonl`: one line per chunk, appended when it is done.

    A last line that was torn when the process was killed is dropped.

    Args:
        folder: of the file.
        fingerprint: see `fingerprint`.
        sizes: number of examples of every chunk of the split.

    Attributes:
        chunks: by chunk number.
        damaged: numbers of the lines that differ from what was written or do not fit the split.
    """

    def __init__(self, folder: Path, fingerprint: str, sizes: Sequence[int]) -> None:
        self.path = folder / f"{fingerprint}.jsonl"
        self.chunks: dict[int, CachedChunk] = {}
        self.damaged: list[int] = []
        if not self.path.is_file():
            return
        for line, row in enumerate(iterate_json_lines(self.path), start=1):
            try:
                number, chunk = _parse(row)
                fits = len(chunk.outputs) == sizes[number]
            except (ValueError, KeyError, TypeError, IndexError):
                fits = False
            if fits:
                self.chunks[number] = chunk
            else:
                self.damaged.append(line)
        intact = "".join(_line(*each) for each in self.chunks.items())
        if intact.encode("utf-8") != self.path.read_bytes():
            with explain_write_errors(self.path, RunFailed):
                write_atomic(self.path, intact)

    @property
    def num_examples(self) -> int:
        return sum(len(chunk.outputs) for chunk in self.chunks.values())

    def add(self, number: int, chunk: CachedChunk) -> None:
        """Appends a chunk; raises `RunFailed` if the disk refuses."""
        with explain_write_errors(self.path, RunFailed):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(_line(number, chunk).encode("utf-8"))


def remove_stale(folder: Path, current: Iterable[DecodeCache]) -> None:
    """Removes the files of all other decodings; raises `RunFailed` if one cannot be removed."""
    paths = {cache.path for cache in current}
    for path in folder.glob("*.jsonl"):
        if path not in paths:
            with explain_write_errors(path, RunFailed):
                path.unlink(missing_ok=True)


def fingerprint(model: str, strategy: Strategy, decoding: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Returns a name of everything that determines how inputs are decoded: equal content, equal name.

    Args:
        model: names checkpoint, vocabularies, package version and whatever else makes the model.
        decoding: the config's section.
    """
    settings = {key: value for key, value in decoding.items() if key not in STRATEGY_KEYS}
    digest = hashlib.sha256()
    for part in (FORMAT, model, strategy.name(), dataclasses.asdict(strategy), settings, list(inputs)):
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def _line(number: int, chunk: CachedChunk) -> str:
    rows = [[output.log_probability, output.candidates] for output in chunk.outputs]
    row = {"chunk": number, "seconds": chunk.seconds, "crc32": _checksum(number, rows), "answers": rows}
    return json.dumps(row) + "\n"


def _parse(row: Any) -> tuple[int, CachedChunk]:
    if row["crc32"] != _checksum(row["chunk"], row["answers"]):
        raise ValueError("checksum mismatch")
    outputs = [
        Output([Candidate(*each) for each in candidates], log_probability)
        for log_probability, candidates in row["answers"]
    ]
    return row["chunk"], CachedChunk(outputs, float(row["seconds"]))


def _checksum(number: int, rows: Any) -> int:
    return zlib.crc32(json.dumps([number, rows]).encode())
