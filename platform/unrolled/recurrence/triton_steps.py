"""Launch of the Triton kernels of a step on a GPU.

torch launches a kernel per operation; with these a cell's step has one or two besides its products. The kernels are
the element-wise parts of `step_forward` and `step_backward` of the cells and read and write float32. Triton comes with
torch's builds for GPUs; without it the steps run as torch's operations. It is imported when first needed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton interprets its kernels as Python, on any machine: for tests."""


def applies(tensor: Tensor) -> bool:
    """Whether the kernels can work on tensors like this one."""
    return tensor.dtype == torch.float32 and (tensor.is_cuda or INTERPRETED) and _kernels() is not None


def run(name: str, state: Tensor, *arguments: Tensor, **constants: int) -> None:
    """Launches a kernel of `triton_kernels`.

    Args:
        state: `(batch, hidden)`, gives the shape.
        arguments: contiguous tensors, or the first block of gates, for their rows.
        constants: compile-time arguments of the kernel.
    """
    kernels = _kernels()
    assert kernels is not None
    count, block = state.numel(), 1024
    getattr(kernels, name)[(-(-count // block),)](*arguments, count, state.shape[1], block=block, **constants)


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    try:
        from unrolled.recurrence import triton_kernels
    except ImportError:
        return None
    return triton_kernels
