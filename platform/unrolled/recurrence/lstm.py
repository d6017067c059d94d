"""Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers, Schmidhuber & Cummins 2000)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State


class LSTM(Cell):
    """Gates in the order i, f, g, o:

        i = σ(W_i x + U_i h + b_i)        input gate
        f = σ(W_f x + U_f h + b_f)        forget gate
        g = tanh(W_g x + U_g h + b_g)     candidate
        o = σ(W_o x + U_o h + b_o)        output gate
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    b_f starts at 1, so that the cell remembers before it has learned to (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    gates = 4
    tensors = 2
    kernel = "lstm"

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.bias.data.chunk(self.gates)[1])

    def step(self, projected: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = torch.addmm(projected, h, self.weight_hidden.t()).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
