"""Tokenised captions of photographs on disk: made once, memory-mapped by every worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unrolled.config.captioning import CaptionData
from unrolled.data.batching import pad
from unrolled.data.caption_readers import open_captions
from unrolled.data.tokenizer import BEGIN, END, Vocabulary, learn_vocabulary
from unrolled.errors import UserError
from unrolled.files import build_cached

FORMAT = 1
"""Raise when the files change their meaning, so that older ones are made again."""
VOCABULARY = "words.json"
SPLITS = ("train", "validation")

Normalize = Callable[[str], str]
"""Makes of a caption as people wrote it what is learned and compared."""


class CaptionSplit:
    """One split, memory-mapped.

    Attributes:
        names: of the photographs.
        photos: the photograph of every caption, `(captions,)`, rising.
        lengths: tokens of every caption, the end symbol included, `(captions,)`.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.names: list[str] = table.column("name").to_pylist()
        self._texts = table.column("captions")
        photos = table.column("tokens").combine_chunks()
        captions = photos.values
        self._values, self._offsets = captions.values.to_numpy(), captions.offsets.to_numpy()
        self.photo_index = np.repeat(np.arange(len(photos)), np.diff(photos.offsets.to_numpy()))
        self.lengths = np.diff(self._offsets).astype(np.int64) + 1

    def __len__(self) -> int:
        return len(self.lengths)

    def texts(self) -> list[list[str]]:
        """Returns the captions of every photograph, as they are learned."""
        texts: list[list[str]] = self._texts.to_pylist()
        return texts

    def tokens(self, captions: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the tokens of these captions, without begin and end symbols."""
        return [self._values[self._offsets[i] : self._offsets[i + 1]] for i in captions]

    def padded(self, captions: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what the decoder reads, what it should write, and the mask of both, `(captions, time)`."""
        rows = self.tokens(captions)
        before, mask = pad([np.concatenate(([BEGIN], row)) for row in rows])
        after, _ = pad([np.concatenate((row, [END])) for row in rows])
        return before, after, mask

    def group_by_photo(self, captions: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns these captions, which rise, those of each photograph together; and how many tokens each
        photograph's have."""
        _, starts = np.unique(self.photo_index[captions], return_index=True)
        return np.split(captions, starts[1:]), np.add.reduceat(self.lengths[captions], starts)

    def without(self, photos: set[int]) -> np.ndarray:
        """Returns the captions of all photographs but these."""
        return np.flatnonzero(~np.isin(self.photo_index, list(photos)))


@dataclass(frozen=True)
class CaptionBatch:
    """Captions and their photographs, each of these once.

    Attributes:
        pictures: what the encoder reads, `(photographs, …)`.
        owners: the photograph of each caption, `(batch,)`.
        before, after, mask: as `CaptionCorpus.padded` gives them, `(batch, time)`.
    """

    photos: Tensor
    photo_index: Tensor
    decoder_inputs: Tensor
    targets: Tensor
    mask: Tensor

    def select(self, captions: Tensor) -> CaptionBatch:
        """Takes some of the captions, by number, in this order."""
        rows = (values[captions] for values in (self.photo_index, self.decoder_inputs, self.targets, self.mask))
        return CaptionBatch(self.photo_index, *rows)

    def to(self, device: torch.device) -> CaptionBatch:
        """Moves every tensor."""
        return CaptionBatch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class CaptionCorpus:
    """A folder of the cache with the vocabulary and both splits."""

    folder: Path

    @property
    def vocabulary(self) -> Vocabulary:
        """Opens the vocabulary."""
        return Vocabulary.load(self.folder / VOCABULARY)

    def split(self, name: str) -> CaptionSplit:
        """Opens `train` or `validation`."""
        return CaptionSplit(self.folder / f"{name}.arrow")


def prepare_captions(data: CaptionData, normal: Normalize, fingerprint: str | None = None) -> CaptionCorpus:
    """Learns the vocabulary on the training split and tokenises training and validation, unless that was done.

    Args:
        normal: makes of captions what is learned.
        fingerprint: of the captions, where another process has computed it.

    Raises:
        UserError: the data cannot be used, or the cache cannot be written.
    """
    texts: dict[str, tuple[list[str], list[list[str]]]] = {}
    if fingerprint is None:
        texts = _read(data)
        fingerprint = _fingerprint(data, texts)
    made = CaptionCorpus(build_cached(fingerprint, lambda folder: _build(folder, data, normal, texts or _read(data))))
    shortest = int(made.split("train").lengths.min())
    if shortest > data.max_length:
        raise UserError(
            f"data.max_length: {data.max_length} leaves no caption of {data.source} to learn from; the shortest has "
            f"{shortest} tokens, end symbol included."
        )
    return made


def _read(data: CaptionData) -> dict[str, tuple[list[str], list[list[str]]]]:
    found = {}
    for split in SPLITS:
        captioned = open_captions(data, split)
        found[split] = list(captioned.names), captioned.captions
    return found


def _fingerprint(data: CaptionData, texts: dict[str, tuple[list[str], list[list[str]]]]) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, data.vocabulary.model_dump()], sort_keys=True).encode())
    for names, captions in texts.values():
        digest.update(json.dumps([names, captions]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]


def _build(
    folder: Path, data: CaptionData, normal: Normalize, texts: dict[str, tuple[list[str], list[list[str]]]]
) -> None:
    learned = {split: [[normal(text) for text in own] for own in captions] for split, (_, captions) in texts.items()}
    vocabulary = learn_vocabulary([text for own in learned["train"] for text in own], data.vocabulary)
    vocabulary.save(folder / VOCABULARY)
    for split, captions in learned.items():
        names, tokens = texts[split][0], [vocabulary.encode(own) for own in captions]
        table = pa.table(
            {
                "name": pa.array(names, pa.large_string()),
                "captions": pa.array(captions, pa.large_list(pa.large_string())),
                "tokens": pa.array(tokens, pa.large_list(pa.large_list(pa.int32()))),
            }
        )
        path = str(folder / f"{split}.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
