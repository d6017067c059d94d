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
from unrolled.files import explain_write_errors, write_atomic

FORMAT = 1
"""Raise when the files change their meaning, so that older ones are not read."""
CHOSEN_BY_STRATEGIES = {"sample", "beam", "samples"}
"""Keys of the config's `decoding` that reach the search through the settings of single strategies alone."""


@dataclass(frozen=True)
class CachedChunk:
    """Answers for one chunk of a split, and the seconds by which they lengthened the decoding."""

    answers: Sequence[Output]
    seconds: float


class DecodeCache:
    """The file `evaluation/<split>/decoded/<fingerprint>.jsonl`: a line a chunk, added when it is done.

    A line whose end is missing, where the process was killed, is dropped. Others that are not as they were written
    count as damaged.

    Attributes:
        chunks: by their numbers.
        damaged: lines that could not be used.
    """

    def __init__(self, folder: Path, fingerprint: str, sizes: Sequence[int]) -> None:
        """Reads what there is; `sizes` are the examples of every chunk of the split."""
        self.path = folder / f"{fingerprint}.jsonl"
        self.chunks: dict[int, CachedChunk] = {}
        self.damaged: list[int] = []
        if not self.path.is_file():
            return
        *lines, rest = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                place, chunk = _read(line)
                fits = len(chunk.answers) == sizes[place]
            except (ValueError, KeyError, TypeError, IndexError):
                fits = False
            if fits:
                self.chunks[place] = chunk
            else:
                self.damaged.append(number)
        if rest or self.damaged:
            with explain_write_errors(self.path, RunFailed):
                write_atomic(self.path, "".join(_line(*each) for each in self.chunks.items()))

    def add(self, number: int, chunk: CachedChunk) -> None:
        """Adds a chunk; raises `RunFailed` where the disk refuses."""
        with explain_write_errors(self.path, RunFailed):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(_line(number, chunk).encode("utf-8"))


def forget_others(folder: Path, kept: Iterable[DecodeCache]) -> None:
    """Removes the files of other decodings than these; one that cannot be removed stays."""
    current = {each.path for each in kept}
    for path in folder.glob("*.jsonl"):
        if path not in current:
            with explain_write_errors(path, RunFailed):
                path.unlink(missing_ok=True)


def fingerprint(model: str, strategy: Strategy, decoding: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Names what decides how inputs are decoded: equal content, equal name.

    Args:
        model: names the model: checkpoint, vocabularies, package version and whatever else.
        decoding: the config's section.
    """
    settings = {key: value for key, value in decoding.items() if key not in CHOSEN_BY_STRATEGIES}
    digest = hashlib.sha256()
    for part in (FORMAT, model, strategy.name(), dataclasses.asdict(strategy), settings, list(inputs)):
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def _line(number: int, chunk: CachedChunk) -> str:
    rows = [[answer.log_probability, answer.candidates] for answer in chunk.answers]
    return json.dumps({"chunk": number, "seconds": chunk.seconds, "crc32": _sum(number, rows), "answers": rows}) + "\n"


def _read(line: bytes) -> tuple[int, CachedChunk]:
    row = json.loads(line)
    if row["crc32"] != _sum(row["chunk"], row["answers"]):
        raise ValueError("not as it was written")
    answers = [Output([Candidate(*each) for each in candidates], known) for known, candidates in row["answers"]]
    return row["chunk"], CachedChunk(answers, float(row["seconds"]))


def _sum(number: int, rows: Any) -> int:
    return zlib.crc32(json.dumps([number, rows]).encode())
