"""Sums of gradients over the workers: in one piece where they need not travel; else in buckets, the first of which
travel while the backward pass still makes the others (Li et al. 2020, "PyTorch Distributed")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unrolled.training.comm import Comm

BYTES = 4 * 2**20
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


class Buckets:
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
        self._buckets = _cut(whole, parameters, BYTES if shared is None else whole.nbytes)
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
