"""Stacks of layers and directions of cells, with the options that fit any cell.

Where numbers stopped being finite: looked for while torch detects anomalies, as it costs a pass over the data.

Layers and directions of cells, and the options that fit any cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.regularization import Dropout, Zoneout
from unrolled.recurrence.scan import Engine, truncated_scan


class NonFiniteError(FloatingPointError):
    """A value is infinite or not a number.

    Attributes:
        stack: where it stands.
        what: such as `the input of layer 1`.
        step, example: counted from 1.
    """

    def __init__(self, stack: nn.Module, what: str, step: int, example: int) -> None:
        super().__init__(f"{what} is not finite at step {step} of example {example}")
        self.stack, self.what, self.step, self.example = stack, what, step, example


def check_finite(stack: nn.Module, what: str, values: Tensor, mask: Tensor | None) -> None:
    """Looks for the first step with a value that is not finite, if `torch.autograd.set_detect_anomaly` is on.

    Args:
        stack: that works on the values.
        what: the values are called.
        values: `(batch, time, features)`.
        mask: `(batch, time)`, bool; padding may hold anything.

    Raises:
        NonFiniteError: there is one.
    """
    if not torch.is_anomaly_enabled():
        return
    wrong = ~values.isfinite().all(-1)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        step, example = (int(place) + 1 for place in wrong.t().nonzero()[0])
        raise NonFiniteError(stack, what, step, example)


StackState = tuple[tuple[State, ...], ...]
"""One cell state for every layer and, within it, every direction."""
Initialization = Literal["orthogonal", "uniform", "identity"]


class Stack(nn.Module):
    """A multilayer recurrent network, in one direction or both (Schuster & Paliwal 1997).

    Args:
        cell: the class of the cells.
        input_size, hidden_size: features of the input and of the state of one direction.
        layers: how many stand on each other; each reads all directions of the one below.
        bidirectional: a second cell a layer runs from the end; outputs of both are joined.
        dropout: share of values dropped between layers (not after the last).
        variational: drop the same values at every step; see `Dropout`.
        residual: a layer adds its input to its output wherever both are of one size (Wu et al. 2016, section 3.1).
        layer_norm: see `Cell`.
        zoneout: see `Zoneout`.
        initialization: of the recurrent weights, gate by gate: `orthogonal` (Saxe et al. 2014), `identity` (Le et al.
            2015) or `uniform` in ±1/√hidden, as torch's modules, then of the input weights too. `None`: the cell's own.
        learned_state: the state before the first step is a parameter, zeros at first; else it is zeros.
        beside: features of a second input, which one layer reads besides the first input or what is below it; 0: none.
        beside_layer: that layer, from 0.
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
        residual: bool = False,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        initialization: Initialization | None = None,
        learned_state: bool = False,
        beside: int = 0,
        beside_layer: int = 0,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= beside_layer < layers:
            raise ValueError(f"layer {beside_layer} of {layers} cannot read a second input: they count from 0")
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        self.residual, self.zoneout, self.engine = residual, zoneout, engine
        self.dropout = Dropout(dropout, variational=variational)
        self.beside_layer = beside_layer
        sizes = [input_size] + [self.output_size] * (layers - 1)
        sizes[beside_layer] += beside
        self.layers = nn.ModuleList(
            nn.ModuleList(cell(size, hidden_size, layer_norm=layer_norm) for _ in range(self.directions))
            for size in sizes
        )
        if initialization:
            for each in self._every_cell():
                initialize(each, initialization)
        self.first = nn.ParameterList()
        if learned_state:
            self.first.extend(
                nn.Parameter(torch.zeros(cell.num_states, hidden_size)) for _ in range(layers * self.directions)
            )

    def begin(self, batch: int) -> StackState:
        """Returns the state before the first step: the learned one, or zeros."""
        if not self.first:
            return tuple(tuple(cell.zeros(batch) for cell in layer) for layer in self.cells())
        learned = iter(self.first)
        return tuple(
            tuple(tuple(tensor.expand(batch, -1) for tensor in next(learned)) for _ in layer) for layer in self.cells()
        )

    def cells(self) -> list[list[Cell]]:
        """Returns the cells, layer by layer and direction by direction."""
        return [[cast(Cell, cell) for cell in cast(nn.ModuleList, layer)] for layer in self.layers]

    def _every_cell(self) -> Iterator[Cell]:
        for layer in self.cells():
            yield from layer

    def forward(
        self,
        inputs: Tensor,
        state: StackState | None = None,
        mask: Tensor | None = None,
        truncate: int | None = None,
        beside: Tensor | None = None,
    ) -> tuple[Tensor, StackState]:
        """Runs the whole sequence; arguments and results as in `scan`, `truncate` as in `truncated_scan`.

        Args:
            beside: the second input, `(batch, time, features)`, of a stack that was made for one; where it is the
                same at every step, `(batch, 1, features)`.

        Returns:
            The top layer's outputs `(batch, time, directions · hidden)`, and the state after the last step.

        Raises:
            NonFiniteError: while torch detects anomalies, a layer read or made a value that is not finite.
        """
        before = self.begin(len(inputs)) if state is None else state
        after: list[tuple[State, ...]] = []
        for depth, (layer, carried) in enumerate(zip(self.cells(), before, strict=True)):
            constant = None
            if beside is not None and depth == self.beside_layer and beside.shape[1] == 1 < inputs.shape[1]:
                check_finite(self, f"the input of layer {depth + 1}", beside, None)
                constant = beside[:, 0]
            read = self._read(depth, inputs, None if constant is not None else beside)
            check_finite(self, f"the input of layer {depth + 1}", read, mask)
            options: dict[str, Any] = {"engine": self.engine, "zoneout": self.zoneout, "constant": constant}
            runs = [
                truncated_scan(cell, read, carried[d], mask, truncate, reverse=d == 1, **options)
                for d, cell in enumerate(layer)
            ]
            outputs = torch.cat([outputs for outputs, _ in runs], dim=-1) if len(runs) > 1 else runs[0][0]
            check_finite(self, f"the output of layer {depth + 1}", outputs, mask)
            inputs = self._joined(outputs, inputs)
            after.append(tuple(last for _, last in runs))
        return inputs, tuple(after)

    def step(self, inputs: Tensor, state: StackState, beside: Tensor | None = None) -> tuple[Tensor, StackState]:
        """One step of a one-directional stack: `(batch, features)` → `(batch, hidden)` and the state after it.

        Args:
            beside: the second input, `(batch, features)`.

        Raises:
            ValueError: the stack is bidirectional, so it has no single next step.
        """
        if self.directions != 1:
            raise ValueError("a bidirectional stack cannot be stepped: it reads the sequence from both ends")
        after: list[tuple[State, ...]] = []
        for depth, ((cell,), (carried,)) in enumerate(zip(self.cells(), state, strict=True)):
            read = self._read(depth, inputs, beside)
            new = cell.step(cell.project(read), carried)
            zoneout = Zoneout.draw(self.zoneout, 1, carried, training=self.training)
            new = new if zoneout is None else zoneout.mixed(0, new, carried)
            inputs = self._joined(new[0], inputs)
            after.append((new,))
        return inputs, tuple(after)

    def _read(self, depth: int, inputs: Tensor, beside: Tensor | None) -> Tensor:
        read = self.dropout(inputs) if depth > 0 else inputs
        return read if beside is None or depth != self.beside_layer else torch.cat([read, beside], dim=-1)

    def _joined(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        return outputs + inputs if self.residual and outputs.shape == inputs.shape else outputs


def initialize(cell: Cell, how: Initialization) -> None:
    """Sets the recurrent weights of a cell, and for `uniform` its input weights; see `Stack`."""
    size = cell.hidden_size
    if how == "uniform":
        for weight in (cell.weight_input, cell.weight_hidden):
            nn.init.uniform_(weight, -(size**-0.5), size**-0.5)
        return
    for block in cell.weight_hidden.data.view(-1, size, size):
        nn.init.orthogonal_(block) if how == "orthogonal" else nn.init.eye_(block)


def named_stacks(model: nn.Module) -> Iterator[tuple[str, Stack]]:
    """Yields every stack in a model by its short name: `encoder`, or `stack` where it has no other."""
    for path, module in model.named_modules():
        if isinstance(module, Stack):
            yield path.removesuffix("stack").strip(".") or "stack", module
