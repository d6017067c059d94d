"""Worker pools of an evaluation: this process, or Ray actors."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from unrolled.decoding import Output, Strategy
from unrolled.errors import RunFailed, UserError
from unrolled.evaluation.decode_cache import CachedChunk, DecodeCache
from unrolled.evaluation.predictor import EnsembleMember, Predictor

CHUNK = 128
"""Examples per call of a worker: small enough to share evenly, large enough for full batches."""

Advance = Callable[[int], None]
"""Called with the number of further examples or shards that are done."""


class WorkerPool(ABC):
    """Workers, each with a `Predictor` in memory.

    Attributes:
        device: type of the workers' torch device.
        workers: their number.
    """

    device: str
    workers: int

    @abstractmethod
    def imap_unordered(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Calls a method of `Predictor` with each tuple of arguments; yields (index of the call, result) as completed.

        Raises:
            RunFailed: the model returned NaN or the like, or workers died too often.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the workers and frees their resources."""

    def decode(
        self, strategy: Strategy, inputs: Sequence[str], cache: DecodeCache, advance: Advance
    ) -> tuple[list[Output], float]:
        """Decodes the chunks that the cache lacks. Chunks do not depend on the number of workers, so neither do
        batches.

        Returns:
            One output per input, in order, and the seconds that decoding them took.
        """
        chunks, done = list(chunk_by_length(inputs)), dict(cache.chunks)
        missing = [number for number in range(len(chunks)) if number not in done]
        calls = [(strategy, chunks[number], [inputs[i] for i in chunks[number]]) for number in missing]
        began = time.perf_counter()
        for call, outputs in self.imap_unordered("decode", calls):
            now = time.perf_counter()
            number, chunk = missing[call], CachedChunk(outputs, now - began)
            cache.add(number, chunk)
            done[number], began = chunk, now
            advance(len(outputs))
        by_index = {
            i: output
            for number, indices in enumerate(chunks)
            for i, output in zip(indices, done[number].outputs, strict=True)
        }
        return [by_index[i] for i in range(len(inputs))], sum(chunk.seconds for chunk in done.values())

    def evaluate_shards(self, data: Any, num_shards: int, advance: Advance) -> list[Any]:
        """Returns the results of `Predictor.evaluate_shard` for every shard of `data`, in order."""
        results = {}
        for shard, result in self.imap_unordered(
            "evaluate_shard", [(data, shard, num_shards) for shard in range(num_shards)]
        ):
            results[shard] = result
            advance(1)
        return [results[shard] for shard in range(num_shards)]


class LocalPool(WorkerPool):
    """A single worker: this process."""

    def __init__(self, members: Sequence[EnsembleMember]) -> None:
        self._predictor = Predictor(members)
        self.device = self._predictor.device.type
        self.workers = 1

    def imap_unordered(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        for index, arguments in enumerate(calls):
            yield index, getattr(self._predictor, method)(*arguments)

    def close(self) -> None:
        pass


class RayPool(WorkerPool):
    """Ray actors. Ray must be initialised."""

    def __init__(self, members: Sequence[EnsembleMember], *, workers: int, cpus: int, gpu: bool) -> None:
        actor = ray.remote(Predictor).options(num_cpus=cpus, num_gpus=int(gpu), max_restarts=2, max_task_retries=2)
        self._actors = [actor.remote(members, cpus) for _ in range(workers)]
        self.device = "cuda" if gpu else "cpu"
        self.workers = workers
        # Models are loaded before the clock starts, so that reported speeds are those of the search alone.
        for reference in [actor.ready.remote() for actor in self._actors]:
            _result(reference, died="an evaluation worker cannot start")

    def imap_unordered(self, method: str, calls: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        pending, idle = list(enumerate(calls))[::-1], list(self._actors)
        running: dict[Any, tuple[int, Any]] = {}
        while pending or running:
            while pending and idle:
                (index, arguments), actor = pending.pop(), idle.pop()
                running[getattr(actor, method).remote(*arguments)] = index, actor
            (done,), _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(done)
            yield index, _result(done)
            idle.append(actor)

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def _result(reference: Any, died: str = "an evaluation worker died too often; what was decoded is kept") -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError | RunFailed):
            raise error.cause from None
        raise
    except RayActorError:
        raise RunFailed(f"{died}. The run's log.txt says more.") from None


def chunk_by_length(inputs: Sequence[str]) -> Iterator[list[int]]:
    """Yields indices of inputs of similar length, the longest first, so that no worker ends with a long chunk alone."""
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    for start in range(0, len(order), CHUNK):
        yield order[start : start + CHUNK]
