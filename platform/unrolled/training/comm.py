"""The little that data-parallel workers say to each other."""

from __future__ import annotations

from typing import Any, Protocol

import torch.distributed
from torch import Tensor


class Comm(Protocol):
    """A group of `size` workers, of which this one is number `rank`."""

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its sum over the workers."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Returns every worker's `value`, in the order of ranks, to all of them."""
        ...


class Alone:
    """A single worker."""

    rank, size = 0, 1

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over one worker is what it has."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Distributed:
    """The default process group of torch.distributed, which the caller has started."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def all_reduce(self, tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values
