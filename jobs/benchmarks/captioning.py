"""Captioning from features against its matrix products alone, and features made on Ray against bare loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from measure import Figure, ratio, take_turns
from training import Gemm, both_passes
from unrolled.config import Config
from unrolled.config.captioning import CaptioningConfig
from unrolled.config.load import load_config
from unrolled.data.batching import CaptionBatch, pad
from unrolled.models import Penalties, build_captioner
from unrolled.recurrence import CELLS
from unrolled.tasks import Captioning, Shard
from unrolled.training.distributed import SingleWorker
from unrolled.training.train_step import TrainStep, WorkerBatch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VOCABULARY, CHANNELS = 2570, 1280
"""Flickr8k's words, and the features of efficientnet-lite0."""
LENGTHS = 11.5, 3.0
"""Of its captions: mean and deviation of their tokens."""
Products = tuple[list[Gemm], list[Gemm]]
"""The forward products of an update; the second list: those of the given features, which have no gradient."""


def captioning(quick: bool) -> Iterator[Figure]:
    """Seconds of an update on random features and captions as long as those of Flickr8k."""
    for name in ("show_attend_tell", "show_and_tell", "karpathy"):
        config = configured(name)
        batches = caption_batches(config, 300 if quick else config.training.batch_tokens // 2, count=6)

        def ours(precision: str, name: str = name, batches: Sequence[CaptionBatch] = batches) -> Callable[[], None]:
            return our_step(configured(name, f"training.precision={precision}"), batches)

        seconds = timed(ours, [gemms(config, batch) for batch in batches], quick)
        yield from shares(f"captioning/{name}", seconds)
    yield together(quick)


def together(quick: bool) -> Figure:
    """Seconds a token of captions of like length over those of captions that stay with their photograph."""
    work, tokens = {}, {}
    for kept in ("false", "true"):
        config = configured("show_attend_tell", f"training.together={kept}")
        batches = caption_batches(config, 300 if quick else config.training.batch_tokens // 2, count=4)
        work[kept], tokens[kept] = our_step(config, batches), sum(int(batch.mask.sum()) for batch in batches)
    seconds = take_turns(work, 3 if quick else 12)
    each = {kept: [one / tokens[kept] for one in taken] for kept, taken in seconds.items()}
    name = "captioning/show_attend_tell/together"
    return ratio(name, each["false"], each["true"], goal=None, better="higher", baseline="of like length")


def timed(ours: Callable[[str], Callable[[], None]], made: Sequence[Products], quick: bool) -> dict[str, list[float]]:
    """Seconds of an update and of its products alone, in float32 and, where it pays, in bfloat16.

    Args:
        ours: from a precision to an update, of which each call takes the next batch.
        made: the products of every batch.
    """
    work = {"ours": ours("float32"), "gemms": products(made, torch.float32)}
    if torch.cpu._is_amx_tile_supported():
        work |= {"half": ours("bfloat16"), "half gemms": products(made, torch.bfloat16)}
    for function in work.values():
        for _ in made:
            function()  # libraries choose their kernels by shape, once
    return take_turns(work, 3 if quick else 3 * len(made))


def shares(name: str, seconds: dict[str, list[float]]) -> Iterator[Figure]:
    """The share of the products in the time of an update, and what bfloat16 brings."""
    against = {"better": "higher", "baseline": "products alone"}
    yield ratio(f"{name}/gemm-share", seconds["gemms"], seconds["ours"], goal=0.7, **against)
    if "half" in seconds:
        yield ratio(f"{name}/bf16", seconds["ours"], seconds["half"], goal=None, better="higher", baseline="float32")
        yield ratio(f"{name}/bf16-share", seconds["half gemms"], seconds["half"], goal=None, **against)


def configured(name: str, *overrides: str) -> CaptioningConfig:
    """A shipped config with overrides."""
    config = load_config(CONFIGS / "captioning" / f"{name}.yaml", overrides)
    assert isinstance(config, CaptioningConfig)
    return config


def caption_batches(config: CaptioningConfig, tokens: int, count: int) -> list[CaptionBatch]:
    """Captions of about `tokens` a batch, each of a photograph of its own and of like length; or five of each
    photograph, as long as they happen to be, where the config keeps those together."""
    generator, each = np.random.default_rng(1), 5 if config.training.together else 1
    batches = []
    for _ in range(count):
        drawn = np.clip(generator.normal(*LENGTHS, size=tokens), 6, 25).astype(int)
        photos = max(1, round(tokens / LENGTHS[0] / each)) if each > 1 else tokens // int(drawn[0])
        lengths = drawn[: photos * each] if each > 1 else [int(drawn[0])] * photos
        words, mask = pad([generator.integers(4, VOCABULARY, size=steps + 1) for steps in lengths])
        pictures, owners = torch.rand(photos, positions(config), CHANNELS), torch.arange(photos * each) // each
        batches.append(CaptionBatch(pictures, owners, words[:, :-1], words[:, 1:], mask[:, 1:]))
    return batches


def positions(config: CaptioningConfig) -> int:
    """How many positions of a picture the encoder is given: only attention reads more than their mean."""
    return config.model.features.grid**2 if config.model.decoder.conditioning == "attention" else 1


def our_step(config: CaptioningConfig, batches: Sequence[CaptionBatch]) -> Callable[[], None]:
    """An update as the training loop makes it; each call takes the next batch."""
    penalties = Penalties(config.training.doubly_stochastic, config.training.reconstruction)
    model = build_captioner(config.model, CHANNELS, positions(config), VOCABULARY, penalties)
    task: Any = SimpleNamespace(config=config, losses=lambda *given: Captioning.losses(task, *given))
    return updates(task, model, config, batches, [int(batch.mask.sum()) for batch in batches])


def updates(
    task: Any, model: nn.Module, config: Config, batches: Sequence[Shard], targets: Sequence[int]
) -> Callable[[], None]:
    """Updates of a model as the training loop makes them, of which each call takes the next batch."""
    update = TrainStep(task, model.train(), config, SingleWorker(), torch.device("cpu"))
    coming = itertools.cycle(WorkerBatch([batch], count) for batch, count in zip(batches, targets, strict=True))

    def run() -> None:
        update(next(coming), 0, 0.0, [0.0, 0.0], norms_by_layer=False)

    return run


def gemms(config: CaptioningConfig, batch: CaptionBatch) -> Products:
    """The products of an update; recurrent ones a step at a time, for the captions that go on. Additive scores are
    none."""
    encoder, decoder = config.model.encoder, config.model.decoder
    rows, writes, (photos, places, _) = len(batch.mask), int(batch.mask.sum()), batch.photos.shape
    steps = tuple(batch.mask.sum(0).tolist())
    gates = CELLS[decoder.cell].num_gates * decoder.hidden
    memory = encoder.size or CHANNELS
    output = decoder.embedding if decoder.tie else decoder.hidden
    given = [Gemm(photos * places, CHANNELS, memory)] if encoder.size else []
    made = [
        Gemm(writes, decoder.embedding, gates),
        Gemm(steps, decoder.hidden, gates),
        Gemm(writes, output, VOCABULARY),
    ]
    if decoder.conditioning == "attention":
        made += [
            Gemm(photos * places, memory, decoder.hidden),  # keys
            Gemm(photos, memory, 2 * decoder.hidden),  # the first state
            Gemm(steps, decoder.hidden, decoder.hidden),  # queries
            Gemm(steps, memory, gates),  # contexts fed
            Gemm(writes, places, memory),  # contexts
            Gemm(writes, decoder.hidden + memory + decoder.embedding, output),
        ]
        return made, given
    size = decoder.embedding if decoder.conditioning == "first" else decoder.picture
    (made if encoder.size else given).append(Gemm(rows, memory, size))
    made.append(Gemm(writes, decoder.hidden, output))
    if decoder.conditioning == "every":
        made.append(Gemm(rows, size, gates))
    else:  # a step before the first word
        made += [Gemm(rows, size, gates), Gemm(rows, decoder.hidden, gates)]
    return made, given


def products(updates: Sequence[Products], kind: torch.dtype) -> Callable[[], None]:
    """The products of updates and nothing else, of which each call takes the next."""
    work = [
        [*(both_passes(gemm, kind) for gemm in made), *(both_passes(gemm, kind, into_rows=False) for gemm in given)]
        for made, given in updates
    ]
    coming = itertools.cycle(work)

    def run() -> None:
        for multiply in next(coming):
            multiply()

    return run
