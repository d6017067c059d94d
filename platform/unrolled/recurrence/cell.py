"""Base class of recurrent cells: parameters, their initialisation, and the interface of one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence import triton_steps
from unrolled.recurrence.layer_norm import layer_normalize, normalized_affine, normalized_affine_backward
from unrolled.recurrence.matmul import PackedLinear, linear, linear_backward

State = tuple[Tensor, ...]
"""Tensors `(batch, hidden)` that a cell carries from step to step; the first one is its output h."""

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
"""`(∂L/∂y, y, grad_input=out)`: ∂L/∂a for y = σ(a)."""
tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""`(∂L/∂y, y, grad_input=out)`: ∂L/∂a for y = tanh(a)."""


def uses_triton(tensor: Tensor) -> bool:
    """Whether the element-wise part of a step on tensors like this one runs as a Triton kernel."""
    return (tensor.is_cuda or triton_steps.INTERPRETED) and triton_steps.applies(tensor)


class StepBuffers(NamedTuple):
    """Preallocated memory of one step, or of all steps as one batch of `time · batch` rows.

    Attributes:
        gates: the `gate_slices` of the projected input `(batch, num_gates · hidden)`, views of one tensor. The forward
            step overwrites them with what the derivative needs, the backward step with ∂L/∂(projected input).
        before: state before the step.
        after: state after the step; the forward step fills it.
        saved: `num_saved` tensors `(batch, hidden)` that the forward step fills for the derivative and the backward
            step may overwrite with gradients.
        recurrent: products with the recurrent weights, one per entry of `recurrent_blocks`; in the backward step with
            their transposes.
    """

    gates: Sequence[Tensor]
    before: State
    after: State
    saved: Sequence[Tensor]
    recurrent: Sequence[PackedLinear] = ()


class Cell(nn.Module, ABC):
    """One step of recurrence: parameters and equations, without time.

    `project` computes everything that depends on the input alone, so that a scan does it for all steps in one matrix
    product; `step` is the rest, as its paper writes it. `step_forward` and `step_backward` are the same step in
    preallocated memory and its hand-written derivative, used by the engine `bptt`. Matrices of several gates are
    stacked along the first dimension in the order of the cell's equations.

    Args:
        input_size: features of the input x.
        hidden_size: features of the state h.
        layer_norm: normalises both summands of every gate, LN(W x) + LN(U h) + b, each with its own gain (Ba, Kiros &
            Hinton 2016, supplementary eq. 20–22 and 25–29; the memory cell is not normalised). The result of one
            matrix product is normalised as one vector.

    Raises:
        ValueError: a size below 1.
    """

    num_gates: ClassVar[int]
    """Blocks of `hidden_size` features in the result of `project`."""
    input_blocks: ClassVar[int | None] = None
    """Blocks of rows in the input weights, if not `num_gates`."""
    gate_slices: ClassVar[tuple[tuple[int, int], ...]]
    """Ranges of gates that `step_forward` and `step_backward` work on."""
    recurrent_blocks: ClassVar[tuple[int, ...]]
    """Blocks of rows in the recurrent weights, grouped by the vector that they multiply."""
    num_states: ClassVar[int] = 1
    """Tensors in the state."""
    num_saved: ClassVar[int] = 0
    """Tensors `(batch, hidden)` that a step saves for its derivative besides gates and states."""
    torch_function: ClassVar[str | None] = None
    """Function of `torch` that computes the same equations over a whole sequence, if there is one."""
    native_kind: ClassVar[str]
    """Kind of step of `scan.c` that computes the same equations, if there is one."""
    z_gates_candidate: ClassVar[bool] = False
    """Whether z weights the candidate in the new state (else the old state)."""

    def __init__(self, input_size: int, hidden_size: int, *, layer_norm: bool = False) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"a cell of {input_size} input and {hidden_size} hidden features: both must be 1 or more")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_input = nn.Parameter(torch.empty((self.input_blocks or self.num_gates) * hidden_size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(sum(self.recurrent_blocks) * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(self.num_gates * hidden_size))
        self.gain_input, self.gain_hidden = (
            nn.Parameter(torch.ones(len(weight))) if layer_norm else None
            for weight in (self.weight_input, self.weight_hidden)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises input weights as Glorot & Bengio 2010, recurrent weights orthogonally (Saxe et al. 2014), gate by
        gate, biases with zeros."""
        for block in self.weight_input.data.view(-1, self.hidden_size, self.input_size):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hidden.data.view(-1, self.hidden_size, self.hidden_size):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.bias)

    def zeros(self, batch: int) -> State:
        """Returns a state of zeros: `num_states` tensors `(batch, hidden)`."""
        return tuple(self.bias.new_zeros(batch, self.hidden_size) for _ in range(self.num_states))

    def project(self, inputs: Tensor) -> Tensor:
        """`(…, input_size)` → `(…, num_gates · hidden_size)`: the input's part of every gate, with its bias."""
        if self.gain_input is None:
            return functional.linear(inputs, self.weight_input, self.bias)
        return self.project_input(inputs) + self.bias

    @abstractmethod
    def step(self, projected: Tensor, state: State) -> State:
        """Computes the next state from `projected` `(batch, num_gates · hidden_size)` and the state."""

    @property
    def projects_linearly(self) -> bool:
        """Whether `project` is W x + b, so that the projections of parts of x can be summed."""
        return type(self).project_forward is Cell.project_forward and self.gain_input is None

    def project_input(self, inputs: Tensor) -> Tensor:
        """W x, layer-normalised if the cell is."""
        projected = functional.linear(inputs, self.weight_input)
        return projected if self.gain_input is None else layer_normalize(projected, self.gain_input)

    def project_hidden(self, block: int, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """U x for one of the `recurrent_blocks`, layer-normalised if the cell is, plus `addend` if given."""
        rows = self.recurrent_rows()[block]
        if self.gain_hidden is None and addend is not None:
            return torch.addmm(addend, x, self.weight_hidden[rows].t())
        projected = functional.linear(x, self.weight_hidden[rows])
        if self.gain_hidden is not None:
            projected = layer_normalize(projected, self.gain_hidden[rows])
        return projected if addend is None else addend + projected

    def recurrent_rows(self) -> list[slice]:
        """Returns the rows of the recurrent weights of each of the `recurrent_blocks`."""
        edges = [blocks * self.hidden_size for blocks in accumulate(self.recurrent_blocks, initial=0)]
        return [slice(low, high) for low, high in pairwise(edges)]

    def recurrent_products(self, batch: int, steps: int, *, bf16: bool, transposed: bool = False) -> list[PackedLinear]:
        """Returns the products with each of the `recurrent_blocks`, or with their transposes, for a loop of `steps`."""
        weights = [self.weight_hidden.detach()[rows] for rows in self.recurrent_rows()]
        return [PackedLinear(weight.t() if transposed else weight, batch, steps, bf16) for weight in weights]

    def slice_gates(self, gates: Tensor) -> tuple[Tensor, ...]:
        """Returns the `gate_slices` of `gates` `(…, num_gates · hidden)` as views."""
        size = self.hidden_size
        return tuple(gates[..., low * size : high * size] for low, high in self.gate_slices)

    def project_forward(self, inputs: Tensor, gates: Tensor) -> tuple[Tensor, ...]:
        """`project` into preallocated memory.

        Args:
            inputs: `(rows, input_size)`, in the type to multiply in, which may be narrower than the parameters'.
            gates: `(rows, num_gates · hidden_size)`, of the same type; is filled.

        Returns:
            Tensors that the derivative needs besides the inputs.
        """
        return self._affine(inputs, self.bias, gates)

    def project_backward(
        self, inputs: Tensor, saved: Sequence[Tensor], grad_gates: Tensor, grad_inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Derivative of `project_forward`.

        Args:
            inputs: its argument.
            saved: its result.
            grad_gates: ∂L/∂gates, `(rows, num_gates · hidden_size)`.
            grad_inputs: is filled with ∂L/∂inputs; may be the memory of the inputs.

        Returns:
            The gradients of `input_parameters`.
        """
        return self._affine_backward(inputs, saved, grad_gates, grad_inputs)

    def _affine(self, inputs: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, ...]:
        """Fills `out` with W x + b, layer-normalised where the cell is; returns what the derivative needs."""
        if self.gain_input is None:
            linear(inputs, self.weight_input, bias, out)
            return ()
        return normalized_affine(inputs, self.weight_input, bias, self.gain_input, out)

    def _affine_backward(
        self, inputs: Tensor, saved: Sequence[Tensor], grad_out: Tensor, grad_inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Derivative of `_affine`: the gradients of weight, bias and gain."""
        if self.gain_input is None:
            return linear_backward(inputs, grad_out, self.weight_input, grad_inputs)
        return normalized_affine_backward(inputs, saved, grad_out, self.weight_input, self.gain_input, grad_inputs)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters that `project` uses: weights, bias, and the gain if there is one."""
        gain = () if self.gain_input is None else (self.gain_input,)
        return self.weight_input, self.bias, *gain

    @abstractmethod
    def step_forward(self, buffers: StepBuffers) -> None:
        """`step` in preallocated memory."""

    @abstractmethod
    def step_backward(self, buffers: StepBuffers, gradient: State) -> State:
        """Derivative of `step_forward`: ∂L/∂after, which may be overwritten → ∂L/∂before."""

    @abstractmethod
    def weight_grad_operands(self, buffers: StepBuffers) -> list[tuple[Tensor, Tensor]]:
        """Factors of the gradient of the recurrent weights, of all steps after their `step_backward`.

        Returns:
            Per block of rows of the weights, first to last: gradients of the products `(time · batch, outputs)`, and
            the vectors that were multiplied.
        """

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters that `step` uses besides recurrent weights and gain."""
        return ()

    def extra_gradients(self, buffers: StepBuffers) -> tuple[Tensor, ...]:
        """Gradients of `extra_parameters`, of all steps after their `step_backward`."""
        return ()

    def native_parameter(self) -> Tensor | None:
        """Parameter that the step of `native_kind` uses besides the recurrent weights."""
        return None

    def torch_weights(self) -> list[Tensor]:
        """Returns `[W_ih, W_hh, b_ih, b_hh]` as torch's own functions expect them."""
        return [self.weight_input, self.weight_hidden, self.bias, torch.zeros_like(self.bias)]
