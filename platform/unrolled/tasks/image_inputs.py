"""Photographs as inputs: addresses, files and stored features; the base class of tasks on photographs."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unrolled.config.captioning import CaptioningConfig
from unrolled.config.vqa import PointingConfig, QuestionAnsweringConfig
from unrolled.data.image_sets import open_photos, view_split
from unrolled.data.images import URL_PREFIXES, PhotoSet, UnreadableImage, random_view_index, read_image, to_pixels
from unrolled.data.photo_corpus import VOCABULARY, PhotoCorpus, PhotoTokenTable
from unrolled.data.tokenizer import Vocabulary
from unrolled.errors import UserError
from unrolled.features import (
    Backbone,
    FeatureSet,
    PixelSet,
    build_backbone,
    load_pretrained,
    open_features,
    open_pixels,
    pretrained_backbone,
)
from unrolled.features.backbones import backbone_spec, weights_fingerprint
from unrolled.files import write_atomic
from unrolled.tasks.base import Shard, Task

ImageTaskConfig = CaptioningConfig | QuestionAnsweringConfig | PointingConfig
FILE = "features.json"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are read from a folder."""
_ADDRESS = re.compile(r"(\w+):(\d+)(?:$|\s)")


@dataclass(frozen=True)
class FeatureShape:
    """Shape of one photograph's features.

    Attributes:
        channels: per position.
        positions: of the grid, in all.
        size: pixels per side of the photograph, where the encoder reads pixels.
    """

    channels: int
    positions: int
    size: int | None = None

    def save(self, folder: Path) -> None:
        """Writes `features.json`."""
        write_atomic(folder / FILE, json.dumps(vars(self)))

    @classmethod
    def load(cls, folder: Path) -> FeatureShape:
        """Reads `features.json`; raises `UserError` where it is missing."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; the run is not whole.")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def photo_address(split: str, row: int, name: str) -> str:
    """Returns the input that names a photograph of the data."""
    return f"{split}:{row} {name}"


def expand_folders(names: Sequence[str]) -> list[str]:
    """Replaces every folder by the pictures in it, sorted; raises `UserError` for a folder without pictures."""
    files: list[str] = []
    for name in names:
        if not name.startswith(URL_PREFIXES) and Path(name).is_dir():
            inside = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{name}: the folder has no pictures ({', '.join(SUFFIXES)}).")
            files += map(str, inside)
        else:
            files.append(name)
    return files


class ImageInputs:
    """The encoder's input for photographs: features, or pixels where the backbone is fine-tuned.

    Args:
        grid: whether the encoder reads all positions of a photograph; else their mean alone.
        blind: whether the model sees no photograph: its input is one zero per photograph.
    """

    def __init__(self, config: ImageTaskConfig, *, grid: bool, blind: bool = False) -> None:
        self._config, self._grid, self.blind = config, grid, blind
        self._views = config.model.features.views if isinstance(config, CaptioningConfig) else 1
        self._splits: dict[str, FeatureSet | PixelSet] = {}
        self._photographs: dict[str, PhotoSet] = {}

    @property
    def fine_tuned(self) -> bool:
        """Whether the backbone is a part of the model."""
        return self._config.model.features.fine_tune and not self.blind

    def build_backbone(self) -> Backbone | None:
        """Returns the backbone, with fresh weights, where it is a part of the model."""
        return build_backbone(self._config.model.features) if self.fine_tuned else None

    def shape(self) -> FeatureShape:
        """Returns the shape of the features that the decoder reads."""
        if self.blind:
            return FeatureShape(1, 1)
        backbone = build_backbone(self._config.model.features)
        return FeatureShape(backbone.channels, backbone.positions, backbone.size if self.fine_tuned else None)

    def description(self) -> str:
        """Describes the encoder's input, equally for equal inputs."""
        if self.blind:
            return "nothing"
        settings = self._config.model.features
        size = backbone_spec(settings).size
        if settings.fine_tune:
            return f"{size} × {size} pixels"
        weights = "" if settings.weights is None else f" with the weights {weights_fingerprint(settings)}"
        part = f"its {settings.grid} × {settings.grid} positions" if self._grid else "the mean of its positions"
        return f"{part} as {settings.backbone}{weights} sees it at {size} × {size} pixels"

    def stored(self, split: str) -> FeatureSet | PixelSet:
        """Opens the features of a split, which are extracted where they are missing, or its pixels."""
        if split not in self._splits:
            opener = open_pixels if self._config.model.features.fine_tune else open_features
            self._splits[split] = opener(self._config, split)
        return self._splits[split]

    def unreadable(self, split: str) -> Mapping[int, tuple[str, str]]:
        """Returns name and reason for the photographs of a split that cannot be read, by row."""
        return {} if self.blind else self.stored(split).unreadable

    def read(self, split: str, rows: Sequence[int], epoch: int | None = None) -> Tensor:
        """Returns features `(photographs, positions, channels)` or pixels `(photographs, 3, size, size)`.

        Args:
            epoch: of training: views are drawn at random; `None`: the whole photograph.
        """
        if self.blind:
            return torch.zeros(len(rows), 1, 1)
        stored = self.stored(split)
        if isinstance(stored, PixelSet):
            return stored.read(rows, epoch)
        indices = torch.as_tensor(rows, dtype=torch.long)
        if epoch is None or self._views == 1:
            return self._features(stored, indices)
        views = torch.tensor([random_view_index(self._config.seed, epoch, row, self._views) for row in rows])
        features = torch.empty(len(rows), stored.positions if self._grid else 1, stored.channels)
        for view in set(views.tolist()):
            features[views == view] = self._features(self.stored(view_split(split, view)), indices[views == view])
        return features

    def _features(self, stored: FeatureSet | PixelSet, indices: Tensor) -> Tensor:
        assert isinstance(stored, FeatureSet)
        return stored.grids(indices) if self._grid else stored.globals(indices)[:, None]

    def read_named(self, names: Sequence[str]) -> Tensor:
        """As `read`, for photographs named by their `photo_address`, their files or http addresses."""
        if self.blind:
            return torch.zeros(len(names), 1, 1)
        tensors: dict[int, Tensor] = {}
        rows: dict[str, list[tuple[int, int]]] = {}
        files: list[int] = []
        for i, name in enumerate(names):
            if (address := _parse_address(name)) is not None:
                rows.setdefault(address[0], []).append((i, address[1]))
            else:
                files.append(i)
        for split, indices in rows.items():
            count = len(self.stored(split))
            for _, row in indices:
                _check_row(split, row, count)
            tensors |= zip([i for i, _ in indices], self.read(split, [row for _, row in indices]), strict=True)
        if files:
            tensors |= zip(files, self._read_files([names[i] for i in files]), strict=True)
        return torch.stack([tensors[i] for i in range(len(names))])

    @torch.inference_mode()
    def _read_files(self, files: Sequence[str]) -> Tensor:
        features = self._config.model.features
        if features.fine_tune:
            size = backbone_spec(features).size
            return torch.stack([to_pixels(self.load_photo(file, size), size) for file in files]).permute(0, 3, 1, 2)
        backbone = pretrained_backbone(features).eval()
        grids: Tensor = backbone(torch.stack([backbone.preprocess(self.load_photo(file)) for file in files]))
        return grids if self._grid else grids.mean(1, keepdim=True)

    def load_photo(self, name: str, min_side: int = 0) -> Image.Image:
        """Returns a photograph, named as for `read_named`, in RGB; raises `UserError` if it cannot be read. `min_side`
        is as of `read_image`."""
        source: bytes | str | Path = name
        if (address := _parse_address(name)) is not None:
            split, row = address
            if split not in self._photographs:
                self._photographs[split] = open_photos(self._config.data, split)
            _check_row(split, row, len(self._photographs[split]))
            source = self._photographs[split].images[row]
        try:
            return read_image(source, min_side)
        except UnreadableImage as error:
            raise UserError(f"{name}: {error}.") from None


def _parse_address(name: str) -> tuple[str, int] | None:
    """Returns split and row of a `photo_address`; `None` for the name of a file."""
    match = _ADDRESS.match(name)
    return (match[1], int(match[2])) if match and not Path(name).exists() else None


def _check_row(split: str, row: int, count: int) -> None:
    if row >= count:
        raise UserError(f"{split}:{row}: the split has {count:,} photographs, counted from 0.")


@dataclass(frozen=True)
class PreparedImageText:
    """Tokenised texts and the photographs that they are about, ready for training."""

    corpus: PhotoCorpus[PhotoTokenTable]
    images: ImageInputs

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def save(self, folder: Path) -> None:
        """Writes the vocabularies and the shape of features."""
        self.corpus.save(folder)
        self.images.shape().save(folder)

    def split(self, name: str) -> Any:
        """Opens the corpus of `train` or `validation`."""
        return self.corpus.split(name)

    def readable_rows(self, split: str) -> np.ndarray:
        """Returns the rows of the corpus whose photographs can be read."""
        return self.corpus.split(split).without(set(self.images.unreadable(split)))


@dataclass(frozen=True)
class ImageTextBatch:
    """A global batch: the rows of a corpus. Each worker takes some of their photographs, with all texts about them.
    `epoch` is `None` in validation."""

    task: ImageInputTask
    corpus: Any
    split: str
    rows: np.ndarray
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        return self.task.num_targets(self.corpus, self.rows)

    def shard(self, rank: int, size: int) -> Any:
        """Returns the photographs `rank::size` of the batch, with all texts about them."""
        photos, owners = np.unique(self.corpus.photo_index[self.rows], return_inverse=True)
        mine = owners % size == rank
        if not mine.any():
            return None
        photo_index = torch.from_numpy(owners[mine] // size)
        return self.task.collate(self, self.rows[mine], photos[rank::size].tolist(), photo_index)


class ImageInputTask(Task):
    """A task on photographs; `ensemble_keys`: config keys in which the members of an ensemble must agree."""

    ensemble_keys: tuple[str, ...] = ()

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY)
        self.shape, self.metric_names = FeatureShape.load(folder), config.evaluation.metrics
        self.images = self.image_inputs(config)

    @classmethod
    def prepare(cls, config: Any, fingerprint: str | None = None) -> PreparedImageText:
        """Learns the vocabulary and tokenises training and validation split. Features are extracted when they are
        first read."""
        data = PreparedImageText(cls.prepare_corpus(config, fingerprint), cls.image_inputs(config))
        if fingerprint is None and not data.images.blind:
            pretrained_backbone(config.model.features)  # refuses one that cannot be had
        return data

    @classmethod
    @abstractmethod
    def prepare_corpus(cls, config: Any, fingerprint: str | None) -> PhotoCorpus[PhotoTokenTable]:
        """Prepares the texts; arguments and errors as in `prepare`."""

    @classmethod
    @abstractmethod
    def image_inputs(cls, config: Any) -> ImageInputs:
        """Returns the encoder's input."""

    @abstractmethod
    def num_targets(self, corpus: Any, rows: np.ndarray) -> int:
        """Returns the number of targets in rows of a corpus."""

    @abstractmethod
    def collate(self, batch: ImageTextBatch, rows: np.ndarray, photos: list[int], photo_index: Tensor) -> Shard:
        """Collates some rows of a global batch. `photos`: rows of their photographs in the split; `photo_index`: index
        into `photos` per row, `(rows,)`."""

    def load_pretrained(self, model: Any) -> None:
        for module in model.modules():
            if isinstance(module, Backbone):
                load_pretrained(module, self.config.model.features)

    @property
    def encoder_input(self) -> str:
        """Describes what the encoder reads of a photograph; equal for all members of an ensemble."""
        return self.images.description()

    def load_photo(self, name: str, min_side: int = 0) -> Image.Image:
        """As `ImageInputs.load_photo`."""
        return self.images.load_photo(name, min_side)

    def expand_folders(self, names: Sequence[str]) -> list[str]:
        """As `expand_folders`."""
        return expand_folders(names)

    def unreadable_photos(self, split: str) -> dict[str, str]:
        """Returns the reason for every photograph of a split that cannot be read, by name."""
        return dict(self.images.unreadable(split).values())
