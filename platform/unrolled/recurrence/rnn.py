"""The vanilla recurrent network (Elman, "Finding structure in time", 1990), with tanh or rectifier."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, StepBuffers, tanh_backward, uses_triton


class RNN(Cell):
    """Vanilla network: h_t = tanh(W x_t + U h_{t-1} + b)."""

    num_gates = 1
    gate_slices = ((0, 1),)
    recurrent_blocks = (1,)
    torch_function = "rnn_tanh"
    native_kind = "rnn"
    nonlinearity: ClassVar[Literal["tanh", "relu"]] = "tanh"

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        summed = self.project_hidden(0, h, projected)
        return (torch.tanh(summed) if self.nonlinearity == "tanh" else torch.relu(summed),)

    def step_forward(self, buffers: StepBuffers) -> None:
        (gate,), (h,), (new_h,) = buffers.gates, buffers.before, buffers.after
        recurrent = buffers.recurrent[0](h)
        if uses_triton(recurrent):
            return triton_steps.run(f"rnn_{self.nonlinearity}_forward", new_h, gate, recurrent, new_h)
        torch.add(gate, recurrent, out=new_h)
        new_h.tanh_() if self.nonlinearity == "tanh" else new_h.relu_()
        return None

    def step_backward(self, buffers: StepBuffers, gradient: State) -> State:
        (gate,), (new_h,), (grad_h,) = buffers.gates, buffers.after, gradient
        if uses_triton(gate):
            triton_steps.run(f"rnn_{self.nonlinearity}_backward", new_h, gate, new_h, grad_h)
        elif self.nonlinearity == "tanh":
            tanh_backward(grad_h, new_h, grad_input=gate)
        else:
            torch.mul(grad_h, new_h > 0, out=gate)
        return (buffers.recurrent[0](gate),)

    def weight_grad_operands(self, buffers: StepBuffers) -> list[tuple[Tensor, Tensor]]:
        return [(buffers.gates[0], buffers.before[0])]


class IRNN(RNN):
    """Rectified network: h_t = max(0, W x_t + U h_{t-1} + b), with U initialised to the identity (Le, Jaitly & Hinton
    2015). At first the state is a running sum, whose gradient neither vanishes nor explodes."""

    torch_function = "rnn_relu"
    native_kind = "irnn"
    nonlinearity = "relu"

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.eye_(self.weight_hidden)
