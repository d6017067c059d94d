"""MUT1, MUT2 and MUT3: the cells that an evolutionary search over thousands of architectures found best
(Jozefowicz, Zaremba & Sutskever, "An empirical exploration of recurrent network architectures", 2015).

As printed, MUT1's candidate and MUT2's reset gate add the input x itself to a vector of the state's size, which
needs both sizes to be equal. Where they differ, x̂ = W_x x with a learned matrix without bias stands for x.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.cell import State
from unrolled.recurrence.reset import ResetBefore


class _Direct(ResetBefore):
    """A cell in which one gate takes the input without weights of its own."""

    input_blocks = 2
    writes = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_match: nn.Parameter | None = None
        if input_size != hidden_size:
            self.weight_match = nn.Parameter(torch.empty(hidden_size, input_size))
            nn.init.xavier_uniform_(self.weight_match)

    def _direct(self, inputs: Tensor) -> Tensor:
        return inputs if self.weight_match is None else functional.linear(inputs, self.weight_match)


class MUT1(_Direct):
    """Gates in the order r, z, n:

    z = σ(W_z x + b_z)
    r = σ(W_r x + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + tanh(x̂) + b_n) ⊙ z + h ⊙ (1 − z)
    """

    products = (1, 1)

    def project(self, inputs: Tensor) -> Tensor:
        weighted = functional.linear(inputs, self.weight_input)
        return torch.cat([weighted, torch.tanh(self._direct(inputs))], dim=-1) + self.bias

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        u_r, u_n = self.weight_hidden.chunk(2)
        r, z, n = projected.chunk(3, dim=-1)
        z = torch.sigmoid(z)
        r = torch.sigmoid(torch.addmm(r, h, u_r.t()))
        n = torch.tanh(torch.addmm(n, r * h, u_n.t()))
        return (n * z + h * (1 - z),)


class MUT2(_Direct):
    """Gates in the order r, z, n:

    z = σ(W_z x + U_z h + b_z)
    r = σ(x̂ + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + W_n x + b_n) ⊙ z + h ⊙ (1 − z)
    """

    products = (2, 1)

    def project(self, inputs: Tensor) -> Tensor:
        weighted = functional.linear(inputs, self.weight_input)
        return torch.cat([self._direct(inputs), weighted], dim=-1) + self.bias

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        u_r, u_z, u_n = self.weight_hidden.chunk(3)
        r, z, n = projected.chunk(3, dim=-1)
        z = torch.sigmoid(torch.addmm(z, h, u_z.t()))
        r = torch.sigmoid(torch.addmm(r, h, u_r.t()))
        n = torch.tanh(torch.addmm(n, r * h, u_n.t()))
        return (n * z + h * (1 - z),)


class MUT3(ResetBefore):
    """Gates in the order r, z, n:

    z = σ(W_z x + U_z tanh(h) + b_z)
    r = σ(W_r x + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + W_n x + b_n) ⊙ z + h ⊙ (1 − z)
    """

    products = (1, 1, 1)
    writes = True

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        u_r, u_z, u_n = self.weight_hidden.chunk(3)
        r, z, n = projected.chunk(3, dim=-1)
        z = torch.sigmoid(torch.addmm(z, torch.tanh(h), u_z.t()))
        r = torch.sigmoid(torch.addmm(r, h, u_r.t()))
        n = torch.tanh(torch.addmm(n, r * h, u_n.t()))
        return (n * z + h * (1 - z),)
