"""Feature extraction: what is cached, what is missing, and the work of one process.

What a worker does: reads a block of photographs and computes their features.

Features by what they are made of: found in the cache, else made, all over or from where an earlier attempt ended.

The command `unrolled features`: every split that is asked for, on Ray or here, with a line of progress.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from unrolled.config import Config, PointingConfig
from unrolled.config import captioning as sections
from unrolled.config.captioning import FeatureConfig
from unrolled.data.image_sets import REGIONS_PREFIX, PhotoData, open_photos, parse_view_split, view_split
from unrolled.data.images import PhotoSet, UnreadableImage, random_view, read_image, required_side, to_pixels
from unrolled.data.question_readers import FOLD_SPLITS
from unrolled.errors import UserError
from unrolled.features.backbones import VERSION, pretrained_backbone, weights_fingerprint
from unrolled.features.store import BLOCK, Block, FeatureSet, FeatureWriter
from unrolled.files import cache_folder, explain_write_errors

BATCH = 4
"""Of these, how many go through the network together: few, so that what its layers hand on stays in a core's cache; and
always as many, so that results are the same."""
MOST = float(np.finfo(np.float16).max)


class Extractor:
    """A network and the photographs of a split, opened once."""

    def __init__(
        self, data: PhotoData, features: FeatureConfig, split: str, photographs: PhotoSet | None = None
    ) -> None:
        self.photographs = photographs or open_photos(data, split)
        self.backbone = pretrained_backbone(features).folded()
        self._view = parse_view_split(split)[1]

    def block(self, number: int) -> Block:
        """Computes one block."""
        rows = range(number * BLOCK, min((number + 1) * BLOCK, len(self.photographs)))
        pixels = torch.zeros(len(rows), self.backbone.size, self.backbone.size, 3, dtype=torch.uint8)
        unreadable = {}
        for place, row in enumerate(rows):
            try:
                self._read(row, pixels[place])
            except UnreadableImage as error:
                unreadable[place] = str(error)
        with torch.inference_mode():
            # Channels stand last in memory already, as the folded network wants them.
            made = [self.backbone(part.permute(0, 3, 1, 2)) for part in torch.split(pixels, BATCH)]
        grids = torch.cat(made).clamp(-MOST, MOST)
        grids[list(unreadable)] = 0.0
        return Block(grids.half().numpy(), grids.mean(1).numpy(), unreadable)

    def _read(self, row: int, pixels: torch.Tensor) -> None:
        view = random_view(0, self._view, row) if self._view else None
        image = read_image(self.photographs.images[row], min_side=required_side(self.backbone.size, view))
        pixels.copy_(to_pixels(image, self.backbone.size, view))


ProgressCallback = Callable[[int, int], None]
"""Told how many photographs of how many are done."""


@dataclass(frozen=True)
class FeatureJob:
    """The features of one split.

    Attributes:
        folder: of the cache; there once they are made.
    """

    data: PhotoData
    features: sections.FeatureConfig
    split: str
    photographs: PhotoSet
    folder: Path


ExtractBlocks = Callable[[FeatureJob, Sequence[int]], Iterable[tuple[int, Block]]]
"""Makes blocks of a split; yields each with its number, in any order."""


def feature_job(config: Config, split: str) -> FeatureJob:
    """Returns what is to be made of a split by `config.data` and `config.model.features`.

    Raises:
        UserError: as `open_photographs` and `pretrained_backbone`.
    """
    given: Any = config
    data, features = given.data, given.model.features
    if split.startswith(REGIONS_PREFIX):  # of which the mean alone is read
        features = features.model_copy(update={"grid": 1})
    photographs = open_photos(data, split)
    network = [features.backbone, weights_fingerprint(features), features.grid]
    made_of: list[object] = [VERSION, BLOCK, photographs.fingerprint, *network]
    if features.size is not None:
        made_of.append(f"size {features.size}")
    if view := parse_view_split(split)[1]:
        made_of.append(f"view {view}")
    fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:20]
    return FeatureJob(data, features, split, photographs, cache_folder() / f"features-{fingerprint}")


def open_features(config: Config, split: str) -> FeatureSet:
    """Returns the features of a split, made in this process if they are not there; raises as `make`."""
    return extract_features(feature_job(config, split), extract_locally, lambda done, of: None)


def extract_features(work: FeatureJob, compute: ExtractBlocks, advance: ProgressCallback) -> FeatureSet:
    """Makes what is missing of the features of a split. Of several processes one makes them and the others wait.

    Raises:
        UserError: the network cannot be had, or the cache cannot be written.
    """
    if work.folder.exists():
        return FeatureSet(work.folder)
    names = work.photographs.names
    with explain_write_errors(work.folder):
        work.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{work.folder}.lock"):
            if not work.folder.exists():
                backbone = pretrained_backbone(work.features)
                shape = len(names), backbone.positions, backbone.channels
                unfinished = FeatureWriter(work.folder.with_name(f".{work.folder.name}"), shape)
                done = len(names) - sum(_size(number, len(names)) for number in unfinished.missing)
                advance(done, len(names))
                for number, block in compute(work, unfinished.missing):
                    unfinished.add(number, block)
                    done += len(block.grids)
                    advance(done, len(names))
                unfinished.finish(work.folder, names)
    return FeatureSet(work.folder)


def extract_locally(work: FeatureJob, missing: Sequence[int]) -> Iterator[tuple[int, Block]]:
    """Makes blocks in this process."""
    extractor = Extractor(work.data, work.features, work.split, work.photographs)
    for number in missing:
        yield number, extractor.block(number)


def _size(number: int, photographs: int) -> int:
    return min(BLOCK, photographs - number * BLOCK)


NAMED = 5
"""Unreadable photographs that are named on the console; `photographs.json` names all."""
Show = Callable[[str, int, int, str], None]


def uses_frozen_features(config: Config) -> bool:
    """Whether the task looks at photographs through a network that stays as it is."""
    features = getattr(config.model, "features", None)
    blind = getattr(config.model, "sees", None) == "question"
    return features is not None and not features.fine_tune and not blind


def feature_jobs(config: Config, splits: Sequence[str]) -> list[FeatureJob]:
    """Returns what is to be made of each split.

    Raises:
        UserError: the task of the config has no photographs, or trains the network; else as `making.work_of`.
    """
    features = getattr(config.model, "features", None)
    if features is None:
        raise UserError(f"features: a config of task {config.task} has no model.features.")
    if features.fine_tune:
        raise UserError("features: model.features.fine_tune is true: the network is trained, so nothing can be kept.")
    views = [view_split("train", view) for view in range(1, getattr(features, "views", 1))] if "train" in splits else []
    return [feature_job(config, split) for split in (*splits, *views, *region_splits(config, splits))]


def region_splits(config: Config, splits: Sequence[str]) -> list[str]:
    """Returns what else features are made of: the regions of splits, where they are cut out; with folds those of all
    that folds are dealt from."""
    if not isinstance(config, PointingConfig) or config.model.regions.by != "crop" or config.data.captions:
        return []
    if config.data.folds is not None:
        splits = list(
            dict.fromkeys(part for split in splits for part in (FOLD_SPLITS if split in FOLD_SPLITS else (split,)))
        )
    return [f"{REGIONS_PREFIX}{split}" for split in splits]


def extract_splits(works: Sequence[FeatureJob], compute: ExtractBlocks, show: Show, say: Callable[[str], None]) -> None:
    """Makes what is missing of the features of these splits; says what was made and what could not be read. Raises as
    `making.make`."""
    for work in works:
        for sentence in work.photographs.dropped:
            say(sentence)
        began, there = time.monotonic(), work.folder.exists()
        counts: list[int] = []

        def advance(done: int, of: int, split: str = work.split, counts: list[int] = counts) -> None:
            counts.append(done)
            show(f"features of {split}", done, of, "photographs")

        features = extract_features(work, compute, advance)
        seconds = time.monotonic() - began
        made = 0 if there or not counts else counts[-1] - counts[0]
        how = f"{made:,} made in {seconds:.0f} s" if made else "nothing to do"
        noun = "regions" if work.split.startswith(REGIONS_PREFIX) else "photographs"
        say(f"features of {work.split}: {len(features):,} {noun}, {how}: {work.folder}")
        for sentence in _unreadable(features, work.split):
            say(sentence)


def _unreadable(features: FeatureSet, split: str) -> list[str]:
    if not features.missing:
        return []
    named = [f"{name} {reason}" for name, reason in list(features.unreadable.values())[:NAMED]]
    more = ", …" if len(features.missing) > NAMED else ""
    noun = "photograph" if len(features.missing) == 1 else "photographs"
    return [f"features of {split}: {len(features.missing):,} {noun} left out: {', '.join(named)}{more}"]
