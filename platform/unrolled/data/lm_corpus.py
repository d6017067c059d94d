"""Tokenised running text, cut into lanes that are read side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.config.language_modeling import LanguageModelingConfig, TextData
from unrolled.data.sources import read_text
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError
from unrolled.files import build_cached

FORMAT = 1
"""Raise when the files change their meaning, so that older ones are made again."""
LANE = 1000
"""Units that a lane of an examination has at least, so that its start from an empty state weighs little."""
VOCABULARY = "symbols.json"


@dataclass(frozen=True)
class TextCorpus:
    """A folder of the cache with everything that training reads.

    Args:
        limit: units of every split that are used; `None` for all.
    """

    folder: Path
    limit: int | None

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.folder / VOCABULARY, running_text=True)

    def save(self, folder: Path) -> None:
        """Writes the vocabulary."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder / VOCABULARY)

    def split(self, name: str) -> np.ndarray:
        """Opens `train` or `validation`: numbers of units, int32 `(units,)`, memory-mapped."""
        numbers: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return numbers[: self.limit]


def prepare_text(config: LanguageModelingConfig, fingerprint: str | None = None) -> TextCorpus:
    """Learns the vocabulary on the training text and numbers training and validation text, unless that was done.

    Args:
        fingerprint: of the data, where another process has computed it: the source is then opened only if this
            machine has no such folder yet.

    Raises:
        UserError: unusable text, as of `read_text` and `Vocabulary.encode_text`; one token alone; too short for
            the windows or the validation; the cache cannot be written.
    """
    texts: dict[str, str] = {}
    if fingerprint is None:
        texts = _read(config.data)
        fingerprint = _fingerprint(config.data, texts)
    folder = build_cached(fingerprint, lambda folder: _build(folder, config.data, texts or _read(config.data)))
    prepared = TextCorpus(folder, config.data.limit)
    _check(prepared, config)
    return prepared


def _read(data: TextData) -> dict[str, str]:
    return {split: read_text(data, split) for split in ("train", "validation")}


def _fingerprint(data: TextData, texts: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, "stream", data.vocabulary.model_dump()], sort_keys=True).encode())
    for text in texts.values():
        digest.update(f"{len(text)}\n".encode() + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]


def _build(folder: Path, data: TextData, texts: dict[str, str]) -> None:
    vocabulary = learn_vocabulary([texts["train"]], data.vocabulary, running_text=True)
    if len(vocabulary) - len(vocabulary.special_ids) < 2:
        raise UserError(
            f"data.source: the training text of {data.source} has one {data.vocabulary.kind} alone, "
            f"{vocabulary.tokens([len(vocabulary) - 1])[0]!r}: there is nothing to predict."
        )
    for split, text in texts.items():
        np.save(folder / f"{split}.npy", vocabulary.encode_text(text, f"data.source: {data.source}, split {split!r}"))
    vocabulary.save(folder / VOCABULARY)


def _check(prepared: TextCorpus, config: LanguageModelingConfig) -> None:
    units, source = len(prepared.split("train")), config.data.source
    lanes, truncate = config.training.lanes, config.training.truncate
    if units < lanes * truncate + 1:
        raise UserError(
            f"data.source: the training text of {source} has {units:,} units ({config.data.vocabulary.kind}); windows "
            f"of training.truncate {truncate} steps in training.lanes {lanes} need {lanes * truncate + 1:,} or more."
        )
    if len(prepared.split("validation")) < 2:
        raise UserError(
            f"data.validation_share: the validation text of {source} has less than two units; "
            "raise the share, or set it to 0 to validate on the training text."
        )


@dataclass(frozen=True)
class WindowBatch:
    """What some lanes read in one step of training or of an examination.

    Attributes:
        inputs: `(lanes, time)`.
        targets: `(lanes, time)`, what follows each input; -1 behind a lane's end.
    """

    inputs: Tensor
    targets: Tensor

    def split(self, steps: int) -> Iterator[WindowBatch]:
        """Cuts them into shorter ones, the last as long as what is left."""
        for pair in zip(torch.split(self.inputs, steps, 1), torch.split(self.targets, steps, 1), strict=True):
            yield WindowBatch(*pair)

    def to(self, device: torch.device) -> WindowBatch:
        """Moves both."""
        return WindowBatch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True))


@dataclass(frozen=True)
class Lanes:
    """A stream of units cut into contiguous lanes of `steps` steps each: lane i predicts the units
    i · steps + 1 … (i + 1) · steps, each from the one before it."""

    units: np.ndarray
    count: int
    steps: int

    @classmethod
    def whole(cls, units: np.ndarray, count: int) -> Lanes:
        """Lanes of equal length; up to `count` − 1 units at the end of the stream are left over."""
        return cls(units, count, (len(units) - 1) // count)

    @classmethod
    def complete(cls, units: np.ndarray, count: int) -> Lanes:
        """Lanes that predict every unit but the first, the last one shorter; at most `count`, of `LANE` units each."""
        count = max(1, min(count, len(units) // LANE))
        return cls(units, count, -(-(len(units) - 1) // count))

    def windows(self, lanes: range, start: int, stop: int) -> WindowBatch:
        """The steps `start` to `stop` of some lanes."""
        places = np.arange(start, min(stop, self.steps)) + self.steps * np.array(lanes)[:, None]
        there = places + 1 < len(self.units)
        inputs = self.units[np.where(there, places, 0)]
        targets = np.where(there, self.units[np.where(there, places + 1, 0)], -1)
        return WindowBatch(torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(targets.astype(np.int64)))


@dataclass(frozen=True)
class PlannedWindow:
    """A global batch: the steps `start` to `stop` of all lanes."""

    lanes: Lanes
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        return self.lanes.count * (self.stop - self.start)

    def part(self, rank: int, size: int) -> WindowBatch | None:
        mine = range(rank, self.lanes.count, size)
        return self.lanes.windows(mine, self.start, self.stop) if mine else None


def plan_windows(units: np.ndarray, lanes: int, steps: int) -> list[PlannedWindow]:
    """Plans an epoch: every lane read once from its beginning, `steps` at a time, the last window shorter."""
    cut = Lanes.whole(units, lanes)
    return [PlannedWindow(cut, start, min(start + steps, cut.steps)) for start in range(0, cut.steps, steps)]
