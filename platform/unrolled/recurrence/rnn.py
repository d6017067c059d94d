"""The vanilla recurrent network (Elman, "Finding structure in time", 1990)."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell, State


class RNN(Cell):
    """h_t = tanh(W x_t + U h_{t-1} + b)."""

    gates = 1
    kernel = "rnn_tanh"

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        return (torch.tanh(torch.addmm(projected, h, self.weight_hidden.t())),)
