"""Multilayer recurrent networks: layers and directions of cells, with the options that fit any cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.regularization import Dropout, Zoneout
from unrolled.recurrence.scan import Engine, truncated_scan

StackState = tuple[tuple[State, ...], ...]
"""A cell state per layer and, within it, per direction."""
Initialization = Literal["orthogonal", "uniform", "identity"]


class Stack(nn.Module):
    """A multilayer recurrent network, in one direction or both (Schuster & Paliwal 1997).

    Args:
        cell: class of the cells.
        input_size, hidden_size: features of the input and of the state of one direction.
        layers: number of layers; each reads all directions of the one below.
        bidirectional: a second cell per layer runs from the end; the outputs of both are concatenated.
        dropout: probability of dropout between layers (not after the last).
        variational: use one dropout mask at all steps; see `Dropout`.
        residual: a layer adds its input to its output where both have the same size (Wu et al. 2016, section 3.1).
        layer_norm: see `Cell`.
        zoneout: see `Zoneout`.
        initialization: of the recurrent weights, gate by gate: `orthogonal` (Saxe et al. 2014), `identity` (Le et al.
            2015) or `uniform` in ±1/√hidden, as torch's modules, then of the input weights too. `None`: the cell's own.
        learned_state: the state before the first step is a parameter, initialised to zeros; else it is zeros.
        extra_input_size: features of a second input, which one layer reads besides the output of the layer below (or
            the first input); 0: none.
        extra_input_layer: index of that layer.
        engine: of every scan.

    Raises:
        ValueError: `extra_input_layer` is not a layer.
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
        extra_input_size: int = 0,
        extra_input_layer: int = 0,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= extra_input_layer < layers:
            raise ValueError(f"layer {extra_input_layer} of {layers} cannot read a second input: they count from 0")
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        self.residual, self.zoneout, self.engine = residual, zoneout, engine
        self.dropout = Dropout(dropout, variational=variational)
        self.extra_input_layer = extra_input_layer
        sizes = [input_size] + [self.output_size] * (layers - 1)
        sizes[extra_input_layer] += extra_input_size
        self.layers = nn.ModuleList(
            nn.ModuleList(cell(size, hidden_size, layer_norm=layer_norm) for _ in range(self.directions))
            for size in sizes
        )
        if initialization:
            for layer in self.cells():
                for each in layer:
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
        """Returns the cells by layer and direction."""
        return [[cast(Cell, cell) for cell in cast(nn.ModuleList, layer)] for layer in self.layers]

    def forward(
        self,
        inputs: Tensor,
        state: StackState | None = None,
        mask: Tensor | None = None,
        truncate: int | None = None,
        extra_input: Tensor | None = None,
    ) -> tuple[Tensor, StackState]:
        """Runs the whole sequence; arguments and results as in `scan`, `truncate` as in `truncated_scan`.

        Args:
            extra_input: the second input, `(batch, time, features)`, or `(batch, 1, features)` if it is the same at
                every step.

        Returns:
            The top layer's outputs `(batch, time, directions · hidden)`, and the state after the last step.

        Raises:
            NonFiniteError: while torch detects anomalies, an input or output of a layer is not finite.
        """
        before = self.begin(len(inputs)) if state is None else state
        after: list[tuple[State, ...]] = []
        for depth, (layer, first) in enumerate(zip(self.cells(), before, strict=True)):
            static_input = None
            if (
                extra_input is not None
                and depth == self.extra_input_layer
                and extra_input.shape[1] == 1 < inputs.shape[1]
            ):
                check_finite(self, f"the input of layer {depth + 1}", extra_input, None)
                static_input = extra_input[:, 0]
            layer_input = self._layer_input(depth, inputs, None if static_input is not None else extra_input)
            check_finite(self, f"the input of layer {depth + 1}", layer_input, mask)
            options: dict[str, Any] = {"engine": self.engine, "zoneout": self.zoneout, "static_input": static_input}
            runs = [
                truncated_scan(cell, layer_input, first[d], mask, truncate, reverse=d == 1, **options)
                for d, cell in enumerate(layer)
            ]
            outputs = torch.cat([outputs for outputs, _ in runs], dim=-1) if len(runs) > 1 else runs[0][0]
            check_finite(self, f"the output of layer {depth + 1}", outputs, mask)
            inputs = self._add_residual(outputs, inputs)
            after.append(tuple(last for _, last in runs))
        return inputs, tuple(after)

    def step(self, inputs: Tensor, state: StackState, extra_input: Tensor | None = None) -> tuple[Tensor, StackState]:
        """One step of a one-directional stack: `(batch, features)` → `(batch, hidden)` and the state after it.

        Args:
            extra_input: the second input, `(batch, features)`.

        Raises:
            ValueError: the stack is bidirectional, so that it has no next step.
        """
        if self.directions != 1:
            raise ValueError("a bidirectional stack cannot be stepped: it reads the sequence from both ends")
        after: list[tuple[State, ...]] = []
        for depth, ((cell,), (old,)) in enumerate(zip(self.cells(), state, strict=True)):
            new = cell.step(cell.project(self._layer_input(depth, inputs, extra_input)), old)
            zoneout = Zoneout.draw(self.zoneout, 1, old, training=self.training)
            new = new if zoneout is None else zoneout.mix(0, new, old)
            inputs = self._add_residual(new[0], inputs)
            after.append((new,))
        return inputs, tuple(after)

    def _layer_input(self, depth: int, inputs: Tensor, extra_input: Tensor | None) -> Tensor:
        dropped = self.dropout(inputs) if depth > 0 else inputs
        if extra_input is None or depth != self.extra_input_layer:
            return dropped
        return torch.cat([dropped, extra_input], dim=-1)

    def _add_residual(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        return outputs + inputs if self.residual and outputs.shape == inputs.shape else outputs


def initialize(cell: Cell, how: Initialization) -> None:
    """Initialises the recurrent weights of a cell, and for `uniform` its input weights; see `Stack`."""
    size = cell.hidden_size
    if how == "uniform":
        for weight in (cell.weight_input, cell.weight_hidden):
            nn.init.uniform_(weight, -(size**-0.5), size**-0.5)
        return
    for block in cell.weight_hidden.data.view(-1, size, size):
        nn.init.orthogonal_(block) if how == "orthogonal" else nn.init.eye_(block)


def named_stacks(model: nn.Module) -> Iterator[tuple[str, Stack]]:
    """Yields every stack in a model with its short name: `encoder`, or `stack` for the model itself."""
    for path, module in model.named_modules():
        if isinstance(module, Stack):
            yield path.removesuffix("stack").strip(".") or "stack", module


class NonFiniteError(FloatingPointError):
    """A value is infinite or not a number.

    Attributes:
        stack: the stack in which it was found.
        what: such as `the input of layer 1`.
        step, example: counted from 1.
    """

    def __init__(self, stack: nn.Module, what: str, step: int, example: int) -> None:
        super().__init__(f"{what} is not finite at step {step} of example {example}")
        self.stack, self.what, self.step, self.example = stack, what, step, example


def check_finite(stack: nn.Module, what: str, values: Tensor, mask: Tensor | None) -> None:
    """Checks that all values are finite, if `torch.autograd.set_detect_anomaly` is on: it takes a pass over the data.

    Args:
        stack: in which the values occur.
        what: name of the values in the message.
        values: `(batch, time, features)`.
        mask: `(batch, time)`, bool; padding may be anything.

    Raises:
        NonFiniteError: names the first step with a value that is not finite.
    """
    if not torch.is_anomaly_enabled():
        return
    wrong = ~values.isfinite().all(-1)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        step, example = (int(index) + 1 for index in wrong.t().nonzero()[0])
        raise NonFiniteError(stack, what, step, example)
