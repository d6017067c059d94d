"""The little that data-parallel workers say to each other."""

from __future__ import annotations

from typing import Any, Protocol

import torch.distributed
from torch import Tensor

from unrolled.training.shared_memory import Segments, share


class Comm(Protocol):
    """A group of `size` workers, of which this one is number `rank`."""

    rank: int
    size: int

    def memory(self, count: int, like: Tensor) -> Tensor:
        """Returns `(count,)` zeros of the type and place of `like`, for sums that are taken often; all workers ask
        together, for as many."""
        ...

    def all_reduce(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its sum over the workers."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Returns every worker's `value`, in the order of ranks, to all of them."""
        ...


class Alone:
    """A single worker."""

    rank, size = 0, 1

    def memory(self, count: int, like: Tensor) -> Tensor:
        return like.new_zeros(count)

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over one worker is what it has."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Distributed:
    """The default process group of torch.distributed, which the caller has started."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._shared: list[Segments] = []

    def memory(self, count: int, like: Tensor) -> Tensor:
        if like.device.type != "cpu":
            return like.new_zeros(count)
        segments = share(count, like.dtype, self.rank, self.size, self.gather, torch.distributed.barrier)
        if segments is None:
            return like.new_zeros(count)
        self._shared.append(segments)
        return segments.own

    def all_reduce(self, tensor: Tensor) -> None:
        for segments in self._shared:
            if segments.own is tensor:
                return segments.all_reduce()
        torch.distributed.all_reduce(tensor)
        return None

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values
