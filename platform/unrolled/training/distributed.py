"""Collectives used by data-parallel workers.

Sums over workers on one machine: each reads the others' numbers where they lie, so none travel.

The little that data-parallel workers say to each other.

Sums of gradients over the workers: in one piece where they need not travel; else in buckets, the first of which
travel while the backward pass still makes the others (Li et al. 2020, "PyTorch Distributed").

State that a model carries from batch to batch, joined for a checkpoint and dealt out to any number of workers.

Worker r of n holds the rows r, r + n, r + 2n, … of the global batch.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest

CHUNK = 2**15
"""Numbers that are summed at a time: few enough that they stay in a core's cache."""


class SharedTensors:
    """A tensor of every worker, in memory that all of them see.

    Attributes:
        own: this worker's tensor, `(count,)`.
    """

    def __init__(self, memory: mmap.mmap, rank: int, size: int, dtype: torch.dtype, barrier: Callable[[], Any]) -> None:
        self._all = torch.frombuffer(memory, dtype=dtype).view(size, -1)
        self._rank, self._barrier = rank, barrier
        self.own = self._all[rank]

    def all_reduce(self) -> None:
        """Replaces the tensors of all workers by their sum, the same to the last bit in each.

        Every worker sums its own share of the places over all tensors, in the order of ranks, and writes it to all.
        """
        self._barrier()  # all have written theirs
        size, count = self._all.shape
        low, high = (count * (self._rank + edge) // size for edge in (0, 1))
        for start in range(low, high, CHUNK):
            first, *others = self._all[:, start : min(start + CHUNK, high)]
            for other in others:
                first += other
            for other in others:
                other.copy_(first)
        self._barrier()


def make_shared_tensors(
    count: int, dtype: torch.dtype, rank: int, size: int, gather: Callable[[Any], list[Any]], barrier: Callable[[], Any]
) -> SharedTensors | None:
    """Makes a tensor of `count` numbers for every worker; `None`, for all of them, where they do not share a machine or
    it has not got so much memory.

    The memory is a file without a place in any folder, which the others open through the first worker's `/proc` entry:
    whoever is killed at whatever moment, it goes with the last process that has it open.
    """
    length = size * count * dtype.itemsize
    made = gather(_make(length) if rank == 0 else None)[0]
    memory = None if made is None else _open(made, length)
    everywhere = all(gather(memory is not None))
    if rank == 0 and made is not None:
        os.close(made[0])  # what is mapped stays
    return SharedTensors(memory, rank, size, dtype, barrier) if everywhere and memory is not None else None


def _make(length: int) -> tuple[int, Path, Path] | None:
    """Returns the file, where others find it, and what they find there."""
    try:
        file = os.memfd_create(f"unrolled-{secrets.token_hex(16)}")
    except (AttributeError, OSError):  # not every system has such files
        return None
    place = Path(f"/proc/{os.getpid()}/fd/{file}")
    try:
        os.posix_fallocate(file, 0, length)  # or the first write beyond what is free would be fatal
        return file, place, place.readlink()
    except OSError:
        os.close(file)
        return None


def _open(made: tuple[int, Path, Path], length: int) -> mmap.mmap | None:
    _, place, name = made
    try:
        if place.readlink() != name:  # on this machine, another process has that number
            return None
        with place.open("r+b") as file:
            return mmap.mmap(file.fileno(), length)
    except OSError:
        return None


class Comm(Protocol):
    """A group of `size` workers, of which this one is number `rank`."""

    rank: int
    size: int

    def memory(self, count: int, like: Tensor) -> Tensor | None:
        """Returns `(count,)` zeros of the type and place of `like` whose sum over the workers is taken where they lie;
        `None`, for all of them, where numbers must travel. All workers ask together, for as many."""
        ...

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        """Begins to replace `tensor` by its sum over the workers, all of whom begin their sums in the same order; the
        sum is there when what this returns has been called. A tensor from `memory` is summed whole."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Returns every worker's `value`, in the order of ranks, to all of them."""
        ...


class SingleWorker:
    """A single worker."""

    rank, size = 0, 1

    def memory(self, count: int, like: Tensor) -> Tensor | None:
        return like.new_zeros(count)

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        return lambda: tensor  # the sum over one worker is what it has

    def gather(self, value: Any) -> list[Any]:
        return [value]


class ProcessGroup:
    """The default process group of torch.distributed, which the caller has started."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._shared: list[SharedTensors] = []

    def memory(self, count: int, like: Tensor) -> Tensor | None:
        if like.device.type != "cpu":
            return None
        segments = make_shared_tensors(count, like.dtype, self.rank, self.size, self.gather, torch.distributed.barrier)
        if segments is None:
            return None
        self._shared.append(segments)
        return segments.own

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        for segments in self._shared:
            if segments.own.is_set_to(tensor):
                return segments.all_reduce
        wait: Callable[[], object] = torch.distributed.all_reduce(tensor, async_op=True).wait
        return wait

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values


BUCKET_BYTES = 4 * 2**20
"""Size from which on a bucket is full: large enough that the time of a message hardly counts."""


@dataclass(eq=False)
class _Bucket:
    """Attributes:
    memory: what is summed in one go.
    views: the places of the parameters' gradients in it.
    awaited: numbers of parameters that get a gradient in the last backward pass and have not got it.
    """

    memory: Tensor
    parameters: list[nn.Parameter]
    views: list[Tensor]
    awaited: set[int] = field(default_factory=set)


class GradientBuckets:
    """Memory for the gradients of all parameters and a few numbers, cut into buckets that are summed in turn.

    Buckets begin with the parameters that a model defines last, as their gradients come first. All workers sum them in
    this order, whatever each of them has to wait for; the numbers travel in the last one.

    Args:
        parameters: in the order of their definition, of one type on one device.
        extra: how many numbers there are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], extra: int, comm: Comm) -> None:
        self._comm = comm
        like, count = parameters[0].detach(), sum(parameter.numel() for parameter in parameters) + extra
        shared = comm.memory(count, like)
        whole = like.new_zeros(count) if shared is None else shared
        self._buckets = _cut(whole, parameters, BUCKET_BYTES if shared is None else whole.nbytes)
        self._extra = whole[-extra:]
        self._known = False  # which gradients are final, and which are awaited
        self._sums: list[Callable[[], object]] = []  # of the buckets that are on their way
        if shared is None:
            for bucket in self._buckets[:-1]:  # the last one waits for the numbers anyway
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._arrived(bucket))  # type: ignore[no-untyped-call]

    def last_pass(self, loss: Tensor) -> None:
        """Says that the backward pass from `loss`, now to begin, is the last before the sum.

        A gradient is final once this pass has added to it, or now if it never will. Which of them it adds to depends
        on the window, the masks and the state carried in, so that the graph itself is asked.
        """
        if len(self._buckets) == 1:
            return
        reached = _reached(loss)
        for bucket in self._buckets:
            bucket.awaited = reached.intersection(map(id, bucket.parameters))
        self._known = True
        self._send()

    def sum(self, numbers: Sequence[float | Tensor]) -> list[float]:
        """Leaves in every parameter the sum of its gradients over the workers; returns the sums of the numbers."""
        for place, number in enumerate(numbers):
            self._extra[place] = number
        for bucket in self._buckets[len(self._sums) :]:
            self._start(bucket)
        for wait in self._sums:
            wait()
        self._known, self._sums = False, []
        for bucket in self._buckets:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view
        return [float(number) for number in self._extra]

    def _arrived(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            if self._known:
                if bucket in self._buckets[: len(self._sums)]:
                    raise RuntimeError("a gradient changed after its last backward pass: Piece.last was said too early")
                bucket.awaited.discard(id(parameter))
                self._send()

        return note

    def _send(self) -> None:
        """Starts the sums of the buckets whose turn it is and whose gradients are final."""
        for bucket in self._buckets[len(self._sums) : -1]:
            if bucket.awaited:
                return
            self._start(bucket)

    def _start(self, bucket: _Bucket) -> None:
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket.parameters]
        torch._foreach_copy_(bucket.views, gradients)
        self._sums.append(self._comm.all_reduce(bucket.memory))


def _cut(whole: Tensor, parameters: Sequence[nn.Parameter], size: int) -> list[_Bucket]:
    """Deals out memory to the parameters, the last one first; what is left over lies behind the last bucket's."""
    groups: list[list[nn.Parameter]] = [[]]
    for parameter in reversed(parameters):
        if sum(each.nbytes for each in groups[-1]) >= size:
            groups.append([])
        groups[-1].append(parameter)
    buckets, begin = [], 0
    for group in groups:
        sizes = [parameter.numel() for parameter in group]
        end = begin + sum(sizes)
        pieces = torch.split(whole[begin:end], sizes)
        views = [piece.view_as(parameter) for piece, parameter in zip(pieces, group, strict=True)]
        buckets.append(_Bucket(whole[begin : None if group is groups[-1] else end], group, views))
        begin = end
    return buckets


def _reached(loss: Tensor) -> set[int]:
    """The parameters, by `id`, that a backward pass from `loss` adds to."""
    found, seen, ahead = set(), set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # a leaf of the graph
            found.add(id(node.variable))
        ahead.extend(each for each, _ in node.next_functions)
    return found


def to_cpu(state: Nest) -> Nest:
    """Moves the state to where it can be sent and saved."""
    return nest.map(Tensor.cpu, state)


def gather_state(parts: Sequence[Nest]) -> Nest:
    """Returns the state of the global batch, rows in order, from the workers' parts in the order of ranks."""
    held = [part for part in parts if part is not None]  # with fewer rows than workers, the last ones hold none
    return nest.map(_interleaved, *held) if held else None


def _interleaved(*parts: Tensor) -> Tensor:
    rows = sum(map(len, parts))
    whole = parts[0].new_empty(rows, *parts[0].shape[1:])
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def shard_state(state: Nest, rank: int, size: int, device: torch.device) -> Nest:
    """Returns the rows of worker `rank` of `size`; `None` where it has none."""
    mine = nest.map(lambda rows: rows[rank::size].to(device), state)
    return None if _empty(mine) else mine


def _empty(state: Nest) -> bool:
    while isinstance(state, tuple):
        state = state[0]
    return state is None or len(state) == 0
