"""`gradcheck` for the engine `bptt`, whose forward pass serves one backward pass only."""

from __future__ import annotations

import torch


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx, error):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.function(x), x, error)


def gradcheck(function, x):
    """Compares the derivative of `function` with finite differences; raises RuntimeError where they differ."""
    return torch.autograd.gradcheck(lambda value: _Recomputed.apply(function, value), (x,))
