"""What the cells inside a model do, step by step, while it computes: no model needs to know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.stack import Stack, named_stacks


@dataclass
class Trace:
    """What one cell did over a sequence, in the order of reading.

    Attributes:
        mask: `(steps, batch)`, bool; None where every step counts.
        projected, before, after: the input's share, the state before and the state after every step.
    """

    layer: str
    cell: Cell
    mask: Tensor | None = None
    projected: list[Tensor] = field(default_factory=list)
    before: list[State] = field(default_factory=list)
    after: list[State] = field(default_factory=list)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[Cell, Trace]]:
    """While open, every step of every stack in `model` leaves its states in a trace, whichever engine was chosen."""
    traces: dict[Cell, Trace] = {}
    with ExitStack() as undo:
        for name, stack in named_stacks(model):
            _watch(stack, name, traces, undo)
        yield traces


def _watch(stack: Stack, name: str, traces: dict[Cell, Trace], undo: ExitStack) -> None:
    undo.callback(setattr, stack, "engine", stack.engine)
    stack.engine = "autograd"  # the engine that goes through `Cell.step`
    for depth, layer in enumerate(stack.cells(), start=1):
        for cell, arrow in zip(layer, (" →", " ←") if len(layer) > 1 else ("",), strict=True):
            traces[cell] = Trace(f"{name} {depth}{arrow}", cell)
            undo.enter_context(_stepping(traces[cell]))

    def begin(_: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> None:
        mask = inspect.signature(stack.forward).bind(*given, **named).arguments.get("mask")
        for layer in stack.cells():
            for direction, cell in enumerate(layer):
                steps = mask.t() if isinstance(mask, Tensor) else None
                reading = steps.flip(0) if steps is not None and direction == 1 else steps
                trace = traces[cell]
                trace.mask, trace.projected, trace.before, trace.after = reading, [], [], []

    undo.callback(stack.register_forward_pre_hook(begin, with_kwargs=True).remove)


@contextmanager
def _stepping(trace: Trace) -> Iterator[None]:
    cell, step = trace.cell, trace.cell.step

    def traced(projected: Tensor, state: State) -> State:
        # Clones, so that the tensors of a state are independent: h of an LSTM is computed from c of the same step.
        after = tuple(tensor.clone().requires_grad_() for tensor in step(projected, state))
        trace.projected.append(projected.detach())
        trace.before.append(tuple(tensor.detach() for tensor in state))
        trace.after.append(after)
        return after

    vars(cell)["step"] = traced
    try:
        yield
    finally:
        del vars(cell)["step"]
