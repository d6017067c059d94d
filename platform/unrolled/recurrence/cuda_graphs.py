"""Loops of a scan recorded as CUDA graphs.

On a GPU a step is a dozen small kernels, and launching them takes longer than running them. A graph launches all
kernels of all steps at once, but it reads and writes the memory that it was recorded with. A scan whose shapes recur
therefore gets memory of its own, is recorded there, and from then on its tensors are copied in, the graph is replayed
and the results are copied out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell

RECORD_AFTER = 3
"""Occurrence of a shape at which it is recorded: recording costs as much as several runs."""
MAX_GRAPHS = 8
"""Graphs per cell at most; other shapes run step by step."""

Work = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
"""From memory to read and write, and tensors to read, to results."""


class Graph:
    """Recorded work with the memory that it was recorded with."""

    def __init__(self, work: Work, memory: Sequence[Tensor], read: Sequence[Tensor]) -> None:
        self._memory, self._read = [x.clone() for x in memory], [x.contiguous().clone() for x in read]
        self._replay: Callable[[], None]
        if memory[0].device.type != "cuda":  # nothing to record: the work itself runs on the same memory
            self._replay = partial(self._run, work)
            return
        warm_up = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):  # libraries choose their kernels before the recording
            work(self._memory, self._read)
        torch.cuda.current_stream().wait_stream(warm_up)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(work)
        self._replay = graph.replay

    def __call__(self, memory: Sequence[Tensor], read: Sequence[Tensor]) -> list[Tensor]:
        """Runs the work on copies; then copies what it wrote into `memory` and returns its results."""
        for inner, outer in zip((*self._memory, *self._read), (*memory, *read), strict=True):
            inner.copy_(outer)
        self._replay()
        for inner, outer in zip(self._memory, memory, strict=True):
            outer.copy_(inner)
        return [result.clone() for result in self._results]

    def _run(self, work: Work) -> None:
        self._results = work(self._memory, self._read)


_graphs: WeakKeyDictionary[Cell, tuple[Counter[Hashable], dict[Hashable, Graph]]] = WeakKeyDictionary()
on_any_device = False
"""Whether scans pass through a graph's memory without a GPU, too; see `forced`."""


def run(cell: Cell, key: Hashable, work: Work, memory: Sequence[Tensor], read: Sequence[Tensor]) -> Sequence[Tensor]:
    """Runs `work`, as a graph if its shapes have occurred before.

    Args:
        key: everything that the work depends on besides the values of the tensors and of the cell's parameters.
    """
    occurrences, recorded = _graphs.setdefault(cell, (Counter(), {}))
    shapes = tuple((tensor.shape, tensor.dtype) for tensor in (*memory, *read))
    key = (key, shapes, tuple(parameter.data_ptr() for parameter in cell.parameters()))
    if key not in recorded:
        occurrences[key] += 1
        if (occurrences[key] < RECORD_AFTER and not on_any_device) or len(recorded) >= MAX_GRAPHS:
            return work(memory, read)
        try:
            recorded[key] = Graph(work, memory, read)
        except RuntimeError as error:
            logging.getLogger(__name__).warning("a scan cannot be recorded, so it runs step by step: %s", error)
            occurrences[key] = -(2**62)  # not again
            return work(memory, read)
    return recorded[key](memory, read)


@contextmanager
def forced() -> Iterator[None]:
    """Sends every plain scan through a graph's memory at once, with or without a GPU: for tests."""
    global on_any_device  # noqa: PLW0603
    on_any_device = True
    try:
        yield
    finally:
        on_any_device = False
