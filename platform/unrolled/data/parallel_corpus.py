"""Tokenised sentence pairs: corpus, vocabularies of both sides, and lengths of targets per length of input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from unrolled.config.translation import TranslationData
from unrolled.data.corpus import Corpus, TokenTable, build_corpus, check_max_length, token_rows
from unrolled.data.sources import read_pairs
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.files import write_atomic

LENGTHS = "lengths.json"
Pairs = tuple[list[str], list[str]]
"""Inputs and targets."""


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
        """Reads the files of `save`; raises `UserError` for a missing or foreign one."""
        return cls(Vocabulary.load(folder / "input.json"), Vocabulary.load(folder / "target.json"))


class ParallelSplit(TokenTable):
    """One split of sentence pairs; `lengths`: tokens of input and target, end symbols included, `(pairs, 2)`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lengths = np.stack([self.num_tokens(side) + 1 for side in ("input", "target")], axis=1)

    def texts(self) -> Pairs:
        """Returns the texts of both sides, in order."""
        return self.table.column("input_text").to_pylist(), self.table.column("target_text").to_pylist()


class ParallelCorpus(Corpus):
    """Sentence pairs of the training and the validation split."""

    @property
    def vocabularies(self) -> Vocabularies:
        return Vocabularies.load(self.folder)

    def save(self, folder: Path) -> None:
        """Writes the vocabularies and the lengths of targets."""
        super().save(folder)
        TargetLengths.measure(self.split("train").lengths).save(folder)

    def split(self, name: str) -> ParallelSplit:
        """Opens `train` or `validation`."""
        return ParallelSplit(self.path(name))


def prepare_pairs(data: TranslationData, fingerprint: str | None = None) -> ParallelCorpus:
    """Learns the vocabularies on the training split and tokenises both splits, unless that was done. `fingerprint` and
    errors are as of `build_corpus`."""
    splits = data.splits.model_dump()

    def tokenize(texts: Mapping[str, Pairs], folder: Path) -> dict[str, pa.Table]:
        inputs, targets = texts["train"]
        if data.vocabulary.shared:
            both = learn_vocabulary([*inputs, *targets], data.vocabulary)
            vocabularies = Vocabularies(both, both)
        else:
            vocabularies = Vocabularies(*(learn_vocabulary(side, data.vocabulary) for side in (inputs, targets)))
        vocabularies.save(folder)
        return {split: _table(vocabularies, *pairs) for split, pairs in texts.items()}

    settings = ["pairs", data.vocabulary.model_dump()]
    corpus = ParallelCorpus(
        build_corpus(settings, lambda split: read_pairs(data, splits[split]), tokenize, fingerprint)
    )
    check_max_length(corpus.split("train").lengths, data.max_length, data.source, "pair")
    return corpus


def _table(vocabularies: Vocabularies, inputs: list[str], targets: list[str]) -> pa.Table:
    return pa.table(
        {
            "input": token_rows(vocabularies.input.encode(inputs)),
            "target": token_rows(vocabularies.target.encode(targets)),
            "input_text": pa.array(inputs, pa.large_string()),
            "target_text": pa.array(targets, pa.large_string()),
        }
    )


@dataclass(frozen=True)
class TargetLengths:
    """The longest target of the training split, in tokens with the end symbol, per length of its input without it."""

    longest: Mapping[int, int]

    @classmethod
    def measure(cls, lengths: np.ndarray) -> TargetLengths:
        """Takes tokens of input and target, end symbols included, `(pairs, 2)`."""
        inputs = lengths[:, 0] - 1
        longest = np.zeros(inputs.max() + 1, dtype=np.int64)
        np.maximum.at(longest, inputs, lengths[:, 1])
        return cls({int(length): int(longest[length]) for length in np.unique(inputs)})

    def factor(self, offset: int) -> float:
        """Returns the least factor with which no target of training is longer than ⌊factor · input⌋ + offset.

        An empty input counts as one token.
        """
        # Rounded up in the last place, so that the floor of a product never loses a token.
        ratios = ((target - offset) / max(1, length) for length, target in self.longest.items())
        return float(np.nextafter(max(0.0, *ratios), np.inf))

    def save(self, folder: Path) -> None:
        """Writes `lengths.json`."""
        write_atomic(folder / LENGTHS, json.dumps(sorted(self.longest.items())))

    @classmethod
    def load(cls, folder: Path) -> TargetLengths | None:
        """Reads the file of `save`; `None` where there is none."""
        path = folder / LENGTHS
        return cls(dict(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else None
