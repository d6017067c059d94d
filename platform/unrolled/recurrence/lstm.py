"""Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers, Schmidhuber & Cummins 2000)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, StepBuffers, sigmoid_backward, tanh_backward, uses_triton


class LSTM(Cell):
    """Long short-term memory; gates in the order i, f, g, o:

        i = σ(W_i x + U_i h + p_i ⊙ c + b_i)     input gate
        f = σ(W_f x + U_f h + p_f ⊙ c + b_f)     forget gate
        g = tanh(W_g x + U_g h + b_g)            candidate
        c' = f ⊙ c + i ⊙ g
        o = σ(W_o x + U_o h + p_o ⊙ c' + b_o)    output gate
        h' = o ⊙ tanh(c')

    The terms with p are those of `PeepholeLSTM`; here p = 0. b_f is initialised to 1, so that the cell remembers before
    training (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    num_gates = 4
    gate_slices = ((0, 4), (0, 1), (1, 2), (2, 3), (3, 4))
    recurrent_blocks = (4,)
    num_states = 2
    torch_function: ClassVar[str | None] = "lstm"
    native_kind = "lstm"
    has_peepholes: ClassVar[bool] = False

    def __init__(self, input_size: int, hidden_size: int, *, layer_norm: bool = False) -> None:
        super().__init__(input_size, hidden_size, layer_norm=layer_norm)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden_size)) if self.has_peepholes else None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.bias.data.chunk(self.num_gates)[1])

    def step(self, projected: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = self.project_hidden(0, h, projected).chunk(4, dim=-1)
        if self.peepholes is not None:
            p_i, p_f, p_o = self.peepholes
            i, f = i + p_i * c, f + p_f * c
        new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        if self.peepholes is not None:
            o = o + p_o * new_c
        return torch.sigmoid(o) * torch.tanh(new_c), new_c

    def step_forward(self, buffers: StepBuffers) -> None:
        (all_gates, i, f, g, o), (h, c), (new_h, new_c) = buffers.gates, buffers.before, buffers.after
        recurrent = buffers.recurrent[0](h)
        if uses_triton(recurrent):
            return triton_steps.run("lstm_forward", h, all_gates, recurrent, self.native_parameter(), c, new_h, new_c)
        all_gates.add_(recurrent)
        if self.peepholes is None:
            g.mul_(2)  # tanh(a) = 2 σ(2a) − 1, so that one σ serves all gates
            all_gates.sigmoid_()
            g.mul_(2).sub_(1)
            torch.mul(f, c, out=new_c).addcmul_(i, g)
        else:
            p_i, p_f, p_o = self.peepholes
            i.addcmul_(p_i, c).sigmoid_()
            f.addcmul_(p_f, c).sigmoid_()
            g.tanh_()
            torch.mul(f, c, out=new_c).addcmul_(i, g)
            o.addcmul_(p_o, new_c).sigmoid_()
        torch.tanh(new_c, out=new_h).mul_(o)
        return None

    def step_backward(self, buffers: StepBuffers, gradient: State) -> State:
        (all_gates, i, f, g, o), (_, c), (_, new_c) = buffers.gates, buffers.before, buffers.after
        grad_h, grad_c = gradient
        if uses_triton(grad_h):
            triton_steps.run("lstm_backward", grad_h, all_gates, self.native_parameter(), c, new_c, grad_h, grad_c)
            return buffers.recurrent[0](all_gates), grad_c
        tanh_c = torch.tanh(new_c)
        scratch = grad_h * o
        grad_c.add_(tanh_backward(scratch, tanh_c, grad_input=scratch))
        sigmoid_backward(grad_h.mul_(tanh_c), o, grad_input=o)
        if self.peepholes is not None:
            p_i, p_f, p_o = self.peepholes
            grad_c.addcmul_(o, p_o)
        grad_i, grad_g = torch.mul(grad_c, g, out=scratch), torch.mul(grad_c, i, out=tanh_c)
        sigmoid_backward(grad_i, i, grad_input=i)
        tanh_backward(grad_g, g, grad_input=g)
        grad_f = torch.mul(grad_c, c, out=scratch)
        grad_c.mul_(f)
        sigmoid_backward(grad_f, f, grad_input=f)
        if self.peepholes is not None:
            grad_c.addcmul_(i, p_i).addcmul_(f, p_f)
        return buffers.recurrent[0](all_gates), grad_c

    def weight_grad_operands(self, buffers: StepBuffers) -> list[tuple[Tensor, Tensor]]:
        return [(buffers.gates[0], buffers.before[0])]

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        return () if self.peepholes is None else (self.peepholes,)

    def extra_gradients(self, buffers: StepBuffers) -> tuple[Tensor, ...]:
        if self.peepholes is None:
            return ()
        (_, i, f, _, o), (_, c), (_, new_c) = buffers.gates, buffers.before, buffers.after
        return (torch.stack([(i * c).sum(0), (f * c).sum(0), (o * new_c).sum(0)]),)

    def native_parameter(self) -> Tensor:
        """The peepholes, zeros without: compiled steps have one form for both."""
        return self.bias.new_zeros(3, self.hidden_size) if self.peepholes is None else self.peepholes


class PeepholeLSTM(LSTM):
    """LSTM with peepholes p, through which the gates read the memory cell (Gers & Schmidhuber, "Recurrent nets that
    time and count", 2000)."""

    torch_function = None
    native_kind = "lstm"
    has_peepholes = True
