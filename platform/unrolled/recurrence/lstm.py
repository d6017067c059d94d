"""Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers, Schmidhuber & Cummins 2000)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, sigmoid_backward, tanh_backward
from unrolled.recurrence.matmul import PackedLinear


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

    num_gates = 4
    gate_slices = ((0, 4), (0, 1), (1, 2), (2, 3), (3, 4))
    recurrent_blocks = (4,)
    num_states = 2
    torch_function = "lstm"
    native_kind = "lstm"

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.bias.data.chunk(self.num_gates)[1])

    def step(self, projected: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = self.project_hidden(0, h, projected).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        (h, c), (new_h, new_c), (all_gates, i, f, g, o) = state, after, gates
        summed = hidden[0](h)
        if triton_steps.applies(summed):
            return triton_steps.run("lstm_forward", h, all_gates, summed, self.native_parameter(), c, new_h, new_c)
        all_gates.add_(summed)
        g.mul_(2)  # tanh(a) = 2 σ(2a) − 1, so that one σ serves all gates
        all_gates.sigmoid_()
        g.mul_(2).sub_(1)
        torch.mul(f, c, out=new_c).addcmul_(i, g)
        torch.tanh(new_c, out=new_h).mul_(o)
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
        (dh, dc), c, (all_gates, i, f, g, o) = gradient, state[1], gates
        if triton_steps.applies(dh):
            triton_steps.run("lstm_backward", dh, all_gates, self.native_parameter(), c, after[1], dh, dc)
            return hidden[0](all_gates), dc
        squashed = torch.tanh(after[1])
        reached = dh * o
        dc.add_(tanh_backward(reached, squashed, grad_input=reached))
        sigmoid_backward(dh.mul_(squashed), o, grad_input=o)
        di, dg = torch.mul(dc, g, out=reached), torch.mul(dc, i, out=squashed)
        sigmoid_backward(di, i, grad_input=i)
        tanh_backward(dg, g, grad_input=g)
        df = torch.mul(dc, c, out=reached)
        dc.mul_(f)
        sigmoid_backward(df, f, grad_input=f)
        return hidden[0](all_gates), dc

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        return [(gates, before[0])]

    def native_parameter(self) -> Tensor:
        return self.bias.new_zeros(
            3, self.hidden_size
        )  # one loop serves both kinds: these are peepholes that see nothing


class PeepholeLSTM(Cell):
    """An LSTM whose gates see the memory cell (Gers & Schmidhuber, "Recurrent nets that time and count", 2000).
    Gates in the order i, f, g, o:

        i = σ(W_i x + U_i h + p_i ⊙ c + b_i)
        f = σ(W_f x + U_f h + p_f ⊙ c + b_f)
        g = tanh(W_g x + U_g h + b_g)
        c' = f ⊙ c + i ⊙ g
        o = σ(W_o x + U_o h + p_o ⊙ c' + b_o)
        h' = o ⊙ tanh(c')
    """

    num_gates = 4
    gate_slices = ((0, 4), (0, 1), (1, 2), (2, 3), (3, 4))
    recurrent_blocks = (4,)
    num_states = 2
    native_kind = "lstm"

    def __init__(self, input_size: int, hidden_size: int, *, layer_norm: bool = False) -> None:
        super().__init__(input_size, hidden_size, layer_norm=layer_norm)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden_size))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.bias.data.chunk(self.num_gates)[1])

    def step(self, projected: Tensor, state: State) -> State:
        h, c = state
        p_i, p_f, p_o = self.peepholes
        i, f, g, o = self.project_hidden(0, h, projected).chunk(4, dim=-1)
        new = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        return torch.sigmoid(o + p_o * new) * torch.tanh(new), new

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        (h, c), (new_h, new_c), (all_gates, i, f, g, o) = state, after, gates
        p_i, p_f, p_o = self.peepholes
        summed = hidden[0](h)
        if triton_steps.applies(summed):
            return triton_steps.run("lstm_forward", h, all_gates, summed, self.native_parameter(), c, new_h, new_c)
        all_gates.add_(summed)
        i.addcmul_(p_i, c).sigmoid_()
        f.addcmul_(p_f, c).sigmoid_()
        g.tanh_()
        torch.mul(f, c, out=new_c).addcmul_(i, g)
        o.addcmul_(p_o, new_c).sigmoid_()
        torch.tanh(new_c, out=new_h).mul_(o)
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
        (dh, dc), c, (all_gates, i, f, g, o) = gradient, state[1], gates
        p_i, p_f, p_o = self.peepholes
        if triton_steps.applies(dh):
            triton_steps.run("lstm_backward", dh, all_gates, self.native_parameter(), c, after[1], dh, dc)
            return hidden[0](all_gates), dc
        squashed = torch.tanh(after[1])
        reached = dh * o
        dc.add_(tanh_backward(reached, squashed, grad_input=reached))
        sigmoid_backward(dh.mul_(squashed), o, grad_input=o)
        dc.addcmul_(o, p_o)
        di, dg, df = dc * g, dc * i, dc * c
        dc.mul_(f)
        sigmoid_backward(di, i, grad_input=i)
        tanh_backward(dg, g, grad_input=g)
        sigmoid_backward(df, f, grad_input=f)
        return hidden[0](all_gates), dc.addcmul_(i, p_i).addcmul_(f, p_f)

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        return (self.peepholes,)

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        return [(gates, before[0])]

    def extra_gradients(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        i, f, _, o = gates.chunk(4, dim=1)
        seen = [(i * before[1]).sum(0), (f * before[1]).sum(0), (o * after[1]).sum(0)]
        return (torch.stack(seen),)

    def native_parameter(self) -> Tensor:
        return self.peepholes
