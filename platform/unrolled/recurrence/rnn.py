"""The vanilla recurrent network (Elman, "Finding structure in time", 1990), with tanh or rectified."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, tanh_backward
from unrolled.recurrence.matmul import PackedLinear


class RNN(Cell):
    """h_t = tanh(W x_t + U h_{t-1} + b)."""

    num_gates = 1
    gate_slices = ((0, 1),)
    recurrent_blocks = (1,)
    torch_function = "rnn_tanh"
    native_kind = "rnn"

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        return (torch.tanh(self.project_hidden(0, h, projected)),)

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        summed = hidden[0](state[0])
        if triton_steps.applies(summed):
            return triton_steps.run("rnn_forward", after[0], gates[0], summed, after[0])
        torch.add(gates[0], summed, out=after[0]).tanh_()
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
        if triton_steps.applies(gates[0]):
            triton_steps.run("rnn_backward", after[0], gates[0], after[0], gradient[0])
        else:
            tanh_backward(gradient[0], after[0], grad_input=gates[0])
        return (hidden[0](gates[0]),)

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        return [(gates, before[0])]


class IRNN(Cell):
    """h_t = max(0, W x_t + U h_{t-1} + b), with U = 1 at first (Le, Jaitly & Hinton 2015).

    Until it has learned otherwise the state is a running sum, whose gradient neither vanishes nor explodes.
    """

    num_gates = 1
    gate_slices = ((0, 1),)
    recurrent_blocks = (1,)
    torch_function = "rnn_relu"
    native_kind = "irnn"

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.eye_(self.weight_hidden)

    def step(self, projected: Tensor, state: State) -> State:
        (h,) = state
        return (torch.relu(self.project_hidden(0, h, projected)),)

    def step_forward(
        self,
        gates: Sequence[Tensor],
        state: State,
        after: State,
        saved: Sequence[Tensor],
        hidden: Sequence[PackedLinear],
    ) -> None:
        summed = hidden[0](state[0])
        if triton_steps.applies(summed):
            return triton_steps.run("irnn_forward", after[0], gates[0], summed, after[0])
        torch.add(gates[0], summed, out=after[0]).relu_()
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
        if triton_steps.applies(gates[0]):
            triton_steps.run("irnn_backward", after[0], gates[0], after[0], gradient[0])
        else:
            torch.mul(gradient[0], after[0] > 0, out=gates[0])
        return (hidden[0](gates[0]),)

    def weight_grad_operands(
        self, gates: Tensor, before: State, after: State, saved: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        return [(gates, before[0])]
