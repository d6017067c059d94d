"""MUT1, MUT2 and MUT3: the cells that an evolutionary search over thousands of architectures found best
(Jozefowicz, Zaremba & Sutskever, "An empirical exploration of recurrent network architectures", 2015).

As printed, MUT1's candidate and MUT2's reset gate add the input x itself to a vector of the state's size, which
needs both sizes to be equal. Where they differ, x̂ = W_x x with a learned matrix without bias stands for x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.cell import State, tanh_backward
from unrolled.recurrence.gru import ResetBefore
from unrolled.recurrence.layer_norm import affine, affine_backward
from unrolled.recurrence.matmul import weight_gradient


class _Direct(ResetBefore):
    """A cell in which one gate takes the input without weights of its own."""

    input_blocks = 2
    z_gates_candidate = True
    direct_first: ClassVar[bool]
    """Whether that gate is the first one (else the last)."""

    def __init__(self, input_size: int, hidden_size: int, *, layer_norm: bool = False) -> None:
        super().__init__(input_size, hidden_size, layer_norm=layer_norm)
        self.weight_match: nn.Parameter | None = None
        if input_size != hidden_size:
            self.weight_match = nn.Parameter(torch.empty(hidden_size, input_size))
            nn.init.xavier_uniform_(self.weight_match)

    def _direct(self, inputs: Tensor) -> Tensor:
        """x̂, in the type of x."""
        if self.weight_match is None:
            return inputs
        return functional.linear(inputs, self.weight_match.to(inputs.dtype))

    def project_forward(self, inputs: Tensor, gates: Tensor) -> tuple[Tensor, ...]:
        (low, high), (first, last) = self._columns()
        kept = affine(inputs, self.weight_input, self.bias[low:high], self.gain_input, gates[:, low:high])
        gate = gates[:, first:last]
        self._squash(self._direct(inputs), gate)
        gate.add_(self.bias[first:last].to(gates.dtype))
        return kept

    def project_backward(
        self, inputs: Tensor, kept: Sequence[Tensor], errors: Tensor, into: Tensor
    ) -> tuple[Tensor, ...]:
        (low, high), (first, last) = self._columns()
        direct, match = self._squash_backward(errors[:, first:last], inputs), []
        if self.weight_match is not None:
            match.append(torch.empty_like(self.weight_match))
            weight_gradient(direct, inputs, match[0])
        weight, _, *gain = affine_backward(inputs, kept, errors[:, low:high], self.weight_input, self.gain_input, into)
        if self.weight_match is None:
            into.add_(direct)
        else:
            into.addmm_(direct, self.weight_match.to(errors.dtype))
        return weight, errors.sum(0).to(self.bias.dtype), *gain, *match

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        match = () if self.weight_match is None else (self.weight_match,)
        return *super().input_parameters(), *match

    def _columns(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The columns of the gates that the weighted input fills, and those of the input itself."""
        size = self.hidden_size
        return ((size, 3 * size), (0, size)) if self.direct_first else ((0, 2 * size), (2 * size, 3 * size))

    def _squash(self, matched: Tensor, into: Tensor) -> None:
        """Fills `into` with what the gate takes of x̂."""
        into.copy_(matched)

    def _squash_backward(self, error: Tensor, inputs: Tensor) -> Tensor:
        """From the gradient of what `_squash` gave to that of x̂."""
        return error


class MUT1(_Direct):
    """Gates in the order r, z, n:

    z = σ(W_z x + b_z)
    r = σ(W_r x + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + tanh(x̂) + b_n) ⊙ z + h ⊙ (1 − z)
    """

    recurrent_blocks = (1, 1)
    native_kind = "reset"
    direct_first = False

    def project(self, inputs: Tensor) -> Tensor:
        size = self.hidden_size
        weighted = self.project_input(inputs) + self.bias[: 2 * size]
        return torch.cat([weighted, torch.tanh(self._direct(inputs)) + self.bias[2 * size :]], dim=-1)

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        r, z, n = projected.chunk(3, dim=-1)
        z = torch.sigmoid(z)
        r = torch.sigmoid(self.project_hidden(0, h, r))
        n = torch.tanh(self.project_hidden(1, r * h, n))
        return (n * z + h * (1 - z),)

    def _squash(self, matched: Tensor, into: Tensor) -> None:
        torch.tanh(matched, out=into)

    def _squash_backward(self, error: Tensor, inputs: Tensor) -> Tensor:
        squashed = torch.tanh(self._direct(inputs))  # once more, rather than kept over the whole pass
        into: Tensor = tanh_backward(error, squashed, grad_input=squashed)
        return into


class MUT2(_Direct):
    """Gates in the order r, z, n:

    z = σ(W_z x + U_z h + b_z)
    r = σ(x̂ + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + W_n x + b_n) ⊙ z + h ⊙ (1 − z)
    """

    recurrent_blocks = (2, 1)
    native_kind = "reset"
    direct_first = True

    def project(self, inputs: Tensor) -> Tensor:
        size = self.hidden_size
        weighted = self.project_input(inputs) + self.bias[size:]
        return torch.cat([self._direct(inputs) + self.bias[:size], weighted], dim=-1)

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        size = self.hidden_size
        r, z = torch.sigmoid(self.project_hidden(0, h, projected[:, : 2 * size])).chunk(2, dim=-1)
        n = torch.tanh(self.project_hidden(1, r * h, projected[:, 2 * size :]))
        return (n * z + h * (1 - z),)


class MUT3(ResetBefore):
    """Gates in the order r, z, n:

    z = σ(W_z x + U_z tanh(h) + b_z)
    r = σ(W_r x + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + W_n x + b_n) ⊙ z + h ⊙ (1 − z)
    """

    recurrent_blocks = (1, 1, 1)
    native_kind = "reset"
    z_gates_candidate = True

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        r, z, n = projected.chunk(3, dim=-1)
        z = torch.sigmoid(self.project_hidden(1, torch.tanh(h), z))
        r = torch.sigmoid(self.project_hidden(0, h, r))
        n = torch.tanh(self.project_hidden(2, r * h, n))
        return (n * z + h * (1 - z),)
