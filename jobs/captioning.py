"""Captioning from features against its matrix products alone, and features made on Ray against bare loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from measure import Figure, ratio, take_turns
from training import Gemm, both_passes
from unrolled.config.captioning import CaptioningConfig
from unrolled.config_file import load_config
from unrolled.data.caption_corpus import CaptionBatch
from unrolled.models import Penalties, build_captioner
from unrolled.tasks.captioning import Captioning
from unrolled.training.ahead import Work
from unrolled.training.comm import Alone
from unrolled.training.update import Updater

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "captioning"
VOCABULARY, CHANNELS, POSITIONS = 2570, 1280, 49
"""Flickr8k's words, and the features of efficientnet-lite0."""


def captioning(quick: bool) -> Iterator[Figure]:
    """Seconds of an update on random features and captions as long as those of Flickr8k."""
    for name in ("show_attend_tell", "show_and_tell", "karpathy"):
        config = configured(name, "training.precision=float32")
        batches = caption_batches(config, 300 if quick else config.training.batch_tokens // 2, count=6)
        work = {"ours": our_step(config, batches), "gemms": products(config, batches)}
        if torch.cpu._is_amx_tile_supported():
            work["half"] = our_step(configured(name, "training.precision=bfloat16"), batches)
        for function in work.values():
            for _ in batches:
                function()  # libraries choose their kernels by shape, once
        seconds = take_turns(work, 3 if quick else 3 * len(batches))
        share = f"captioning/{name}/gemm-share"
        yield ratio(share, seconds["gemms"], seconds["ours"], goal=0.7, better="higher", baseline="products alone")
        if "half" in seconds:
            half = f"captioning/{name}/bf16"
            yield ratio(half, seconds["ours"], seconds["half"], goal=None, better="higher", baseline="float32")


def configured(name: str, *overrides: str) -> CaptioningConfig:
    """A shipped config with overrides."""
    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    assert isinstance(config, CaptioningConfig)
    return config


def caption_batches(config: CaptioningConfig, tokens: int, count: int) -> list[CaptionBatch]:
    """Captions of like length, about `tokens` a batch, each of a photograph of its own."""
    generator = np.random.default_rng(1)
    batches = []
    for length in np.clip(generator.normal(11.5, 3, size=count), 6, 25).astype(int):
        rows = tokens // int(length)
        words = torch.from_numpy(generator.integers(4, VOCABULARY, size=(rows, length + 1)))
        positions = POSITIONS if config.model.decoder.conditioning == "attention" else 1
        pictures = torch.rand(rows, positions, CHANNELS)
        mask = torch.ones(rows, int(length), dtype=torch.bool)
        batches.append(CaptionBatch(pictures, torch.arange(rows), words[:, :-1], words[:, 1:], mask))
    return batches


def our_step(config: CaptioningConfig, batches: Sequence[CaptionBatch]) -> Callable[[], None]:
    """An update as the training loop makes it; each call takes the next batch."""
    penalties = Penalties(config.training.doubly_stochastic, config.training.reconstruction)
    model = build_captioner(config.model, CHANNELS, POSITIONS, VOCABULARY, penalties).train()
    task: Any = SimpleNamespace(config=config, losses=lambda *given: Captioning.losses(task, *given))
    update = Updater(task, model, config, Alone(), torch.device("cpu"))
    coming = itertools.cycle(Work([batch], int(batch.mask.sum())) for batch in batches)

    def run() -> None:
        update(next(coming), 0, 0.0, [0.0, 0.0], layers=False)

    return run


def gemms(config: CaptioningConfig, batch: CaptionBatch) -> tuple[list[Gemm], list[Gemm]]:
    """The forward products of an update; recurrent ones a step at a time. The second list: those of the given features,
    which have no gradient."""
    encoder, decoder = config.model.encoder, config.model.decoder
    rows, steps = batch.mask.shape
    writes, seen = rows * steps, rows * batch.pictures.shape[1]
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[decoder.cell] * decoder.hidden
    memory = encoder.size or CHANNELS
    output = decoder.embedding if decoder.tie else decoder.hidden
    given = [Gemm(seen, CHANNELS, memory)] if encoder.size else []
    made = [
        Gemm(writes, decoder.embedding, gates),
        Gemm(rows, decoder.hidden, gates, steps),
        Gemm(writes, output, VOCABULARY),
    ]
    if decoder.conditioning == "attention":
        made += [
            Gemm(seen, memory, decoder.hidden),  # keys
            Gemm(rows, memory, 2 * decoder.hidden),  # the first state
            Gemm(rows, decoder.hidden, decoder.hidden, steps),  # queries
            Gemm(rows, memory, gates, steps),  # contexts fed
            Gemm(writes, decoder.hidden, POSITIONS),  # scores
            Gemm(writes, POSITIONS, memory),  # contexts
            Gemm(writes, decoder.hidden + memory + decoder.embedding, output),
        ]
    else:
        size = decoder.embedding if decoder.conditioning == "first" else decoder.picture
        (made if encoder.size else given).append(Gemm(rows, memory, size))
        made.append(Gemm(writes, decoder.hidden, output))
        if decoder.conditioning == "every":
            made.append(Gemm(rows, size, gates))
    return made, given


def products(config: CaptioningConfig, batches: Sequence[CaptionBatch]) -> Callable[[], None]:
    """The products of an update and nothing else."""
    work: list[list[Callable[[], object]]] = []
    for batch in batches:
        made, given = gemms(config, batch)
        work.append([*map(both_passes, made), *map(_without_gradient, given)])
    coming = itertools.cycle(work)

    def run() -> None:
        for multiply in next(coming):
            multiply()

    return run


def _without_gradient(gemm: Gemm) -> Callable[[], Tensor]:
    x, weight = torch.randn(gemm.rows, gemm.depth), torch.randn(gemm.depth, gemm.columns)
    errors = torch.randn(gemm.rows, gemm.columns)

    def run() -> Tensor:
        torch.mm(x, weight)
        return torch.mm(x.t(), errors)

    return run
