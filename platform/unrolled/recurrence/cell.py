"""What every recurrent cell shares: its parameters, their first values, and the product with the input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.layer_norm import affine, affine_backward, normalized
from unrolled.recurrence.matmul import PackedLinear

State = tuple[Tensor, ...]
"""The tensors `(batch, hidden)` that a cell carries from step to step; the first one is its output h."""

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
"""`(∂L/∂y, y, grad_input=out)`: ∂L/∂a for y = σ(a)."""
tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""`(∂L/∂y, y, grad_input=out)`: ∂L/∂a for y = tanh(a)."""


class Cell(nn.Module, ABC):
    """One step of recurrence: parameters and equations, without time.

    `project` holds all that depends on the input alone, so that a scan computes it for every step in one
    matrix product; `step` is the rest, as its paper writes it. `step_forward` and `step_backward` are the same
    step into given memory and its derivative, both by hand: what the engine `bptt` runs. Matrices of several gates
    are stacked along their first dimension in the order that the cell's equations give.

    Args:
        input_size: features of the input x.
        hidden_size: features of the state h.
        layer_norm: normalise both summands of every gate, LN(W x) + LN(U h) + b, each with a gain of its own (Ba,
            Kiros & Hinton 2016, supplementary eq. 20–22 and 25–29; the memory cell is left as it is). A vector that
            one product gives is normalised as a whole.

    Raises:
        ValueError: a size below 1.
    """

    num_gates: ClassVar[int]
    """Blocks of `hidden_size` features in what `project` returns."""
    input_blocks: ClassVar[int | None] = None
    """Blocks of rows in the input weights, where they are not as many as the gates."""
    gate_slices: ClassVar[tuple[tuple[int, int], ...]]
    """The ranges of gates that `step_forward` and `step_backward` work on."""
    recurrent_blocks: ClassVar[tuple[int, ...]]
    """Blocks of rows in the recurrent weights, grouped by the vector that they multiply."""
    num_states: ClassVar[int] = 1
    """Tensors in the state."""
    num_saved: ClassVar[int] = 0
    """Tensors `(batch, hidden)` that a step leaves for its derivative besides gates and states."""
    torch_function: ClassVar[str | None] = None
    """The function of `torch` that computes the same equations over a whole sequence, if there is one."""

    native_kind: ClassVar[str]
    """The kind of steps in `compiled` that do the same as this class's, if there is one."""
    z_gates_candidate: ClassVar[bool] = False
    """Whether z is the share of the candidate in the new state (else of the old state)."""

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
        """Input weights as Glorot & Bengio 2010, recurrent weights orthogonal (Saxe et al. 2014), gate by gate."""
        for block in self.weight_input.data.view(-1, self.hidden_size, self.input_size):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hidden.data.view(-1, self.hidden_size, self.hidden_size):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.bias)

    def zeros(self, batch: int) -> State:
        """Returns the state before the first step: `tensors` zeros of `(batch, hidden)`."""
        return tuple(self.bias.new_zeros(batch, self.hidden_size) for _ in range(self.num_states))

    def project(self, inputs: Tensor) -> Tensor:
        """`(…, input_size)` → `(…, gates · hidden_size)`: the input's share of every gate, with its bias."""
        if self.gain_input is None:
            return functional.linear(inputs, self.weight_input, self.bias)
        return self.project_input(inputs) + self.bias

    @property
    def projects_linearly(self) -> bool:
        """Whether `project` is W x + b, so that the shares of parts of x can be added up."""
        return type(self).project_forward is Cell.project_forward and self.gain_input is None

    def project_input(self, inputs: Tensor) -> Tensor:
        """W x, layer-normalised where the cell is."""
        weighted = functional.linear(inputs, self.weight_input)
        if self.gain_input is None:
            return weighted
        return normalized(weighted, self.gain_input)

    def project_hidden(self, product: int, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """U x of one of the `products`, layer-normalised where the cell is, added to `onto` if there is one."""
        rows = self.rows()[product]
        if self.gain_hidden is None and onto is not None:
            return torch.addmm(onto, x, self.weight_hidden[rows].t())
        summed = functional.linear(x, self.weight_hidden[rows])
        if self.gain_hidden is not None:
            summed = normalized(summed, self.gain_hidden[rows])
        return summed if onto is None else onto + summed

    def rows(self) -> list[slice]:
        """The rows of the recurrent weights that each of the `products` takes."""
        edges = [blocks * self.hidden_size for blocks in accumulate(self.recurrent_blocks, initial=0)]
        return [slice(low, high) for low, high in pairwise(edges)]

    def project_forward(self, inputs: Tensor, gates: Tensor) -> tuple[Tensor, ...]:
        """`project` into given memory.

        Args:
            inputs: `(rows, input_size)`, of the type to multiply in, which may be narrower than the parameters'.
            gates: `(rows, gates · hidden_size)`, of the same type; is filled.

        Returns:
            What the derivative needs besides the inputs.
        """
        return affine(inputs, self.weight_input, self.bias, self.gain_input, gates)

    def project_backward(
        self, inputs: Tensor, kept: Sequence[Tensor], errors: Tensor, into: Tensor
    ) -> tuple[Tensor, ...]:
        """The derivative of `project_forward`.

        Args:
            inputs: what it was given.
            kept: what it returned.
            errors: ∂L/∂gates, `(rows, gates · hidden_size)`.
            into: is filled with ∂L/∂inputs; may be the memory of the inputs.

        Returns:
            The gradients of `input_parameters`.
        """
        return affine_backward(inputs, kept, errors, self.weight_input, self.gain_input, into)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that `project` uses: weights, bias, and the gain where there is one."""
        gain = () if self.gain_input is None else (self.gain_input,)
        return self.weight_input, self.bias, *gain

    @abstractmethod
    def step(self, projected: Tensor, state: State) -> State:
        """One step: `projected` `(batch, gates · hidden_size)` and the state before it give the state after it."""

    @abstractmethod
    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        """`step` into given memory.

        Args:
            gates: the `spans` of the projected input `(batch, gates · hidden_size)`, views of one tensor; overwritten
                by what the derivative needs.
            state: before the step.
            after: is filled with the state after the step.
            saved: `saved` tensors to fill for the derivative.
            hidden: products with the recurrent weights, one for each entry of `products`.
        """

    @abstractmethod
    def step_backward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        gradient: State,
        hidden: Sequence[PackedLinear],
    ) -> State:
        """The derivative of `step_forward`.

        Args:
            gates, saved: what the step left; overwritten by gradients: `gates` by that of the projected input.
            state, after: the states before and after the step.
            gradient: ∂L/∂after; may be overwritten.
            hidden: products with the transposed recurrent weights.

        Returns:
            ∂L/∂state.
        """

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that `step` uses besides recurrent weights and gain."""
        return ()

    @abstractmethod
    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """What the gradient of the recurrent weights is made of, over all steps at once.

        Args:
            gates, saved: `(time · batch, …)`, as `step_backward` left them.
            before, after: states before and after every step, `(time · batch, hidden)`.

        Returns:
            For the rows of the weights, from the first to the last: the gradients of what they gave, and what they
            multiplied.
        """

    def extra_gradients(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The gradients of `extra_parameters`; arguments as in `weight_grad_operands`."""
        return ()

    def native_parameter(self) -> Tensor | None:
        """The parameter that the steps of `loop` use besides the recurrent weights."""
        return None

    def torch_weights(self) -> list[Tensor]:
        """Returns `[W_ih, W_hh, b_ih, b_hh]` as torch's own kernels want them."""
        return [self.weight_input, self.weight_hidden, self.bias, torch.zeros_like(self.bias)]
