"""Textbook back-propagation through time for the vanilla network, formula by formula.

One sequence at a time, in the notation of Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 10.2.2.
`docs/bptt.md` derives every line; `scan` computes the same for batches, at full speed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """U `(hidden, input)`, W `(hidden, hidden)`, b `(hidden,)`, V `(classes, hidden)`, c `(classes,)`.

    The same letters name the parameters and their gradients.
    """

    U: Tensor
    W: Tensor
    b: Tensor
    V: Tensor
    c: Tensor


def forward(p: Parameters, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
    """From inputs x `(time, input)` to states h `(time + 1, hidden)`, h_0 first, and ŷ `(time, classes)`."""
    h, y_hat = [h_0], []
    for x_t in x:
        a_t = p.b + p.W @ h[-1] + p.U @ x_t
        h.append(torch.tanh(a_t))
        o_t = p.c + p.V @ h[-1]
        y_hat.append(torch.softmax(o_t, dim=0))
    return torch.stack(h), torch.stack(y_hat)


def cross_entropy(y_hat: Tensor, y: Tensor) -> Tensor:
    """The loss in nats, summed over time; y `(time,)` holds the correct class of every step."""
    return -torch.log(y_hat[torch.arange(len(y)), y]).sum()


def output_gradients(y_hat: Tensor, y: Tensor) -> Tensor:
    """∇o_t of every step, `(time, classes)`."""
    return y_hat - torch.eye(y_hat.shape[1], dtype=y_hat.dtype)[y]


def state_gradients(p: Parameters, h: Tensor, grad_o: Tensor, window: int | None = None) -> Tensor:
    """∇h_t of every step, `(time, hidden)`, from the last to the first.

    Args:
        h: states `(time + 1, hidden)`, h_0 first.
        grad_o: `(time, classes)`.
        window: steps per window of truncated BPTT: no gradient flows from one window into the one before it.
    """
    steps = len(grad_o)
    grad_h = torch.zeros_like(h)  # index t is step t; index 0 is unused
    for t in range(steps, 0, -1):
        grad_h[t] = p.V.T @ grad_o[t - 1]
        if t < steps and (window is None or t % window != 0):
            grad_h[t] += p.W.T @ torch.diag(1 - h[t + 1] ** 2) @ grad_h[t + 1]
    return grad_h[1:]


def parameter_gradients(x: Tensor, h: Tensor, grad_o: Tensor, grad_h: Tensor) -> Parameters:
    """∇U, ∇W, ∇b, ∇V and ∇c; `ti,tj->ij` is the sum over t of the outer products."""
    grad_a = torch.stack([torch.diag(1 - h_t**2) @ grad_h_t for h_t, grad_h_t in zip(h[1:], grad_h, strict=True)])
    return Parameters(
        U=torch.einsum("ti,tj->ij", grad_a, x),
        W=torch.einsum("ti,tj->ij", grad_a, h[:-1]),
        b=grad_a.sum(0),
        V=torch.einsum("ti,tj->ij", grad_o, h[1:]),
        c=grad_o.sum(0),
    )
