"""Decoding a split: in this process, or shared among Ray workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

from unrolled.config import Config
from unrolled.decoding import Strategy
from unrolled.evaluation.decoder import Decoder
from unrolled.training.run import RunFolder

CHUNK = 128
"""Examples that a worker takes at a time: small enough to share evenly, large enough for full batches."""

Advance = Callable[[int], None]
"""Told how many more examples are done."""


class Here:
    """Decodes in this process."""

    def __init__(self, run: RunFolder, config: Config, checkpoint: Path) -> None:
        self._decoder = Decoder(run, config, checkpoint)
        self.device = self._decoder.device.type
        self.workers = 1

    def decode(self, strategy: Strategy, inputs: Sequence[str], advance: Advance) -> list[str]:
        """Returns one output an input, in order."""
        outputs: list[str] = [""] * len(inputs)
        for numbers in chunks(inputs):
            written = self._decoder.decode(strategy, numbers, [inputs[i] for i in numbers])
            _place(outputs, numbers, written, advance)
        return outputs


class OnRay:
    """Decodes in Ray actors, each with the model in memory. Ray must be initialised."""

    def __init__(self, run: RunFolder, config: Config, checkpoint: Path, *, workers: int, cpus: int, gpu: bool) -> None:
        actor = ray.remote(Decoder).options(num_cpus=cpus, num_gpus=int(gpu), max_restarts=2, max_task_retries=2)
        self._actors = [actor.remote(run, config, checkpoint, cpus) for _ in range(workers)]
        self.device = "cuda" if gpu else "cpu"
        self.workers = workers
        # Loading is not decoding: wait for it here, so that speeds are of the search alone.
        ray.get([worker.decode.remote(None, [], []) for worker in self._actors])

    def decode(self, strategy: Strategy, inputs: Sequence[str], advance: Advance) -> list[str]:
        """Returns one output an input, in order; which worker wrote it makes no difference."""
        outputs: list[str] = [""] * len(inputs)
        pool = ActorPool(self._actors)

        def send(actor: Any, numbers: list[int]) -> Any:
            return actor.decode.remote(strategy, numbers, [inputs[i] for i in numbers])

        plan = list(chunks(inputs))
        for numbers, written in zip(plan, pool.map(send, plan), strict=True):
            _place(outputs, numbers, written, advance)
        return outputs


def chunks(inputs: Sequence[str]) -> Iterator[list[int]]:
    """Yields places of inputs of like length, the longest first, so that no worker ends with a long chunk alone."""
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    for start in range(0, len(order), CHUNK):
        yield order[start : start + CHUNK]


def _place(outputs: list[str], numbers: Sequence[int], written: Sequence[str], advance: Advance) -> None:
    for number, text in zip(numbers, written, strict=True):
        outputs[number] = text
    advance(len(numbers))
