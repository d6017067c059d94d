"""What every recurrent cell shares: its parameters, their first values, and the product with the input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

State = tuple[Tensor, ...]
"""The tensors `(batch, hidden)` that a cell carries from step to step; the first one is its output h."""


class Cell(nn.Module, ABC):
    """One step of recurrence: parameters and equations, without time.

    `project` holds all that depends on the input alone, so that a scan computes it for every step in one
    matrix product; `step` is the rest. Matrices of several gates are stacked along their first dimension in
    the order that the cell's equations give.

    Args:
        input_size: features of the input x.
        hidden_size: features of the state h.
    """

    gates: ClassVar[int]
    """Stacked blocks of `hidden_size` rows in the weights."""
    tensors: ClassVar[int] = 1
    """Tensors in the state."""
    kernel: ClassVar[str | None] = None
    """The function of `torch` that computes the same equations over a whole sequence, if there is one."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_input = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(self.gates * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(self.gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Input weights as Glorot & Bengio 2010, recurrent weights orthogonal (Saxe et al. 2014), gate by gate."""
        for block in self.weight_input.data.chunk(self.gates):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hidden.data.chunk(self.gates):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.bias)

    def zeros(self, batch: int) -> State:
        """Returns the state before the first step: `tensors` zeros of `(batch, hidden)`."""
        return tuple(self.bias.new_zeros(batch, self.hidden_size) for _ in range(self.tensors))

    def project(self, inputs: Tensor) -> Tensor:
        """`(…, input_size)` → `(…, gates · hidden_size)`: the input's share of every gate, with its bias."""
        return functional.linear(inputs, self.weight_input, self.bias)

    @abstractmethod
    def step(self, projected: Tensor, state: State) -> State:
        """One step: `projected` `(batch, gates · hidden_size)` and the state before it give the state after it."""

    def kernel_weights(self) -> list[Tensor]:
        """Returns `[W_ih, W_hh, b_ih, b_hh]` as torch's own kernels want them."""
        return [self.weight_input, self.weight_hidden, self.bias, torch.zeros_like(self.bias)]
