"""Gated recurrent units: Cho et al. 2014 and the form of cuDNN.

What the cells share whose reset gate acts before the product: the GRU of Cho et al. 2014 and MUT1–3.

The gated recurrent unit in its two forms: as Cho et al. 2014 wrote it, and as cuDNN and torch compute it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, sigmoid_backward, tanh_backward
from unrolled.recurrence.matmul import PackedLinear


class ResetBefore(Cell):
    """A cell of the form, gates in the order r, z, n:

        r = σ(a_r + U_r h)
        z = σ(a_z + U_z φ(h))         φ: h itself, tanh or nothing at all
        n = tanh(a_n + U_n (r ⊙ h))
        h' = h and n mixed by z

    where a is the projected input. The subclasses write their equations in `step`; the derivative is here. Where z is
    the share of the candidate, its bias starts at −1, so that a step keeps σ(1) of the state, as the LSTM's forget gate
    does: MUT1's z sees the input alone and would take long to learn to keep.
    """

    num_gates = 3
    gate_slices = ((0, 2), (0, 1), (1, 2), (2, 3))
    num_saved = 1  # r ⊙ h

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.z_gates_candidate:
            nn.init.constant_(self.bias.data.chunk(self.num_gates)[1], -1.0)

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        (h,), (r_z, r, z, n) = state, gates
        summed = hidden[0](h)
        more = hidden[1](torch.tanh(h)) if len(self.recurrent_blocks) == 3 else None
        if triton_steps.applies(summed):
            width = self.recurrent_blocks[0] if more is None else 3
            triton_steps.run("reset_gates", h, r_z, summed, summed if more is None else more, h, saved[0], width=width)
            return triton_steps.run(
                "reset_mix", h, r_z, hidden[-1](saved[0]), h, after[0], writes=int(self.z_gates_candidate)
            )
        (r_z if self.recurrent_blocks[0] == 2 else r).add_(summed)
        if more is not None:
            z.add_(more)
        r_z.sigmoid_()
        candidate = hidden[-1](torch.mul(r, h, out=saved[0])).add_(n).tanh_()
        n.copy_(candidate)
        torch.lerp(h, candidate, z, out=after[0]) if self.z_gates_candidate else torch.lerp(
            candidate, h, z, out=after[0]
        )
        return None

    def step_backward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        gradient: State,
        hidden: Sequence[PackedLinear],
    ) -> State:
        (dh,), (h,), (r_z, r, z, n) = gradient, state, gates
        if triton_steps.applies(dh):
            kept = torch.empty_like(dh)
            triton_steps.run("reset_mix_backward", dh, r_z, h, dh, kept, writes=int(self.z_gates_candidate))
            triton_steps.run("reset_gates_backward", dh, r_z, hidden[-1](n), h, kept)
        else:
            kept = self._mix_backward(dh, h, z, n)
            d_reset = hidden[-1](n)
            kept.addcmul_(d_reset, r)
            sigmoid_backward(d_reset.mul_(h), r, grad_input=r)
        if len(self.recurrent_blocks) == 3:
            squashed = torch.tanh(h)
            kept.add_(tanh_backward(hidden[1](z), squashed, grad_input=squashed))
        return (hidden[0].plus(r_z if self.recurrent_blocks[0] == 2 else r, kept),)

    def _mix_backward(self, dh: Tensor, h: Tensor, z: Tensor, n: Tensor) -> Tensor:
        """Overwrites z and n by the gradients of their sums; returns what of dh passes by them."""
        dz = (torch.sub(n, h) if self.z_gates_candidate else torch.sub(h, n)).mul_(dh)
        by_z = dh * z
        into_n, kept = (by_z, dh.sub_(by_z)) if self.z_gates_candidate else (dh.sub_(by_z), by_z)
        tanh_backward(into_n, n, grad_input=n)
        sigmoid_backward(dz, z, grad_input=z)
        return kept

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        size, (h,) = self.hidden_size, before
        pairs = [(gates[:, : self.recurrent_blocks[0] * size], h), (gates[:, 2 * size :], saved[0])]
        if len(self.recurrent_blocks) == 3:
            pairs.insert(1, (gates[:, size : 2 * size], torch.tanh(h)))
        return pairs


class GRU(Cell):
    """The form of cuDNN and torch: reset after the product. Gates in the order r, z, n:

        r = σ(W_r x + U_r h + b_r)                  reset gate
        z = σ(W_z x + U_z h + b_z)                  update gate
        n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))   candidate
        h' = (1 − z) ⊙ n + z ⊙ h

    c_n stands inside the reset, so it cannot be merged with b_n.
    """

    num_gates = 3
    gate_slices = ((0, 2), (0, 1), (1, 2), (2, 3))
    recurrent_blocks = (3,)
    num_saved = 1  # U_n h + c_n
    torch_function = "gru"
    native_kind = "gru"

    def __init__(self, input_size: int, hidden_size: int, *, layer_norm: bool = False) -> None:
        super().__init__(input_size, hidden_size, layer_norm=layer_norm)
        self.bias_reset = nn.Parameter(torch.zeros(hidden_size))

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        size = self.hidden_size
        recurrent = self.project_hidden(0, h)
        r, z = torch.sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size]).chunk(2, dim=-1)
        n = torch.tanh(projected[:, 2 * size :] + r * (recurrent[:, 2 * size :] + self.bias_reset))
        return (n + z * (h - n),)

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        (h,), (r_z, r, z, n), size = state, gates, self.hidden_size
        recurrent = hidden[0](h)
        if triton_steps.applies(recurrent):
            return triton_steps.run("gru_forward", h, r_z, recurrent, self.bias_reset, h, saved[0], after[0])
        r_z.add_(recurrent[:, : 2 * size]).sigmoid_()
        torch.add(recurrent[:, 2 * size :], self.bias_reset, out=saved[0])
        candidate = torch.addcmul(n, r, saved[0]).tanh_()
        n.copy_(candidate)
        torch.lerp(candidate, h, z, out=after[0])
        return None

    def step_backward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        gradient: State,
        hidden: Sequence[PackedLinear],
    ) -> State:
        (dh,), (h,), (reset,), (r_z, r, z, n) = gradient, state, saved, gates
        if triton_steps.applies(dh):
            errors, kept = dh.new_empty(len(dh), 3 * self.hidden_size), torch.empty_like(dh)
            triton_steps.run("gru_backward", dh, r_z, reset, h, dh, errors, kept)
            return (hidden[0].plus(errors, kept),)
        dz = torch.sub(h, n).mul_(dh)
        kept = dh * z
        tanh_backward(dh.sub_(kept), n, grad_input=n)
        sigmoid_backward(dz, z, grad_input=z)
        dr = torch.mul(n, reset, out=dz)
        torch.mul(n, r, out=reset)
        sigmoid_backward(dr, r, grad_input=r)
        return (hidden[0].plus(torch.cat([r_z, reset], dim=1), kept),)

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        return (self.bias_reset,)

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        reads_h = gates[:, : 2 * self.hidden_size]
        return [(reads_h, before[0]), (saved[0], before[0])]

    def extra_gradients(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return (saved[0].sum(0, dtype=self.bias_reset.dtype),)

    def native_parameter(self) -> Tensor:
        return self.bias_reset

    def torch_weights(self) -> list[Tensor]:
        gates = self.bias.new_zeros(2 * self.hidden_size)
        return [self.weight_input, self.weight_hidden, self.bias, torch.cat([gates, self.bias_reset])]


class ChoGRU(ResetBefore):
    """The form of Cho et al. 2014 (section 2.3): reset before the product. Gates in the order r, z, n:

    r = σ(W_r x + U_r h + b_r)              reset gate
    z = σ(W_z x + U_z h + b_z)              update gate
    n = tanh(W_n x + U_n (r ⊙ h) + b_n)     candidate
    h' = (1 − z) ⊙ n + z ⊙ h
    """

    recurrent_blocks = (2, 1)
    native_kind = "reset"

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        size = self.hidden_size
        r, z = torch.sigmoid(self.project_hidden(0, h, projected[:, : 2 * size])).chunk(2, dim=-1)
        n = torch.tanh(self.project_hidden(1, r * h, projected[:, 2 * size :]))
        return (n + z * (h - n),)
