"""Tokenised captions of photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from unrolled.config.captioning import CaptionData
from unrolled.data.batching import decoder_tensors
from unrolled.data.caption_readers import open_captions
from unrolled.data.corpus import (
    VOCABULARY,
    PhotoCorpus,
    PhotoTokenTable,
    build_corpus,
    check_max_length,
    photo_token_table,
    token_rows,
)
from unrolled.data.tokenizer import learn_vocabulary

Content = tuple[list[str], list[list[str]]]
"""Names of the photographs and the captions of each."""


class CaptionSplit(PhotoTokenTable):
    """One split; rows are captions.

    Attributes:
        lengths: tokens of every caption, the end symbol included, `(captions,)`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lengths = self.row_lengths("tokens") + 1

    def texts(self) -> list[list[str]]:
        """Returns the normalised captions of every photograph."""
        texts: list[list[str]] = [[] for _ in self.names]
        for photo, text in zip(self.photo_index.tolist(), self.table.column("text").to_pylist(), strict=True):
            texts[photo].append(text)
        return texts

    def tokens(self, captions: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the token ids of captions, without begin and end symbols."""
        return self.rows("tokens", captions)

    def decoder_tensors(self, captions: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Returns inputs and targets of the decoder and the mask of both, `(captions, time)`."""
        return decoder_tensors(self.tokens(captions))

    def group_by_photo(self, captions: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Groups captions, given in ascending order, by photograph; returns the groups and their tokens."""
        _, starts = np.unique(self.photo_index[captions], return_index=True)
        return np.split(captions, starts[1:]), np.add.reduceat(self.lengths[captions], starts)


class CaptionCorpus(PhotoCorpus):
    """Captions of the training and the validation split."""

    def split(self, name: str) -> CaptionSplit:
        """Opens `train` or `validation`."""
        return CaptionSplit(self.path(name))


def prepare_captions(
    data: CaptionData, normalize: Callable[[str], str], fingerprint: str | None = None
) -> CaptionCorpus:
    """Learns the vocabulary on the training split and tokenises both splits, unless that was done.

    Args:
        normalize: makes of a caption what is learned and compared.
        fingerprint: as of `build_corpus`.

    Raises:
        UserError: the data cannot be used, or the cache cannot be written.
    """

    def read(split: str) -> Content:
        captioned = open_captions(data, split)
        return list(captioned.names), captioned.captions

    def tokenize(contents: Mapping[str, Content], folder: Path) -> dict[str, pa.Table]:
        texts = {
            split: [normalize(text) for own in captions for text in own] for split, (_, captions) in contents.items()
        }
        vocabulary = learn_vocabulary(texts["train"], data.vocabulary)
        vocabulary.save(folder / VOCABULARY)
        tables = {}
        for split, (names, captions) in contents.items():
            photos = np.repeat(np.arange(len(names)), [len(own) for own in captions])
            tokens = token_rows(vocabulary.encode(texts[split]))
            tables[split] = photo_token_table(
                names, photos, text=pa.array(texts[split], pa.large_string()), tokens=tokens
            )
        return tables

    corpus = CaptionCorpus(build_corpus(["captions", data.vocabulary.model_dump()], read, tokenize, fingerprint))
    check_max_length(corpus.split("train").lengths[:, None], data.max_length, data.source, "caption")
    return corpus
