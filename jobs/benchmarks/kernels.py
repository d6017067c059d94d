"""What the kernels in C are worth: whole updates and searches of shipped configs, by torch instead against with them.

A kernel stays where it makes some config's update a tenth faster, or its search three tenths; the rows that say so have
that for their goal. `all` stands for a machine without a compiler. A processor without a matrix unit is tried by
ONEDNN_MAX_CPU_ISA=AVX2 and, as CC, a script that calls gcc with another -march.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import captioning
import vqa
from decoding import search
from measure import Figure, ratio, take_turns
from training import caption_batches, configured, our_step, translator
from unrolled import native
from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.config.load import load_config
from unrolled.data.lm_corpus import plan_windows
from unrolled.data.tokenizer import SPECIAL
from unrolled.decoding import Beam, Sample, Strategy
from unrolled.models import Penalties, build_captioner
from unrolled.models.builders import build_language_model
from unrolled.models.heads import Precision
from unrolled.native import build
from unrolled.tasks import WindowLoss

UPDATE, SEARCH = 1.1, 1.3
GOALS = {
    "multi30k/bfloat16/loss": UPDATE,
    "shakespeare/bfloat16/scan": UPDATE,
    "show_attend_tell/bfloat16/attention": UPDATE,
    "show_attend_tell/float32/attention": UPDATE,
    "daquar/bfloat16/scan": UPDATE,
    "daquar/float32/scan": UPDATE,
    "daquar/float32/dropout": UPDATE,
    "multi30k-beam/bfloat16/ranking": SEARCH,
    "multi30k-beam/float32/ranking": SEARCH,
    "multi30k-sample/bfloat16/sampling": SEARCH,
    "show_attend_tell-beam/bfloat16/attention": SEARCH,
    "show_attend_tell-beam/float32/attention": SEARCH,
}
"""The least ratios of the rows by which kernels stay."""
Work = Callable[[], object]


def _nothing(*_: object) -> None:
    """What a kernel gives that cannot do what it is asked."""


def _no(*_: object, **__: object) -> bool:
    return False


WITHOUT: dict[str, dict[str, Callable[..., object]]] = {
    "scan": {"scan_supported": _no},
    "loss": {"cross_entropy": _nothing},
    "dropout": {"dropout": _nothing},
    "attention": {"attention_supported": _no},
    "ranking": {"ranking_supported": _no},
    "sampling": {"sample_rows": _nothing},
}
"""By kernel: what its functions in `native` say where torch is to do the work."""
WITHOUT["all"] = {name: stand_in for kernel in list(WITHOUT.values()) for name, stand_in in kernel.items()}


def kernels(quick: bool) -> Iterator[Figure]:
    """Seconds by torch over seconds with the kernel, everything else being as it is."""
    precisions: list[Precision] = ["float32", *(["bfloat16"] if build.amx_available() else [])]
    for name, (update, tried) in UPDATES.items():
        for precision in precisions:
            yield from _compared(f"{name}/{precision}", lambda: update(precision), tried, 3 if quick else 18)  # noqa: B023
    precisions = [each for each in ("float32", "bfloat16") if native.ranking_supported(each)]
    with torch.inference_mode():
        for name, (make, tried) in SEARCHES.items():
            for precision in precisions:
                yield from _compared(f"{name}/{precision}", lambda: make(precision), tried, 3 if quick else 9)  # noqa: B023


def _compared(name: str, make: Callable[[], Work], tried: Sequence[str], rounds: int) -> Iterator[Figure]:
    work = {"with": make()} | {kernel: _without(kernel, make()) for kernel in tried}
    seconds = take_turns(work, rounds)
    for kernel in tried:
        row = f"{name}/{kernel}"
        against = {"goal": GOALS.get(row), "better": "higher", "baseline": "with it"}
        yield ratio(f"kernels/{row}", seconds[kernel], seconds["with"], **against)  # type: ignore[arg-type]


def _without(kernel: str, work: Work) -> Work:
    def run() -> None:
        with patch.multiple(native, **WITHOUT[kernel]):
            work()

    return run


# Updates, of a worker's share of the batch ----------------------------------------------------------------


def _translation(precision: Precision) -> Work:
    config = configured(f"training.precision={precision}")
    return our_step(config, caption_batches(config, config.training.batch_tokens, count=6))


def _captions(precision: Precision) -> Work:
    config = captioning.configured("show_attend_tell", f"training.precision={precision}")
    batches = captioning.caption_batches(config, config.training.batch_tokens // 2, count=6)
    return captioning.our_step(config, batches)


def _answers(name: str) -> Callable[[Precision], Work]:
    def make(precision: Precision) -> Work:
        tokens = vqa.configured(name).training.batch_tokens // vqa.SIZES[name].workers
        return vqa.our_step(name, vqa.question_batches(name, tokens, count=6), f"training.precision={precision}")

    return make


SYMBOLS = 65
"""Of tiny Shakespeare."""


class _Text:
    """As much of a task as an update asks for."""

    def __init__(self, config: LanguageModelingConfig) -> None:
        self.config = config

    def losses(self, model: Any, part: Any, state: Any) -> Iterator[WindowLoss]:
        loss, after = model.loss(part.inputs, part.targets, state)
        yield WindowLoss(loss, after, last=True)


def _characters(precision: Precision) -> Work:
    path = captioning.CONFIGS / "language_modeling" / "shakespeare.yaml"
    config = load_config(path, [f"training.precision={precision}"])
    assert isinstance(config, LanguageModelingConfig)
    lanes, steps = config.training.lanes, config.training.truncate
    text = np.random.default_rng(0).integers(SYMBOLS, size=6 * lanes * steps + 1).astype(np.uint16)
    parts = [window.shard(0, 1) for window in plan_windows(text, lanes, steps)]
    model = build_language_model(config.model, SYMBOLS)
    return captioning.updates(_Text(config), model, config, parts, [lanes * steps] * len(parts))  # type: ignore[arg-type]


UPDATES: dict[str, tuple[Callable[[Precision], Work], list[str]]] = {
    "multi30k": (_translation, ["scan", "loss", "dropout", "all"]),
    "shakespeare": (_characters, ["scan", "all"]),
    "show_attend_tell": (_captions, ["dropout", "attention", "all"]),
    "daquar": (_answers("daquar"), ["scan", "dropout", "attention", "all"]),
}


# Searches of untrained models, in which nothing ends early ------------------------------------------------


def _translations(strategy: Callable[..., Strategy]) -> Callable[[Precision], Work]:
    def make(precision: Precision) -> Work:
        config = configured()
        model = translator(config).eval()
        inputs = torch.randint(len(SPECIAL), config.data.vocabulary.size, (64, 14))
        memory = model.encode(inputs, torch.ones_like(inputs, dtype=torch.bool))
        return lambda: search(model, memory, strategy(precision=precision), 64)

    return make


def _seen(precision: Precision) -> Work:
    config = captioning.configured("show_attend_tell")
    sizes = captioning.CHANNELS, captioning.positions(config), captioning.VOCABULARY
    model = build_captioner(config.model, *sizes, Penalties()).eval()
    memory = model.encode(torch.rand(64, captioning.positions(config), captioning.CHANNELS))
    return lambda: search(model, memory, Beam(3, precision=precision), 64)


SEARCHES: dict[str, tuple[Callable[[Precision], Work], list[str]]] = {
    "multi30k-beam": (_translations(lambda **given: Beam(5, **given)), ["ranking", "all"]),
    "multi30k-sample": (_translations(Sample), ["ranking", "sampling", "all"]),
    "show_attend_tell-beam": (_seen, ["ranking", "attention", "all"]),
}
