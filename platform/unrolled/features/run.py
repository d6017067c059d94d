"""The command `unrolled features`: every split that is asked for, on Ray or here, with a line of progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from unrolled.config import Config, PointingConfig
from unrolled.data.opening import REGIONS, view_of
from unrolled.data.questions import LEARNED
from unrolled.errors import UserError
from unrolled.features.making import Compute, Work, make, work_of
from unrolled.features.store import Features

NAMED = 5
"""Unreadable photographs that are named on the console; `photographs.json` names all."""
Show = Callable[[str, int, int, str], None]


def has_features(config: Config) -> bool:
    """Whether the task looks at photographs through a network that stays as it is."""
    features = getattr(config.model, "features", None)
    blind = getattr(config.model, "sees", None) == "question"
    return features is not None and not features.fine_tune and not blind


def works_of(config: Config, splits: Sequence[str]) -> list[Work]:
    """Returns what is to be made of each split.

    Raises:
        UserError: the task of the config has no photographs, or trains the network; else as `making.work_of`.
    """
    features = getattr(config.model, "features", None)
    if features is None:
        raise UserError(f"features: a config of task {config.task} has no model.features.")
    if features.fine_tune:
        raise UserError("features: model.features.fine_tune is true: the network is trained, so nothing can be kept.")
    views = [view_of("train", view) for view in range(1, getattr(features, "views", 1))] if "train" in splits else []
    return [work_of(config, split) for split in (*splits, *views, *region_splits(config, splits))]


def region_splits(config: Config, splits: Sequence[str]) -> list[str]:
    """Returns what else features are made of: the regions of splits, where they are cut out; with folds those of all
    that folds are dealt from."""
    if not isinstance(config, PointingConfig) or config.model.regions.by != "crop" or config.data.captions:
        return []
    if config.data.folds is not None:
        splits = list(dict.fromkeys(part for split in splits for part in (LEARNED if split in LEARNED else (split,))))
    return [f"{REGIONS}{split}" for split in splits]


def make_splits(works: Sequence[Work], compute: Compute, show: Show, say: Callable[[str], None]) -> None:
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

        features = make(work, compute, advance)
        seconds = time.monotonic() - began
        made = 0 if there or not counts else counts[-1] - counts[0]
        how = f"{made:,} made in {seconds:.0f} s" if made else "nothing to do"
        noun = "regions" if work.split.startswith(REGIONS) else "photographs"
        say(f"features of {work.split}: {len(features):,} {noun}, {how}: {work.folder}")
        for sentence in _unreadable(features, work.split):
            say(sentence)


def _unreadable(features: Features, split: str) -> list[str]:
    if not features.missing:
        return []
    named = [f"{name} {reason}" for name, reason in list(features.unreadable.values())[:NAMED]]
    more = ", …" if len(features.missing) > NAMED else ""
    noun = "photograph" if len(features.missing) == 1 else "photographs"
    return [f"features of {split}: {len(features.missing):,} {noun} left out: {', '.join(named)}{more}"]
