"""The gated recurrent unit (Cho et al. 2014) in the form of cuDNN and torch: reset after the product."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.cell import Cell, State


class GRU(Cell):
    """Gates in the order r, z, n:

        r = σ(W_r x + U_r h + b_r)                  reset gate
        z = σ(W_z x + U_z h + b_z)                  update gate
        n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))   candidate
        h' = (1 − z) ⊙ n + z ⊙ h

    c_n stands inside the reset, so it cannot be merged with b_n.
    """

    gates = 3
    kernel = "gru"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.bias_reset = nn.Parameter(torch.zeros(hidden_size))

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        size = self.hidden_size
        recurrent = functional.linear(h, self.weight_hidden)
        r, z = torch.sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size]).chunk(2, dim=-1)
        n = torch.tanh(projected[:, 2 * size :] + r * (recurrent[:, 2 * size :] + self.bias_reset))
        return (n + z * (h - n),)

    def kernel_weights(self) -> list[Tensor]:
        gates = self.bias.new_zeros(2 * self.hidden_size)
        return [self.weight_input, self.weight_hidden, self.bias, torch.cat([gates, self.bias_reset])]
