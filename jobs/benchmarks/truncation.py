"""Memory of truncated back-propagation through time: it should not grow with the length of what is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from measure import Figure, ratio
from synthetic import peak
from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.data.lm_corpus import VOCABULARY, plan_windows
from unrolled.data.tokenizer import learn_vocabulary
from unrolled.tasks import LanguageModeling
from unrolled.training.distributed import SingleWorker
from unrolled.training.train_step import TrainStep, build_initial_model, group_by_update, prefetch

CONFIG = {
    "task": "language_modeling",
    "name": "memory",
    "data": {"source": "hello"},
    "model": {"hidden": 256, "dropout": 0.0},
    "training": {"lanes": 64, "truncate": 50, "precision": "float32"},
}
LENGTHS = (200, 2_000, 20_000)
UNITS = "".join(map(chr, range(33, 98)))


def truncation(quick: bool) -> Iterator[Figure]:
    """Peaks of training a language model, k = 50, over lanes of growing length, against the shortest."""
    if not Path("/proc/self/clear_refs").exists():
        return
    lengths, rounds = (LENGTHS[:2], 2) if quick else (LENGTHS, 3)
    peaks = {length: [_epoch(length) for _ in range(rounds)] for length in lengths}
    for length in lengths[1:]:
        yield ratio(
            f"truncation/memory/{length}",
            peaks[length],
            peaks[lengths[0]],
            goal=1.10,
            better="lower",
            baseline=f"{lengths[0]} steps",
        )


def _epoch(steps: int) -> int:
    """Bytes that an epoch over lanes of so many steps needs at most, beyond model, optimizer and text."""
    config = LanguageModelingConfig.model_validate(CONFIG)
    with tempfile.TemporaryDirectory() as scratch:
        learn_vocabulary([UNITS], config.data.vocabulary, running_text=True).save(Path(scratch) / VOCABULARY)
        task = LanguageModeling(config, Path(scratch))
    comm, device = SingleWorker(), torch.device("cpu")
    updater = TrainStep(task, build_initial_model(task, config, device), config, comm, device)
    lanes, window = config.training.lanes, config.training.truncate
    text = np.random.default_rng(0).integers(len(task.vocabulary), size=lanes * steps + 1).astype(np.uint16)

    def read(units: np.ndarray) -> None:
        updater.hidden_state = None
        for step, work in enumerate(prefetch(group_by_update(plan_windows(units, lanes, window), config), comm)):
            updater(work, step, 0.0, [0.0, 0.0], norms_by_layer=False)

    read(text[: lanes * window * 2 + 1])  # what is made once: the optimizer's moments, buffers of the scan
    return peak(lambda: read(text), lambda: None)
