"""Absolute figures: what training and decoding of the shipped models reach on this machine.

Every batch is new, as in an epoch of training, and nothing that is timed was run before: the first batches, for which
libraries choose their kernels, count as they do for a user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import captioning
import training
import vqa
from decoding import STEPS, search
from measure import Figure, amount
from synthetic import peak
from unrolled.data.tokenizer import SPECIAL
from unrolled.decoding import Beam, Greedy, Sample, Strategy
from unrolled.native import build
from unrolled.recurrence import CELLS, scan

MIB = 2**20


def absolute(quick: bool) -> Iterator[Figure]:
    """Tokens, captions, questions and sentences per second, and memory."""
    build.load()  # the C files are compiled once per machine
    yield from _translation(quick)
    yield from _captioning(quick)
    yield from _questions(quick)
    yield from _decoding(quick)
    yield from _scan(quick)


def _translation(quick: bool) -> Iterator[Figure]:
    """Training of a translator with a bidirectional LSTM of 256 + 256 units, an LSTM of 512 and 8,000 target words."""
    size = ["training.batch_tokens=400" if quick else "training.batch_tokens=1500"]
    for precision in ("float32", "auto"):
        config = training.configured(*training.LSTM, *size, f"training.precision={precision}")
        batches = training.caption_batches(config, config.training.batch_tokens, count=5 if quick else 60)
        tokens = [int(batch.target_mask.sum()) for batch in batches]
        yield _rate(f"training/lstm512/{precision}", training.our_step(config, batches), tokens, "target tokens/s")
    memory = peak(lambda: _epoch(training.our_step(config, batches), len(batches)), lambda: None)
    yield amount("absolute/training/lstm512/memory", [memory / MIB], "MiB beyond the program")


def _captioning(quick: bool) -> Iterator[Figure]:
    """Training of Show, attend and tell on features of a 9 × 9 grid."""
    config = captioning.configured("show_attend_tell")
    batches = captioning.caption_batches(
        config, 300 if quick else config.training.batch_tokens, count=5 if quick else 40
    )
    counts = [len(batch.mask) for batch in batches]
    yield _rate("training/show_attend_tell", captioning.our_step(config, batches), counts, "captions/s")


def _questions(quick: bool) -> Iterator[Figure]:
    """Training of question answering on DAQUAR's sizes."""
    tokens = vqa.configured("daquar").training.batch_tokens // (4 if quick else 1)
    batches = vqa.question_batches("daquar", tokens, count=5 if quick else 40)
    counts = [len(batch) for batch in batches]
    yield _rate("training/daquar", vqa.our_step("daquar", batches), counts, "questions/s")


def _decoding(quick: bool) -> Iterator[Figure]:
    """Search with that translator, untrained, from encoded sentences; every output has `STEPS` tokens."""
    config = training.configured(*training.LSTM)
    model = training.translator(config).eval()
    count = 32 if quick else 320

    def sentences() -> torch.Tensor:
        return torch.randint(len(SPECIAL), config.data.vocabulary.size, (count, 14))

    strategies: dict[str, tuple[Strategy, int]] = {
        "greedy": (Greedy(), count),
        "sampling": (Sample(), count),
        "beam-5": (Beam(5), max(1, count // 5)),
        "beam-5-bfloat16": (Beam(5, precision="bfloat16"), max(1, count // 5)),
    }
    with torch.inference_mode():
        for name, (strategy, batch) in strategies.items():
            inputs = [sentences() for _ in range(3 if quick else 10)]
            coming = iter(inputs)

            def decode_one(coming: Any = coming, strategy: Strategy = strategy, batch: int = batch) -> None:
                tokens = next(coming)
                encoded = model.encode(tokens, torch.ones_like(tokens, dtype=torch.bool))
                search(model, encoded, strategy, batch)

            yield _rate(f"decoding/{name}", decode_one, [count] * len(inputs), f"sentences of {STEPS} tokens/s")


def _scan(quick: bool) -> Iterator[Figure]:
    """Both passes of one LSTM of 512 units over 64 sequences of 32 steps, in float32."""
    batch, steps, size = (16, 8, 64) if quick else (64, 32, 512)
    cell = CELLS["lstm"](size, size)
    rounds = 3 if quick else 20
    coming = iter([torch.randn(batch, steps, size, requires_grad=True) for _ in range(rounds)])

    def run() -> None:
        outputs, _ = scan(cell, next(coming))
        outputs.sum().backward()

    yield _rate(f"recurrence/lstm{size}", run, [batch * steps] * rounds, "steps of a sequence/s")


def _rate(name: str, work: Callable[[], object], counts: Sequence[int], unit: str) -> Figure:
    """Calls `work` once per count. The value is all counts over all seconds; quartiles are those of single calls."""
    seconds = []
    for _ in counts:
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    each = [count / second for count, second in zip(counts, seconds, strict=True)]
    return amount(f"absolute/{name}", each, unit, value=sum(counts) / sum(seconds))


def _epoch(work: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        work()
