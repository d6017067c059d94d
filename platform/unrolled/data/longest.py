"""How long outputs may reasonably become: as long as training has seen them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unrolled.files import write_whole

FILE = "lengths.json"


@dataclass(frozen=True)
class Longest:
    """The longest target of training, in tokens with the end symbol, for each length of its input without it."""

    targets: Mapping[int, int]

    @classmethod
    def of(cls, lengths: np.ndarray) -> Longest:
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
        write_whole(folder / FILE, json.dumps(sorted(self.targets.items())))

    @classmethod
    def load(cls, folder: Path) -> Longest | None:
        """Reads what `save` wrote; `None` where there is no such file."""
        path = folder / FILE
        return cls(dict(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else None
