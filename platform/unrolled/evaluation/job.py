"""The work of an evaluation: in this process, or shared among Ray workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.util import ActorPool

from unrolled.config import Config
from unrolled.decoding import Strategy
from unrolled.evaluation.trained import Trained
from unrolled.training.run import Chosen, RunFolder

CHUNK = 128
"""Examples that a worker takes at a time: small enough to share evenly, large enough for full batches."""

Advance = Callable[[int], None]
"""Told how many more examples or shares are done."""


class Here:
    """Works in this process."""

    def __init__(self, run: RunFolder, config: Config, chosen: Chosen) -> None:
        self._trained = Trained(run, config, chosen)
        self.device = self._trained.device.type
        self.workers = 1

    def each(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """Calls a method of `Trained` with each of these arguments; yields the results in order."""
        for arguments in calls:
            yield getattr(self._trained, method)(*arguments)


class OnRay:
    """Works in Ray actors, each with the model in memory. Ray must be initialised."""

    def __init__(self, run: RunFolder, config: Config, chosen: Chosen, *, workers: int, cpus: int, gpu: bool) -> None:
        actor = ray.remote(Trained).options(num_cpus=cpus, num_gpus=int(gpu), max_restarts=2, max_task_retries=2)
        self._actors = [actor.remote(run, config, chosen, cpus) for _ in range(workers)]
        self.device = "cuda" if gpu else "cpu"
        self.workers = workers
        # Loading is not decoding: wait for it here, so that speeds are of the search alone.
        ray.get([worker.ready.remote() for worker in self._actors])

    def each(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """As `Here.each`; which worker did a call makes no difference."""
        pool = ActorPool(self._actors)
        results: Iterator[Any] = pool.map(lambda actor, arguments: getattr(actor, method).remote(*arguments), calls)
        yield from results


Workforce = Here | OnRay


def write(workforce: Workforce, strategy: Strategy, inputs: Sequence[str], advance: Advance) -> list[str]:
    """Returns one output an input, in order."""
    outputs: list[str] = [""] * len(inputs)
    plan = list(chunks(inputs))
    calls = [(strategy, numbers, [inputs[i] for i in numbers]) for numbers in plan]
    for numbers, written in zip(plan, workforce.each("write", calls), strict=True):
        for number, text in zip(numbers, written, strict=True):
            outputs[number] = text
        advance(len(numbers))
    return outputs


def examine(workforce: Workforce, data: Any, shares: int, advance: Advance) -> list[Any]:
    """Returns what the examination of every share of `data` gave, in order."""
    results = []
    for result in workforce.each("examine", [(data, share, shares) for share in range(shares)]):
        results.append(result)
        advance(1)
    return results


def chunks(inputs: Sequence[str]) -> Iterator[list[int]]:
    """Yields places of inputs of like length, the longest first, so that no worker ends with a long chunk alone."""
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    for start in range(0, len(order), CHUNK):
        yield order[start : start + CHUNK]
