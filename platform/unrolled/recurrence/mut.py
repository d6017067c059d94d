"""The cells MUT1, MUT2 and MUT3.

An evolutionary search over thousands of architectures found them best (Jozefowicz, Zaremba & Sutskever, "An empirical
exploration of recurrent network architectures", 2015).

As printed, MUT1's candidate and MUT2's reset gate add the input x itself to a vector of the state's size, which
requires equal sizes. Otherwise x̂ = W_x x, with a learned matrix without bias, takes the place of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.recurrence.cell import State, tanh_backward
from unrolled.recurrence.gru import ResetBeforeProduct
from unrolled.recurrence.matmul import weight_gradient


class _DirectInput(ResetBeforeProduct):
    """Base of cells in which one gate reads the input x̂ without weights of its own."""

    input_blocks = 2
    z_gates_candidate = True
    direct_gate_first: ClassVar[bool]
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
        saved = self._affine(inputs, self.bias[low:high], gates[:, low:high])
        gate = gates[:, first:last]
        self._activate(self._direct(inputs), gate)
        gate.add_(self.bias[first:last].to(gates.dtype))
        return saved

    def project_backward(
        self, inputs: Tensor, saved: Sequence[Tensor], grad_gates: Tensor, grad_inputs: Tensor
    ) -> tuple[Tensor, ...]:
        (low, high), (first, last) = self._columns()
        grad_direct, match = self._activate_backward(grad_gates[:, first:last], inputs), []
        if self.weight_match is not None:
            match.append(torch.empty_like(self.weight_match))
            weight_gradient(grad_direct, inputs, match[0])
        weight, _, *gain = self._affine_backward(inputs, saved, grad_gates[:, low:high], grad_inputs)
        if self.weight_match is None:
            grad_inputs.add_(grad_direct)
        else:
            grad_inputs.addmm_(grad_direct, self.weight_match.to(grad_gates.dtype))
        return weight, grad_gates.sum(0).to(self.bias.dtype), *gain, *match

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        match = () if self.weight_match is None else (self.weight_match,)
        return *super().input_parameters(), *match

    def _columns(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Columns of the gates that read the weighted input, and of the one that reads x̂."""
        size = self.hidden_size
        return ((size, 3 * size), (0, size)) if self.direct_gate_first else ((0, 2 * size), (2 * size, 3 * size))

    def _activate(self, direct: Tensor, out: Tensor) -> None:
        """Fills `out` with the gate's function of x̂."""
        out.copy_(direct)

    def _activate_backward(self, grad: Tensor, inputs: Tensor) -> Tensor:
        """Gradient of the result of `_activate` → gradient of x̂."""
        return grad


class MUT1(_DirectInput):
    """MUT1; gates in the order r, z, n:

    z = σ(W_z x + b_z)
    r = σ(W_r x + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + tanh(x̂) + b_n) ⊙ z + h ⊙ (1 − z)
    """

    recurrent_blocks = (1, 1)
    native_kind = "reset"
    direct_gate_first = False

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

    def _activate(self, direct: Tensor, out: Tensor) -> None:
        torch.tanh(direct, out=out)

    def _activate_backward(self, grad: Tensor, inputs: Tensor) -> Tensor:
        activated = torch.tanh(self._direct(inputs))  # recomputed rather than held over the whole pass
        grad_direct: Tensor = tanh_backward(grad, activated, grad_input=activated)
        return grad_direct


class MUT2(_DirectInput):
    """MUT2; gates in the order r, z, n:

    z = σ(W_z x + U_z h + b_z)
    r = σ(x̂ + U_r h + b_r)
    h' = tanh(U_n (r ⊙ h) + W_n x + b_n) ⊙ z + h ⊙ (1 − z)
    """

    recurrent_blocks = (2, 1)
    native_kind = "reset"
    direct_gate_first = True

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


class MUT3(ResetBeforeProduct):
    """MUT3; gates in the order r, z, n:

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
