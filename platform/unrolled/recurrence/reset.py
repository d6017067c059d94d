"""What the cells share whose reset gate acts before the product: the GRU of Cho et al. 2014 and MUT1–3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.recurrence import gpu
from unrolled.recurrence.cell import Cell, State, sigmoid_backward, tanh_backward
from unrolled.recurrence.product import Product


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

    gates = 3
    spans = ((0, 2), (0, 1), (1, 2), (2, 3))
    saved = 1  # r ⊙ h

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.writes:
            nn.init.constant_(self.bias.data.chunk(self.gates)[1], -1.0)

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[Product],
    ) -> None:
        (h,), (r_z, r, z, n) = state, gates
        summed = hidden[0](h)
        more = hidden[1](torch.tanh(h)) if len(self.products) == 3 else None
        if gpu.applies(summed):
            width = self.products[0] if more is None else 3
            gpu.run("reset_gates", h, r_z, summed, summed if more is None else more, h, saved[0], width=width)
            return gpu.run("reset_mix", h, r_z, hidden[-1](saved[0]), h, after[0], writes=int(self.writes))
        (r_z if self.products[0] == 2 else r).add_(summed)
        if more is not None:
            z.add_(more)
        r_z.sigmoid_()
        candidate = hidden[-1](torch.mul(r, h, out=saved[0])).add_(n).tanh_()
        n.copy_(candidate)
        torch.lerp(h, candidate, z, out=after[0]) if self.writes else torch.lerp(candidate, h, z, out=after[0])
        return None

    def step_backward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        gradient: State,
        hidden: Sequence[Product],
    ) -> State:
        (dh,), (h,), (r_z, r, z, n) = gradient, state, gates
        if gpu.applies(dh):
            kept = torch.empty_like(dh)
            gpu.run("reset_mix_backward", dh, r_z, h, dh, kept, writes=int(self.writes))
            gpu.run("reset_gates_backward", dh, r_z, hidden[-1](n), h, kept)
        else:
            kept = self._mix_backward(dh, h, z, n)
            d_reset = hidden[-1](n)
            kept.addcmul_(d_reset, r)
            sigmoid_backward(d_reset.mul_(h), r, grad_input=r)
        if len(self.products) == 3:
            squashed = torch.tanh(h)
            kept.add_(tanh_backward(hidden[1](z), squashed, grad_input=squashed))
        return (hidden[0].plus(r_z if self.products[0] == 2 else r, kept),)

    def _mix_backward(self, dh: Tensor, h: Tensor, z: Tensor, n: Tensor) -> Tensor:
        """Overwrites z and n by the gradients of their sums; returns what of dh passes by them."""
        dz = (torch.sub(n, h) if self.writes else torch.sub(h, n)).mul_(dh)
        by_z = dh * z
        into_n, kept = (by_z, dh.sub_(by_z)) if self.writes else (dh.sub_(by_z), by_z)
        tanh_backward(into_n, n, grad_input=n)
        sigmoid_backward(dz, z, grad_input=z)
        return kept

    def recurrent_pairs(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        size, (h,) = self.hidden_size, before
        pairs = [(gates[:, : self.products[0] * size], h), (gates[:, 2 * size :], saved[0])]
        if len(self.products) == 3:
            pairs.insert(1, (gates[:, size : 2 * size], torch.tanh(h)))
        return pairs
