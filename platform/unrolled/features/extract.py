"""Feature extraction: what is to be extracted for a config, found in the cache or extracted block by block."""

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
from unrolled.config.captioning import FeatureConfig
from unrolled.data.image_sets import REGIONS_PREFIX, PhotoData, open_photos, parse_view_split, view_split
from unrolled.data.images import PhotoSet, UnreadableImage, examples, quantity, random_view, read_pixels
from unrolled.data.question_readers import FOLD_SPLITS
from unrolled.errors import UserError
from unrolled.features.backbones import VERSION, pretrained_backbone, weights_fingerprint
from unrolled.features.store import BLOCK, Block, FeatureSet, FeatureWriter
from unrolled.files import cache_folder, explain_write_errors

BATCH = 4
"""Photographs per forward pass: few, so that activations stay in a core's cache; and a fixed number, so that results
are the same everywhere."""
FLOAT16_MAX = float(np.finfo(np.float16).max)
MAX_NAMED = 5
"""Unreadable photographs that are named on the console; `photographs.json` names all."""


@dataclass(frozen=True)
class FeatureJob:
    """The extraction of one split into a `folder` of the cache, which exists once all features are extracted."""

    data: PhotoData
    features: FeatureConfig
    split: str
    photographs: PhotoSet
    folder: Path


ExtractBlocks = Callable[[FeatureJob, Sequence[int]], Iterable[tuple[int, Block]]]
"""Extracts the given blocks of a job; yields each with its number, in any order."""
OnProgress = Callable[[int, int], None]
"""Called with the number of extracted photographs, and of all."""
ShowProgress = Callable[[str, int, int, str], None]
"""Called with a title, the number of extracted photographs, the number of all, and their noun."""


def open_features(config: Config, split: str) -> FeatureSet:
    """Returns the features of a split, extracted in this process where they are missing; raises as
    `extract_features`."""
    return extract_features(feature_job(config, split), extract_locally, lambda done, total: None)


def feature_job(config: Config, split: str) -> FeatureJob:
    """Returns the extraction of a split by `config.data` and `config.model.features`; raises as `open_photos` and
    `pretrained_backbone`."""
    given: Any = config
    data, features = given.data, given.model.features
    if split.startswith(REGIONS_PREFIX):  # of which the mean alone is read
        features = features.model_copy(update={"grid": 1})
    photographs = open_photos(data, split)
    network = [features.backbone, weights_fingerprint(features), features.grid]
    content: list[object] = [VERSION, BLOCK, photographs.fingerprint, *network]
    if features.size is not None:
        content.append(f"size {features.size}")
    if view := parse_view_split(split)[1]:
        content.append(f"view {view}")
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
    return FeatureJob(data, features, split, photographs, cache_folder() / f"features-{fingerprint}")


def extract_features(job: FeatureJob, extract_blocks: ExtractBlocks, on_progress: OnProgress) -> FeatureSet:
    """Extracts the missing features of a split. Of several processes one extracts and the others wait. Raises
    `UserError` if the backbone cannot be had, or the cache cannot be written."""
    if job.folder.exists():
        return FeatureSet(job.folder)
    names = job.photographs.names
    with explain_write_errors(job.folder):
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{job.folder}.lock"):
            if not job.folder.exists():
                backbone = pretrained_backbone(job.features)
                shape = len(names), backbone.positions, backbone.channels
                writer = FeatureWriter(job.folder.with_name(f".{job.folder.name}"), shape)
                done = len(names) - sum(min(BLOCK, len(names) - number * BLOCK) for number in writer.missing)
                on_progress(done, len(names))
                for number, block in extract_blocks(job, writer.missing):
                    writer.add(number, block)
                    done += len(block.grids)
                    on_progress(done, len(names))
                writer.finish(job.folder, names)
    return FeatureSet(job.folder)


def extract_locally(job: FeatureJob, missing: Sequence[int]) -> Iterator[tuple[int, Block]]:
    """Extracts blocks in this process."""
    extractor = BlockExtractor(job.data, job.features, job.split, job.photographs)
    for number in missing:
        yield number, extractor.extract(number)


class BlockExtractor:
    """A backbone and the photographs of a split."""

    def __init__(
        self, data: PhotoData, features: FeatureConfig, split: str, photographs: PhotoSet | None = None
    ) -> None:
        self.photographs = photographs or open_photos(data, split)
        self._backbone = pretrained_backbone(features).folded()
        self._view = parse_view_split(split)[1]

    def extract(self, number: int) -> Block:
        """Extracts one block."""
        rows = range(number * BLOCK, min((number + 1) * BLOCK, len(self.photographs)))
        size = self._backbone.size
        pixels, unreadable = torch.zeros(len(rows), size, size, 3, dtype=torch.uint8), {}
        for i, row in enumerate(rows):
            view = random_view(0, self._view, row) if self._view else None
            try:
                pixels[i] = read_pixels(self.photographs.images[row], size, view)
            except UnreadableImage as error:
                unreadable[i] = str(error)
        with torch.inference_mode():
            # Channels are last in memory already, as the folded network wants them.
            batches = [self._backbone(batch.permute(0, 3, 1, 2)) for batch in torch.split(pixels, BATCH)]
        grids = torch.cat(batches).clamp(-FLOAT16_MAX, FLOAT16_MAX)
        grids[list(unreadable)] = 0.0
        return Block(grids.half().numpy(), grids.mean(1).numpy(), unreadable)


def uses_frozen_features(config: Config) -> bool:
    """Whether the task reads photographs through a backbone that is not fine-tuned."""
    features = getattr(config.model, "features", None)
    blind = getattr(config.model, "sees", None) == "question"
    return features is not None and not features.fine_tune and not blind


def feature_jobs(config: Config, splits: Sequence[str]) -> list[FeatureJob]:
    """Returns the extraction of each split, its views and its regions. Raises `UserError` as `feature_job`, or if the
    task has no photographs or fine-tunes the backbone."""
    features = getattr(config.model, "features", None)
    if features is None:
        raise UserError(f"features: a config of task {config.task} has no model.features.")
    if features.fine_tune:
        raise UserError("features: model.features.fine_tune is true: the network is trained, so nothing can be kept.")
    views = [view_split("train", view) for view in range(1, getattr(features, "views", 1))] if "train" in splits else []
    return [feature_job(config, split) for split in (*splits, *views, *region_splits(config, splits))]


def region_splits(config: Config, splits: Sequence[str]) -> list[str]:
    """Returns the splits of cropped regions, where the config uses them; with folds those of all splits from which
    folds are made."""
    if not isinstance(config, PointingConfig) or config.model.regions.by != "crop" or config.data.captions:
        return []
    if config.data.folds is not None:
        sources = [source for split in splits for source in (FOLD_SPLITS if split in FOLD_SPLITS else (split,))]
        splits = list(dict.fromkeys(sources))
    return [f"{REGIONS_PREFIX}{split}" for split in splits]


def extract_splits(
    jobs: Sequence[FeatureJob], extract_blocks: ExtractBlocks, show: ShowProgress, say: Callable[[str], None]
) -> None:
    """Extracts the missing features of all jobs; prints what was extracted and what could not be read. Raises as
    `extract_features`."""
    for job in jobs:
        for sentence in job.photographs.dropped:
            say(sentence)
        began, existed = time.monotonic(), job.folder.exists()
        counts: list[int] = []

        def on_progress(done: int, total: int, split: str = job.split, counts: list[int] = counts) -> None:
            counts.append(done)
            show(f"features of {split}", done, total, "photographs")

        features = extract_features(job, extract_blocks, on_progress)
        seconds = time.monotonic() - began
        extracted = 0 if existed or not counts else counts[-1] - counts[0]
        outcome = f"{extracted:,} made in {seconds:.0f} s" if extracted else "nothing to do"
        noun = "regions" if job.split.startswith(REGIONS_PREFIX) else "photographs"
        say(f"features of {job.split}: {len(features):,} {noun}, {outcome}: {job.folder}")
        if features.unreadable:
            named = [f"{name} {reason}" for name, reason in features.unreadable.values()]
            left_out = f"{quantity(named, 'photograph')} left out: {examples(named, MAX_NAMED)}"
            say(f"features of {job.split}: {left_out}")
