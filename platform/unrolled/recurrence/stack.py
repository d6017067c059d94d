"""Layers and directions of cells."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.dropout import Dropout
from unrolled.recurrence.scan import Engine, scan

StackState = tuple[tuple[State, ...], ...]
"""One cell state for every layer and, within it, every direction."""


class Stack(nn.Module):
    """A multilayer recurrent network, in one direction or both (Schuster & Paliwal 1997).

    Args:
        cell: the class of the cells.
        input_size, hidden_size: features of the input and of the state of one direction.
        layers: how many stand on each other; each reads all directions of the one below.
        bidirectional: a second cell a layer runs from the end; outputs of both are joined.
        dropout: share of values dropped between layers (not after the last).
        variational: drop the same values at every step; see `Dropout`.
        engine: of every scan.
    """

    def __init__(
        self,
        cell: type[Cell],
        input_size: int,
        hidden_size: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        self.engine = engine
        self.dropout = Dropout(dropout, variational=variational)
        sizes = [input_size] + [self.output_size] * (layers - 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(cell(size, hidden_size) for _ in range(self.directions)) for size in sizes
        )

    def zeros(self, batch: int) -> StackState:
        """Returns the state before the first step."""
        return tuple(tuple(cell.zeros(batch) for cell in layer) for layer in self.cells())

    def cells(self) -> list[list[Cell]]:
        """Returns the cells, layer by layer and direction by direction."""
        return [[cast(Cell, cell) for cell in cast(nn.ModuleList, layer)] for layer in self.layers]

    def forward(
        self, inputs: Tensor, state: StackState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """Runs the whole sequence; arguments and results as in `scan`.

        Returns:
            The top layer's outputs `(batch, time, directions · hidden)`, and the state after the last step.
        """
        before = self.zeros(len(inputs)) if state is None else state
        after: list[tuple[State, ...]] = []
        for depth, (layer, carried) in enumerate(zip(self.cells(), before, strict=True)):
            if depth > 0:
                inputs = self.dropout(inputs)
            runs = [
                scan(cell, inputs, carried[d], mask, engine=self.engine, reverse=d == 1) for d, cell in enumerate(layer)
            ]
            inputs = torch.cat([outputs for outputs, _ in runs], dim=-1) if len(runs) > 1 else runs[0][0]
            after.append(tuple(last for _, last in runs))
        return inputs, tuple(after)

    def step(self, inputs: Tensor, state: StackState) -> tuple[Tensor, StackState]:
        """One step of a one-directional stack: `(batch, features)` → `(batch, hidden)` and the state after it.

        Raises:
            ValueError: the stack is bidirectional, so it has no single next step.
        """
        if self.directions != 1:
            raise ValueError("a bidirectional stack cannot be stepped: it reads the sequence from both ends")
        after: list[tuple[State, ...]] = []
        for depth, ((cell,), (carried,)) in enumerate(zip(self.cells(), state, strict=True)):
            if depth > 0:
                inputs = self.dropout(inputs)
            new = cell.step(cell.project(inputs), carried)
            inputs = new[0]
            after.append((new,))
        return inputs, tuple(after)
