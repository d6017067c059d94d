"""What the cells share whose reset gate acts before the product: the GRU of Cho et al. 2014 and MUT1–3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from unrolled.recurrence.cell import Cell, State, sigmoid_backward, tanh_backward
from unrolled.recurrence.product import Product


class ResetBefore(Cell):
    """A cell of the form, gates in the order r, z, n:

        r = σ(a_r + U_r h)
        z = σ(a_z + U_z φ(h))         φ: h itself, tanh or nothing at all
        n = tanh(a_n + U_n (r ⊙ h))
        h' = h and n mixed by z

    where a is the projected input. The subclasses write their equations in `step`; the derivative is here.
    """

    gates = 3
    saved = 1  # r ⊙ h
    writes: ClassVar[bool] = False
    """Whether z is the share of the candidate in the new state (else of the old state)."""

    def step_forward(
        self, gates: Tensor, state: State, after: State, saved: Sequence[Tensor], hidden: Sequence[Product]
    ) -> None:
        (h,), size, reads_h = state, self.hidden_size, self.products[0] * self.hidden_size
        gates[:, :reads_h] = hidden[0].plus(h, gates[:, :reads_h])
        if len(self.products) == 3:
            gates[:, size : 2 * size].add_(hidden[1](torch.tanh(h)))
        gates[:, : 2 * size].sigmoid_()
        r, z, n = gates.chunk(3, dim=1)
        torch.tanh(hidden[-1].plus(torch.mul(r, h, out=saved[0]), n), out=n)
        torch.lerp(h, n, z, out=after[0]) if self.writes else torch.lerp(n, h, z, out=after[0])

    def step_backward(
        self,
        gates: Tensor,
        state: State,
        after: State,
        saved: Sequence[Tensor],
        gradient: State,
        hidden: Sequence[Product],
    ) -> State:
        (dh,), (h,), size = gradient, state, self.hidden_size
        r, z, n = gates.chunk(3, dim=1)
        dz = (torch.sub(n, h) if self.writes else torch.sub(h, n)).mul_(dh)
        by_z = dh * z
        into_n, kept = (by_z, dh.sub_(by_z)) if self.writes else (dh.sub_(by_z), by_z)
        tanh_backward(into_n, n, grad_input=n)
        sigmoid_backward(dz, z, grad_input=z)
        d_reset = hidden[-1](n)
        kept.addcmul_(d_reset, r)
        sigmoid_backward(d_reset.mul_(h), r, grad_input=r)
        if len(self.products) == 3:
            squashed = torch.tanh(h)
            kept.add_(tanh_backward(hidden[1](z), squashed, grad_input=squashed))
        return (hidden[0].plus(gates[:, : self.products[0] * size], kept),)

    def recurrent_gradients(self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]) -> State:
        size, reads_h = self.hidden_size, self.products[0] * self.hidden_size
        weight = torch.empty_like(self.weight_hidden)
        torch.mm(gates[:, :reads_h].t(), before[0], out=weight[:reads_h])
        if len(self.products) == 3:
            torch.mm(gates[:, size : 2 * size].t(), torch.tanh(before[0]), out=weight[size : 2 * size])
        torch.mm(gates[:, 2 * size :].t(), saved[0], out=weight[-size:])
        return (weight,)
