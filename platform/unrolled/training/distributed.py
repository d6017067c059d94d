"""Collectives used by data-parallel workers: groups of workers, gradient buckets, shared memory, hidden states."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from unrolled.recurrence import Nest
from unrolled.recurrence import state as nest


class Comm(Protocol):
    """A group of `size` workers, of which this one has the number `rank`."""

    rank: int
    size: int

    def shared_buffer(self, count: int, like: Tensor) -> Tensor | None:
        """Returns `(count,)` zeros, of the type and device of `like`, that `all_reduce` sums in shared memory.

        `None`, for all workers, where numbers must be sent instead. A collective call with the same count.
        """
        ...

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        """Begins to replace `tensor` by its sum over the workers; call the result to wait for the sum.

        All workers begin their sums in the same order. A tensor from `shared_buffer` is summed whole.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all workers, in the order of ranks, to each of them."""
        ...


class SingleWorker:
    """A group of one worker."""

    rank, size = 0, 1

    def shared_buffer(self, count: int, like: Tensor) -> Tensor | None:
        return like.new_zeros(count)

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        return lambda: tensor

    def gather(self, value: Any) -> list[Any]:
        return [value]


class ProcessGroup:
    """The default process group of torch.distributed, which the caller has initialised."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._shared: list[SharedTensors] = []

    def shared_buffer(self, count: int, like: Tensor) -> Tensor | None:
        if like.device.type != "cpu":
            return None
        tensors = make_shared_tensors(count, like.dtype, self.rank, self.size, self.gather, torch.distributed.barrier)
        if tensors is None:
            return None
        self._shared.append(tensors)
        return tensors.own

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        for tensors in self._shared:
            if tensors.own.is_set_to(tensor):
                return tensors.all_reduce
        wait: Callable[[], object] = torch.distributed.all_reduce(tensor, async_op=True).wait
        return wait

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values


# Gradient buckets -----------------------------------------------------------------------------------------

BUCKET_BYTES = 4 * 2**20
"""Size at which a bucket is full: large enough that the latency of a message hardly counts."""


@dataclass(eq=False)
class _Bucket:
    """A piece of the gradient memory that is summed in one message.

    Attributes:
        views: the parameters' gradients as views of `memory`.
        pending: ids of parameters whose gradient the last backward pass has still to produce.
    """

    memory: Tensor
    parameters: list[nn.Parameter]
    views: list[Tensor]
    pending: set[int] = field(default_factory=set)


class GradientBuckets:
    """Memory for the gradients of all parameters and a few numbers, summed over the workers.

    In shared memory there is one bucket. Otherwise buckets are sent one after another, the first of them while the
    backward pass still computes the others (Li et al. 2020, "PyTorch Distributed"). They start with the parameters that
    a model defines last, whose gradients come first. All workers sum them in this order, whatever each of them has to
    wait for; the numbers are in the last bucket.

    Args:
        parameters: in the order of their definition, of one type on one device.
        extra: how many numbers there are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], extra: int, comm: Comm) -> None:
        self._comm = comm
        like, count = parameters[0].detach(), sum(parameter.numel() for parameter in parameters) + extra
        shared = comm.shared_buffer(count, like)
        memory = like.new_zeros(count) if shared is None else shared
        self._buckets = _cut(memory, parameters, BUCKET_BYTES if shared is None else memory.nbytes)
        self._extra = memory[-extra:]
        self._in_last_backward = False
        self._sums: list[Callable[[], object]] = []  # of the buckets that are being summed
        if shared is None:
            for bucket in self._buckets[:-1]:  # the last one waits for the numbers in any case
                for parameter in bucket.parameters:
                    hook = partial(self._on_gradient, bucket)
                    parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def begin_last_backward(self, loss: Tensor) -> None:
        """Announces that the backward pass from `loss` is the last before `all_reduce`.

        A gradient is final once this pass has added to it, or now if the pass never reaches its parameter. Which
        parameters it reaches depends on the window, the masks and the carried state, so it is read from the graph.
        """
        if len(self._buckets) == 1:
            return
        reached = _reached_parameters(loss)
        for bucket in self._buckets:
            bucket.pending = reached.intersection(map(id, bucket.parameters))
        self._in_last_backward = True
        self._start_final_buckets()

    def all_reduce(self, numbers: Sequence[float | Tensor]) -> list[float]:
        """Sums gradients and `numbers` over the workers; returns the sums of the numbers."""
        for place, number in enumerate(numbers):
            self._extra[place] = number
        for bucket in self._buckets[len(self._sums) :]:
            self._start(bucket)
        for wait in self._sums:
            wait()
        self._in_last_backward, self._sums = False, []
        for bucket in self._buckets:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view
        return [float(number) for number in self._extra]

    def _on_gradient(self, bucket: _Bucket, parameter: Tensor) -> None:
        if self._in_last_backward:
            if bucket in self._buckets[: len(self._sums)]:
                raise RuntimeError("a gradient changed after its last backward pass: WindowLoss.last was set too early")
            bucket.pending.discard(id(parameter))
            self._start_final_buckets()

    def _start_final_buckets(self) -> None:
        """Starts the sums of the next buckets in order whose gradients are final."""
        for bucket in self._buckets[len(self._sums) : -1]:
            if bucket.pending:
                return
            self._start(bucket)

    def _start(self, bucket: _Bucket) -> None:
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket.parameters]
        torch._foreach_copy_(bucket.views, gradients)
        self._sums.append(self._comm.all_reduce(bucket.memory))


def _cut(memory: Tensor, parameters: Sequence[nn.Parameter], size: int) -> list[_Bucket]:
    """Assigns memory to the parameters, the last one first; what is left over belongs to the last bucket."""
    groups: list[list[nn.Parameter]] = [[]]
    for parameter in reversed(parameters):
        if sum(each.nbytes for each in groups[-1]) >= size:
            groups.append([])
        groups[-1].append(parameter)
    buckets, begin = [], 0
    for group in groups:
        sizes = [parameter.numel() for parameter in group]
        end = begin + sum(sizes)
        pieces = torch.split(memory[begin:end], sizes)
        views = [piece.view_as(parameter) for piece, parameter in zip(pieces, group, strict=True)]
        buckets.append(_Bucket(memory[begin : None if group is groups[-1] else end], group, views))
        begin = end
    return buckets


def _reached_parameters(loss: Tensor) -> set[int]:
    """Returns the ids of the parameters that a backward pass from `loss` adds to."""
    found, visited, queue = set(), set(), [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):  # a leaf of the graph
            found.add(id(node.variable))
        queue.extend(each for each, _ in node.next_functions)
    return found


# Shared memory --------------------------------------------------------------------------------------------

CHUNK = 2**15
"""Numbers that are summed at a time: few enough to stay in a core's cache."""


class SharedTensors:
    """One tensor per worker, in memory that all workers of a machine map, so that a sum needs no messages.

    Attributes:
        own: this worker's tensor, `(count,)`.
    """

    def __init__(self, memory: mmap.mmap, rank: int, size: int, dtype: torch.dtype, barrier: Callable[[], Any]) -> None:
        self._all = torch.frombuffer(memory, dtype=dtype).view(size, -1)
        self._rank, self._barrier = rank, barrier
        self.own = self._all[rank]

    def all_reduce(self) -> None:
        """Replaces the tensors of all workers by their sum, bitwise the same in each.

        Each worker sums its range of the elements over all tensors, in the order of ranks, and writes it to all.
        """
        self._barrier()  # all tensors are written
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
    """Allocates a tensor of `count` numbers for each worker; `None`, for all of them, if they do not share a machine
    or it has too little memory.

    The memory is an anonymous file, which the other workers open through the first one's `/proc` entry. It disappears
    with the last process that has it open, whichever process is killed at whatever moment.
    """
    length = size * count * dtype.itemsize
    created = gather(_create_file(length) if rank == 0 else None)[0]
    memory = None if created is None else _map_file(created, length)
    mapped_by_all = all(gather(memory is not None))
    if rank == 0 and created is not None:
        os.close(created[0])  # the mapping stays
    return SharedTensors(memory, rank, size, dtype, barrier) if mapped_by_all and memory is not None else None


def _create_file(length: int) -> tuple[int, Path, Path] | None:
    """Returns the descriptor, the path by which other processes open the file, and the target of that path."""
    try:
        file = os.memfd_create(f"unrolled-{secrets.token_hex(16)}")
    except (AttributeError, OSError):  # not every system has anonymous files
        return None
    path = Path(f"/proc/{os.getpid()}/fd/{file}")
    try:
        os.posix_fallocate(file, 0, length)  # otherwise the first write beyond the free memory would be fatal
        return file, path, path.readlink()
    except OSError:
        os.close(file)
        return None


def _map_file(created: tuple[int, Path, Path], length: int) -> mmap.mmap | None:
    _, path, target = created
    try:
        if path.readlink() != target:  # the number belongs to another process on this machine
            return None
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), length)
    except OSError:
        return None


# Hidden states: worker r of n holds the rows r, r + n, r + 2n, … of the global batch ----------------------


def gather_state(state: Nest, comm: Comm) -> Nest:
    """Returns the hidden state of the global batch, rows in order, on the CPU, from the shards of all workers."""
    shards = [shard for shard in comm.gather(nest.map(Tensor.cpu, state)) if shard is not None]  # some hold no rows
    return nest.map(_interleave, *shards) if shards else None


def _interleave(*shards: Tensor) -> Tensor:
    whole = shards[0].new_empty(sum(map(len, shards)), *shards[0].shape[1:])
    for rank, shard in enumerate(shards):
        whole[rank :: len(shards)] = shard
    return whole


def shard_state(state: Nest, comm: Comm, device: torch.device) -> Nest:
    """Returns this worker's rows of a global hidden state; `None` if it has none."""
    shard = nest.map(lambda rows: rows[comm.rank :: comm.size].to(device), state)
    return None if _is_empty(shard) else shard


def _is_empty(state: Nest) -> bool:
    while isinstance(state, tuple):
        state = state[0]
    return state is None or len(state) == 0
