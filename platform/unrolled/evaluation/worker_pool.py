"""Workers of an evaluation: this process or Ray actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from unrolled.decoding import Output, Strategy
from unrolled.errors import RunFailed, UserError
from unrolled.evaluation.decode_cache import CachedChunk, DecodeCache
from unrolled.evaluation.ensemble import EnsembleMember
from unrolled.evaluation.predictor import Predictor

CHUNK = 128
"""Examples that a worker takes at a time: small enough to share evenly, large enough for full batches."""

Advance = Callable[[int], None]
"""Told how many more examples or shares are done."""


class LocalPool:
    """Works in this process."""

    def __init__(self, members: Sequence[EnsembleMember]) -> None:
        self._trained = Predictor(members)
        self.device = self._trained.device.type
        self.workers = 1

    def each(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Calls a method of `Predictor` with each of these arguments; yields each call's place and result as they come.

        Raises:
            RunFailed: the model gave something that cannot be used, or workers died too often.
        """
        for place, arguments in enumerate(calls):
            yield place, getattr(self._trained, method)(*arguments)

    def close(self) -> None:
        """Lets go of nothing."""


class RayPool:
    """Works in Ray actors, each with the model, or all models of an ensemble, in memory. Ray must be initialised."""

    def __init__(self, members: Sequence[EnsembleMember], *, workers: int, cpus: int, gpu: bool) -> None:
        actor = ray.remote(Predictor).options(num_cpus=cpus, num_gpus=int(gpu), max_restarts=2, max_task_retries=2)
        self._actors = [actor.remote(members, cpus) for _ in range(workers)]
        self.device = "cuda" if gpu else "cpu"
        self.workers = workers
        # Loading is not decoding: wait for it here, so that speeds are of the search alone.
        for reference in [worker.ready.remote() for worker in self._actors]:
            _result(reference, died="an evaluation worker cannot start")

    def each(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """As `Here.each`; which worker did a call makes no difference."""
        waiting, idle = list(enumerate(calls))[::-1], list(self._actors)
        working: dict[Any, tuple[int, Any]] = {}
        while waiting or working:
            while waiting and idle:
                (place, arguments), worker = waiting.pop(), idle.pop()
                working[getattr(worker, method).remote(*arguments)] = place, worker
            (done,), _ = ray.wait(list(working), num_returns=1)
            place, worker = working.pop(done)
            yield place, _result(done)
            idle.append(worker)

    def close(self) -> None:
        """Ends the workers, so that others find room."""
        for worker in self._actors:
            ray.kill(worker)


def _result(reference: Any, died: str = "an evaluation worker died too often; what was decoded is kept") -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError | RunFailed):
            raise error.cause from None
        raise
    except RayActorError:
        raise RunFailed(f"{died}. The run's log.txt says more.") from None


WorkerPool = LocalPool | RayPool


def write(
    workforce: WorkerPool, strategy: Strategy, inputs: Sequence[str], kept: DecodeCache, advance: Advance
) -> tuple[list[Output], float]:
    """Decodes what is not `kept` yet, a chunk at a time; the same chunks whoever does them, so that every batch is the
    same.

    Returns:
        One answer an input, in order, and the seconds that decoding them took.
    """
    plan, known = list(chunks(inputs)), dict(kept.chunks)
    missing = [number for number in range(len(plan)) if number not in known]
    calls = [(strategy, plan[number], [inputs[i] for i in plan[number]]) for number in missing]
    began = time.perf_counter()
    for place, answers in workforce.each("answers", calls):
        now = time.perf_counter()
        number, chunk = missing[place], CachedChunk(answers, now - began)
        kept.add(number, chunk)
        known[number], began = chunk, now
        advance(len(answers))
    outputs = {
        i: answer for number, places in enumerate(plan) for i, answer in zip(places, known[number].answers, strict=True)
    }
    return [outputs[i] for i in range(len(inputs))], sum(chunk.seconds for chunk in known.values())


def examine(workforce: WorkerPool, data: Any, shares: int, advance: Advance) -> list[Any]:
    """Returns what the examination of every share of `data` gave, in order."""
    results = {}
    for share, result in workforce.each("examine", [(data, share, shares) for share in range(shares)]):
        results[share] = result
        advance(1)
    return [results[share] for share in range(shares)]


def chunks(inputs: Sequence[str]) -> Iterator[list[int]]:
    """Yields places of inputs of like length, the longest first, so that no worker ends with a long chunk alone."""
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    for start in range(0, len(order), CHUNK):
        yield order[start : start + CHUNK]
