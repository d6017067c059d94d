"""The little that data-parallel workers say to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch.distributed
from torch import Tensor

from unrolled.training.shared_memory import Segments, share


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


class Alone:
    """A single worker."""

    rank, size = 0, 1

    def memory(self, count: int, like: Tensor) -> Tensor | None:
        return like.new_zeros(count)

    def all_reduce(self, tensor: Tensor) -> Callable[[], object]:
        return lambda: tensor  # the sum over one worker is what it has

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Distributed:
    """The default process group of torch.distributed, which the caller has started."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._shared: list[Segments] = []

    def memory(self, count: int, like: Tensor) -> Tensor | None:
        if like.device.type != "cpu":
            return None
        segments = share(count, like.dtype, self.rank, self.size, self.gather, torch.distributed.barrier)
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
