"""Tokenised running text, and the windows of parallel lanes that it is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.data.batching import TensorBatch
from unrolled.data.corpus import Corpus, TokenTable, build_corpus
from unrolled.data.sources import read_text
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError

VOCABULARY = "symbols.json"
MIN_LANE = 1000
"""Tokens of a lane of an evaluation, at least, so that its start from an empty state matters little."""


@dataclass(frozen=True)
class TextCorpus(Corpus):
    """Running text of the training and the validation split; `limit`: tokens of each that are used, `None` for all."""

    limit: int | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.folder / VOCABULARY, running_text=True)

    def split(self, name: str) -> np.ndarray:
        """Opens `train` or `validation`: token ids, int32 `(tokens,)`, memory-mapped."""
        ids: np.ndarray = TokenTable(self.path(name)).values("tokens").to_numpy()
        return ids[: self.limit]


def prepare_text(config: LanguageModelingConfig, fingerprint: str | None = None) -> TextCorpus:
    """Learns the vocabulary on the training text and tokenises both splits, unless that was done; `fingerprint` is as
    of `build_corpus`.

    Raises:
        UserError: unusable text, as of `read_text` and `Vocabulary.encode_text`; one token alone; too short for
            the windows or the validation; the cache cannot be written.
    """
    data = config.data

    def tokenize(texts: Mapping[str, str], folder: Path) -> dict[str, pa.Table]:
        vocabulary = learn_vocabulary([texts["train"]], data.vocabulary, running_text=True)
        if len(vocabulary) - len(vocabulary.special_ids) < 2:
            raise UserError(
                f"data.source: the training text of {data.source} has one {data.vocabulary.kind} alone, "
                f"{vocabulary.tokens([len(vocabulary) - 1])[0]!r}: there is nothing to predict."
            )
        vocabulary.save(folder / VOCABULARY)
        place = f"data.source: {data.source}, split"
        return {
            split: pa.table({"tokens": pa.array(vocabulary.encode_text(text, f"{place} {split!r}"))})
            for split, text in texts.items()
        }

    settings = ["text", data.vocabulary.model_dump()]
    corpus = TextCorpus(build_corpus(settings, lambda split: read_text(data, split), tokenize, fingerprint), data.limit)
    units, lanes, truncate = len(corpus.split("train")), config.training.lanes, config.training.truncate
    if units < lanes * truncate + 1:
        raise UserError(
            f"data.source: the training text of {data.source} has {units:,} units ({data.vocabulary.kind}); windows "
            f"of training.truncate {truncate} steps in training.lanes {lanes} need {lanes * truncate + 1:,} or more."
        )
    if len(corpus.split("validation")) < 2:
        raise UserError(
            f"data.validation_share: the validation text of {data.source} has less than two units; "
            "raise the share, or set it to 0 to validate on the training text."
        )
    return corpus


@dataclass(frozen=True)
class WindowBatch(TensorBatch):
    """A window of some lanes: `inputs` `(lanes, time)` and `targets` `(lanes, time)`, the token after each input; -1
    behind a lane's end."""

    inputs: Tensor
    targets: Tensor

    def split(self, steps: int) -> Iterator[WindowBatch]:
        """Yields windows of `steps` steps, the last one shorter."""
        for pair in zip(torch.split(self.inputs, steps, 1), torch.split(self.targets, steps, 1), strict=True):
            yield WindowBatch(*pair)


@dataclass(frozen=True)
class Lanes:
    """Running text cut into `count` contiguous lanes of `steps` steps each: lane i predicts the tokens
    i · steps + 1 … (i + 1) · steps, each from the one before it."""

    ids: np.ndarray
    count: int
    steps: int

    @classmethod
    def of_equal_length(cls, ids: np.ndarray, count: int) -> Lanes:
        """Lanes for training; up to `count` − 1 tokens at the end of the text are unused."""
        return cls(ids, count, (len(ids) - 1) // count)

    @classmethod
    def of_every_token(cls, ids: np.ndarray, count: int) -> Lanes:
        """Lanes for evaluation, which predict every token but the first; the last one is shorter. At most `count`, of
        `MIN_LANE` tokens each."""
        count = max(1, min(count, len(ids) // MIN_LANE))
        return cls(ids, count, -(-(len(ids) - 1) // count))

    def windows(self, lanes: range, start: int, stop: int) -> WindowBatch:
        """Returns the steps `start` to `stop` of some lanes."""
        positions = np.arange(start, min(stop, self.steps)) + self.steps * np.array(lanes)[:, None]
        exists = positions + 1 < len(self.ids)
        inputs = self.ids[np.where(exists, positions, 0)]
        targets = np.where(exists, self.ids[np.where(exists, positions + 1, 0)], -1)
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

    def shard(self, rank: int, size: int) -> WindowBatch | None:
        mine = range(rank, self.lanes.count, size)
        return self.lanes.windows(mine, self.start, self.stop) if mine else None


def plan_windows(ids: np.ndarray, lanes: int, steps: int) -> list[PlannedWindow]:
    """Plans an epoch: every lane is read once from its beginning, `steps` at a time, the last window shorter."""
    cut = Lanes.of_equal_length(ids, lanes)
    return [PlannedWindow(cut, start, min(start + steps, cut.steps)) for start in range(0, cut.steps, steps)]
