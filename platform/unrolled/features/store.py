"""Features on disk: written block by block, whole when the last is there, then memory-mapped by every worker.

A folder of the cache holds `features.safetensors` (`grids`, float16; `means`, float32) and `photographs.json` (how
many, and which cannot be read). While it is made, it has another name, and `blocks.jsonl` says which blocks are done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from unrolled.features.extract import BLOCK, Block
from unrolled.files import write_whole

FILE, DONE, PHOTOGRAPHS = "features.safetensors", "blocks.jsonl", "photographs.json"


class Features:
    """Features of a split's photographs, memory-mapped.

    Attributes:
        channels: of a position.
        positions: of a grid.
        unreadable: names of the photographs that could not be read, and why, by row.
        missing: their rows; their features are zeros.
    """

    def __init__(self, folder: Path) -> None:
        with safe_open(folder / FILE, framework="pt") as file:
            self._grids, self._means = file.get_tensor("grids"), file.get_tensor("means")
        _, self.positions, self.channels = self._grids.shape
        described = json.loads((folder / PHOTOGRAPHS).read_text(encoding="utf-8"))
        self.unreadable = {int(row): (name, reason) for row, (name, reason) in described["unreadable"].items()}
        self.missing = set(self.unreadable)

    def __len__(self) -> int:
        return len(self._grids)

    def grids(self, rows: Tensor) -> Tensor:
        """Returns `(n, positions, channels)` of rows `(n,)`."""
        grids: Tensor = self._grids[rows]
        return grids.float()

    def globals(self, rows: Tensor) -> Tensor:
        """Returns the means over all positions, `(n, channels)`, of rows `(n,)`."""
        means: Tensor = self._means[rows]
        return means


class Unfinished:
    """The folder of features that are being made. One process at a time may hold it.

    Args:
        folder: made unless it is there; what it has of earlier attempts counts.
        shape: photographs, positions, channels.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self._folder, self._shape = folder, shape
        self._blocks: dict[int, dict[str, str]] = {}
        header = _header(shape)
        self._begin = len(header)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        if not file.exists() or file.stat().st_size != self._begin + _bytes(shape):
            (folder / DONE).unlink(missing_ok=True)
            with file.open("wb") as stream:
                stream.write(header)
                stream.truncate(self._begin + _bytes(shape))
        elif (folder / DONE).exists():
            self._resume()

    @property
    def missing(self) -> list[int]:
        """Blocks that are not there yet."""
        return [number for number in range(math.ceil(self._shape[0] / BLOCK)) if number not in self._blocks]

    def add(self, number: int, block: Block) -> None:
        """Stores a block."""
        photographs, positions, channels = self._shape
        first = number * BLOCK
        with (self._folder / FILE).open("r+b", buffering=0) as stream:
            stream.seek(self._begin + first * positions * channels * 2)
            block.grids.tofile(stream)
            stream.seek(self._begin + photographs * positions * channels * 2 + first * channels * 4)
            block.means.tofile(stream)
        self._blocks[number] = {str(first + place): reason for place, reason in block.unreadable.items()}
        with (self._folder / DONE).open("a", encoding="utf-8") as done:
            done.write(json.dumps([number, self._blocks[number]]) + "\n")

    def finish(self, folder: Path, names: Sequence[str]) -> None:
        """Gives the folder its name, once no block is missing."""
        rows = {row: reason for number in sorted(self._blocks) for row, reason in self._blocks[number].items()}
        unreadable = {row: (names[int(row)], reason) for row, reason in rows.items()}
        described = json.dumps({"photographs": self._shape[0], "unreadable": unreadable}, indent=1)
        write_whole(self._folder / PHOTOGRAPHS, described)
        (self._folder / DONE).unlink()
        self._folder.rename(folder)

    def _resume(self) -> None:
        for line in (self._folder / DONE).read_text(encoding="utf-8").splitlines():
            try:
                number, unreadable = json.loads(line)
            except ValueError:  # the line that a kill cut
                continue
            self._blocks[number] = unreadable
        text = "".join(json.dumps([number, unreadable]) + "\n" for number, unreadable in self._blocks.items())
        write_whole(self._folder / DONE, text)


def _bytes(shape: tuple[int, int, int]) -> int:
    photographs, positions, channels = shape
    return photographs * channels * (positions * 2 + 4)


def _header(shape: tuple[int, int, int]) -> bytes:
    """Returns the beginning of a safetensors file: the length of a JSON text as 8 bytes, and that text, which says
    where each tensor lies behind it."""
    photographs, positions, channels = shape
    grids = photographs * positions * channels * 2
    described = {
        "grids": {"dtype": "F16", "shape": list(shape), "data_offsets": [0, grids]},
        "means": {"dtype": "F32", "shape": [photographs, channels], "data_offsets": [grids, _bytes(shape)]},
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
