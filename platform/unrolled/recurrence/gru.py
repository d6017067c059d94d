"""Gated recurrent units: the form of Cho et al. 2014, and the form of cuDNN and torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.recurrence import triton_steps
from unrolled.recurrence.cell import Cell, State, StepBuffers, sigmoid_backward, tanh_backward, uses_triton


class GRU(Cell):
    """Gated recurrent unit of cuDNN and torch: reset after the product; gates in the order r, z, n:

        r = σ(W_r x + U_r h + b_r)                  reset gate
        z = σ(W_z x + U_z h + b_z)                  update gate
        n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))   candidate
        h' = (1 − z) ⊙ n + z ⊙ h

    c_n is inside the reset, so it cannot be merged with b_n.
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

    def step_forward(self, buffers: StepBuffers) -> None:
        (r_z, r, z, n), (h,), (new_h,), (reset_n,) = buffers.gates, buffers.before, buffers.after, buffers.saved
        recurrent, size = buffers.recurrent[0](h), self.hidden_size
        if uses_triton(recurrent):
            return triton_steps.run("gru_forward", h, r_z, recurrent, self.bias_reset, h, reset_n, new_h)
        r_z.add_(recurrent[:, : 2 * size]).sigmoid_()
        torch.add(recurrent[:, 2 * size :], self.bias_reset, out=reset_n)
        candidate = torch.addcmul(n, r, reset_n).tanh_()
        n.copy_(candidate)
        torch.lerp(candidate, h, z, out=new_h)
        return None

    def step_backward(self, buffers: StepBuffers, gradient: State) -> State:
        (r_z, r, z, n), (h,), (reset_n,), (grad_h,) = buffers.gates, buffers.before, buffers.saved, gradient
        if uses_triton(grad_h):
            grad_recurrent, direct = grad_h.new_empty(len(grad_h), 3 * self.hidden_size), torch.empty_like(grad_h)
            triton_steps.run("gru_backward", grad_h, r_z, reset_n, h, grad_h, grad_recurrent, direct)
            return (buffers.recurrent[0].plus(grad_recurrent, direct),)
        grad_z = torch.sub(h, n).mul_(grad_h)
        direct = grad_h * z
        tanh_backward(grad_h.sub_(direct), n, grad_input=n)
        sigmoid_backward(grad_z, z, grad_input=z)
        grad_r = torch.mul(n, reset_n, out=grad_z)
        torch.mul(n, r, out=reset_n)
        sigmoid_backward(grad_r, r, grad_input=r)
        return (buffers.recurrent[0].plus(torch.cat([r_z, reset_n], dim=1), direct),)

    def weight_grad_operands(self, buffers: StepBuffers) -> list[tuple[Tensor, Tensor]]:
        (h,) = buffers.before
        return [(buffers.gates[0], h), (buffers.saved[0], h)]

    def extra_parameters(self) -> tuple[nn.Parameter, ...]:
        return (self.bias_reset,)

    def extra_gradients(self, buffers: StepBuffers) -> tuple[Tensor, ...]:
        return (buffers.saved[0].sum(0, dtype=self.bias_reset.dtype),)

    def native_parameter(self) -> Tensor:
        return self.bias_reset

    def torch_weights(self) -> list[Tensor]:
        zeros = self.bias.new_zeros(2 * self.hidden_size)
        return [self.weight_input, self.weight_hidden, self.bias, torch.cat([zeros, self.bias_reset])]


class ResetBeforeProduct(Cell):
    """Base of cells whose reset gate acts before the product (`ChoGRU`, MUT1–3); gates in the order r, z, n:

        r = σ(a_r + U_r h)
        z = σ(a_z + U_z φ(h))         φ: identity, tanh, or no term at all
        n = tanh(a_n + U_n (r ⊙ h))
        h' = mixture of h and n with weight z

    where a is the projected input. Subclasses write their equations in `step`; the derivative is here. Where z weights
    the candidate, its bias is initialised to −1, so that a step keeps σ(1) of the state, as the LSTM's forget gate
    does: MUT1's z depends on the input alone and would take long to learn to keep.
    """

    num_gates = 3
    gate_slices = ((0, 2), (0, 1), (1, 2), (2, 3))
    num_saved = 1  # r ⊙ h

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.z_gates_candidate:
            nn.init.constant_(self.bias.data.chunk(self.num_gates)[1], -1.0)

    @property
    def _tanh_recurrent(self) -> bool:
        """Whether φ is tanh, with a product of its own."""
        return len(self.recurrent_blocks) == 3

    def step_forward(self, buffers: StepBuffers) -> None:
        (r_z, r, z, n), (h,), (new_h,), (reset_h,) = buffers.gates, buffers.before, buffers.after, buffers.saved
        first, *_, last = buffers.recurrent
        summed = first(h)
        summed_z = buffers.recurrent[1](torch.tanh(h)) if self._tanh_recurrent else None
        if uses_triton(summed):
            width = self.recurrent_blocks[0] if summed_z is None else 3
            second = summed if summed_z is None else summed_z
            triton_steps.run("reset_gates", h, r_z, summed, second, h, reset_h, width=width)
            by_z = int(self.z_gates_candidate)
            return triton_steps.run("reset_mix", h, r_z, last(reset_h), h, new_h, z_gates_candidate=by_z)
        (r_z if self.recurrent_blocks[0] == 2 else r).add_(summed)
        if summed_z is not None:
            z.add_(summed_z)
        r_z.sigmoid_()
        candidate = last(torch.mul(r, h, out=reset_h)).add_(n).tanh_()
        n.copy_(candidate)
        torch.lerp(h, candidate, z, out=new_h) if self.z_gates_candidate else torch.lerp(candidate, h, z, out=new_h)
        return None

    def step_backward(self, buffers: StepBuffers, gradient: State) -> State:
        (r_z, r, z, n), (h,), (grad_h,) = buffers.gates, buffers.before, gradient
        first, *_, last = buffers.recurrent
        if uses_triton(grad_h):
            direct, by_z = torch.empty_like(grad_h), int(self.z_gates_candidate)
            triton_steps.run("reset_mix_backward", grad_h, r_z, h, grad_h, direct, z_gates_candidate=by_z)
            triton_steps.run("reset_gates_backward", grad_h, r_z, last(n), h, direct)
        else:
            direct = self._mix_backward(grad_h, h, z, n)
            grad_reset_h = last(n)
            direct.addcmul_(grad_reset_h, r)
            sigmoid_backward(grad_reset_h.mul_(h), r, grad_input=r)
        if self._tanh_recurrent:
            tanh_h = torch.tanh(h)
            direct.add_(tanh_backward(buffers.recurrent[1](z), tanh_h, grad_input=tanh_h))
        return (first.plus(r_z if self.recurrent_blocks[0] == 2 else r, direct),)

    def _mix_backward(self, grad_h: Tensor, h: Tensor, z: Tensor, n: Tensor) -> Tensor:
        """Overwrites z and n with the gradients of their pre-activations; returns the part of ∂L/∂h that does not pass
        through the gates."""
        grad_z = (torch.sub(n, h) if self.z_gates_candidate else torch.sub(h, n)).mul_(grad_h)
        by_z = grad_h * z
        grad_n, direct = (by_z, grad_h.sub_(by_z)) if self.z_gates_candidate else (grad_h.sub_(by_z), by_z)
        tanh_backward(grad_n, n, grad_input=n)
        sigmoid_backward(grad_z, z, grad_input=z)
        return direct

    def weight_grad_operands(self, buffers: StepBuffers) -> list[tuple[Tensor, Tensor]]:
        (r_z, r, z, n), (h,), (reset_h,) = buffers.gates, buffers.before, buffers.saved
        by_z = [(z, torch.tanh(h))] if self._tanh_recurrent else []
        return [(r_z if self.recurrent_blocks[0] == 2 else r, h), *by_z, (n, reset_h)]


class ChoGRU(ResetBeforeProduct):
    """Gated recurrent unit of Cho et al. 2014 (section 2.3): reset before the product; gates in the order r, z, n:

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
