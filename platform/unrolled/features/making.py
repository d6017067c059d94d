"""Features by what they are made of: found in the cache, else made, all over or from where an earlier attempt ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unrolled.cache import cache_folder
from unrolled.config import Config
from unrolled.config import captioning_data as sections
from unrolled.data.opening import REGIONS, PhotoData, open_photographs, seen_split
from unrolled.data.photographs import Photographs
from unrolled.features.backbones import VERSION, make_backbone, weights_name
from unrolled.features.extract import BLOCK, Block, Extractor
from unrolled.features.store import Features, Unfinished
from unrolled.files import writing

Advance = Callable[[int, int], None]
"""Told how many photographs of how many are done."""


@dataclass(frozen=True)
class Work:
    """The features of one split.

    Attributes:
        folder: of the cache; there once they are made.
    """

    data: PhotoData
    features: sections.Features
    split: str
    photographs: Photographs
    folder: Path


Compute = Callable[[Work, Sequence[int]], Iterable[tuple[int, Block]]]
"""Makes blocks of a split; yields each with its number, in any order."""


def work_of(config: Config, split: str) -> Work:
    """Returns what is to be made of a split by `config.data` and `config.model.features`.

    Raises:
        UserError: as `open_photographs` and `make_backbone`.
    """
    given: Any = config
    data, features = given.data, given.model.features
    if split.startswith(REGIONS):  # of which the mean alone is read
        features = features.model_copy(update={"grid": 1})
    photographs = open_photographs(data, split)
    network = [features.backbone, weights_name(features), features.grid]
    made_of: list[object] = [VERSION, BLOCK, photographs.fingerprint, *network]
    if features.size is not None:
        made_of.append(f"size {features.size}")
    if view := seen_split(split)[1]:
        made_of.append(f"view {view}")
    fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:20]
    return Work(data, features, split, photographs, cache_folder() / f"features-{fingerprint}")


def open_features(config: Config, split: str) -> Features:
    """Returns the features of a split, made in this process if they are not there; raises as `make`."""
    return make(work_of(config, split), compute_here, lambda done, of: None)


def make(work: Work, compute: Compute, advance: Advance) -> Features:
    """Makes what is missing of the features of a split. Of several processes one makes them and the others wait.

    Raises:
        UserError: the network cannot be had, or the cache cannot be written.
    """
    if work.folder.exists():
        return Features(work.folder)
    names = work.photographs.names
    with writing(work.folder):
        work.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{work.folder}.lock"):
            if not work.folder.exists():
                backbone = make_backbone(work.features)
                shape = len(names), backbone.positions, backbone.channels
                unfinished = Unfinished(work.folder.with_name(f".{work.folder.name}"), shape)
                done = len(names) - sum(_size(number, len(names)) for number in unfinished.missing)
                advance(done, len(names))
                for number, block in compute(work, unfinished.missing):
                    unfinished.add(number, block)
                    done += len(block.grids)
                    advance(done, len(names))
                unfinished.finish(work.folder, names)
    return Features(work.folder)


def compute_here(work: Work, missing: Sequence[int]) -> Iterator[tuple[int, Block]]:
    """Makes blocks in this process."""
    extractor = Extractor(work.data, work.features, work.split, work.photographs)
    for number in missing:
        yield number, extractor.block(number)


def _size(number: int, photographs: int) -> int:
    return min(BLOCK, photographs - number * BLOCK)
