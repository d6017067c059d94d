"""Triton kernels of the element-wise part of each cell's step.

Letters as in the cells' equations: g gates, u recurrent products, h and c before the step, h2 and c2 after it, d_
gradients; `direct` is the part of ∂L/∂h that does not pass through the gates.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _tanh(x: Any) -> Any:
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def rnn_tanh_forward(g: Any, u: Any, h2: Any, count: Any, size: Any, block: tl.constexpr) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    tl.store(h2 + i, _tanh(tl.load(g + i, ok) + tl.load(u + i, ok)), ok)


@triton.jit
def rnn_tanh_backward(g: Any, h2: Any, d_h: Any, count: Any, size: Any, block: tl.constexpr) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    h = tl.load(h2 + i, ok)
    tl.store(g + i, tl.load(d_h + i, ok) * (1 - h * h), ok)


@triton.jit
def rnn_relu_forward(g: Any, u: Any, h2: Any, count: Any, size: Any, block: tl.constexpr) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    a = tl.load(g + i, ok) + tl.load(u + i, ok)
    tl.store(h2 + i, tl.where(a < 0, 0.0, a), ok)


@triton.jit
def rnn_relu_backward(g: Any, h2: Any, d_h: Any, count: Any, size: Any, block: tl.constexpr) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    tl.store(g + i, tl.where(tl.load(h2 + i, ok) > 0, tl.load(d_h + i, ok), 0.0), ok)


@triton.jit
def lstm_forward(
    g: Any, u: Any, peep: Any, c: Any, h2: Any, c2: Any, count: Any, size: Any, block: tl.constexpr
) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok, j = i < count, i % size
    at = (i // size) * 4 * size + j
    old = tl.load(c + i, ok)
    enter = tl.sigmoid(tl.load(g + at, ok) + tl.load(u + at, ok) + tl.load(peep + j, ok) * old)
    forget = tl.load(g + at + size, ok) + tl.load(u + at + size, ok) + tl.load(peep + j + size, ok) * old
    forget = tl.sigmoid(forget)
    candidate = _tanh(tl.load(g + at + 2 * size, ok) + tl.load(u + at + 2 * size, ok))
    new = forget * old + enter * candidate
    out = tl.load(g + at + 3 * size, ok) + tl.load(u + at + 3 * size, ok) + tl.load(peep + j + 2 * size, ok) * new
    out = tl.sigmoid(out)
    tl.store(g + at, enter, ok)
    tl.store(g + at + size, forget, ok)
    tl.store(g + at + 2 * size, candidate, ok)
    tl.store(g + at + 3 * size, out, ok)
    tl.store(c2 + i, new, ok)
    tl.store(h2 + i, out * _tanh(new), ok)


@triton.jit
def lstm_backward(
    g: Any, peep: Any, c: Any, c2: Any, d_h: Any, d_c: Any, count: Any, size: Any, block: tl.constexpr
) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok, j = i < count, i % size
    at = (i // size) * 4 * size + j
    enter, forget = tl.load(g + at, ok), tl.load(g + at + size, ok)
    candidate, out = tl.load(g + at + 2 * size, ok), tl.load(g + at + 3 * size, ok)
    tanh_c, error = _tanh(tl.load(c2 + i, ok)), tl.load(d_h + i, ok)
    d_out = error * tanh_c * out * (1 - out)
    d_new = tl.load(d_c + i, ok) + error * out * (1 - tanh_c * tanh_c) + d_out * tl.load(peep + j + 2 * size, ok)
    d_in = d_new * candidate * enter * (1 - enter)
    d_forget = d_new * tl.load(c + i, ok) * forget * (1 - forget)
    tl.store(g + at, d_in, ok)
    tl.store(g + at + size, d_forget, ok)
    tl.store(g + at + 2 * size, d_new * enter * (1 - candidate * candidate), ok)
    tl.store(g + at + 3 * size, d_out, ok)
    grad_c = d_new * forget + d_in * tl.load(peep + j, ok) + d_forget * tl.load(peep + j + size, ok)
    tl.store(d_c + i, grad_c, ok)


@triton.jit
def gru_forward(
    g: Any, u: Any, bias: Any, h: Any, saved: Any, h2: Any, count: Any, size: Any, block: tl.constexpr
) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok, j = i < count, i % size
    at = (i // size) * 3 * size + j
    r = tl.sigmoid(tl.load(g + at, ok) + tl.load(u + at, ok))
    z = tl.sigmoid(tl.load(g + at + size, ok) + tl.load(u + at + size, ok))
    s = tl.load(u + at + 2 * size, ok) + tl.load(bias + j, ok)
    n = _tanh(tl.load(g + at + 2 * size, ok) + r * s)
    tl.store(g + at, r, ok)
    tl.store(g + at + size, z, ok)
    tl.store(g + at + 2 * size, n, ok)
    tl.store(saved + i, s, ok)
    tl.store(h2 + i, n + z * (tl.load(h + i, ok) - n), ok)


@triton.jit
def gru_backward(
    g: Any, saved: Any, h: Any, d_h: Any, grad_recurrent: Any, direct: Any, count: Any, size: Any, block: tl.constexpr
) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok, j = i < count, i % size
    at = (i // size) * 3 * size + j
    r, z, n = tl.load(g + at, ok), tl.load(g + at + size, ok), tl.load(g + at + 2 * size, ok)
    error = tl.load(d_h + i, ok)
    d_n = error * (1 - z) * (1 - n * n)
    d_z = error * (tl.load(h + i, ok) - n) * z * (1 - z)
    d_r = d_n * tl.load(saved + i, ok) * r * (1 - r)
    tl.store(g + at, d_r, ok)
    tl.store(g + at + size, d_z, ok)
    tl.store(g + at + 2 * size, d_n, ok)
    tl.store(saved + i, d_n * r, ok)
    tl.store(grad_recurrent + at, d_r, ok)
    tl.store(grad_recurrent + at + size, d_z, ok)
    tl.store(grad_recurrent + at + 2 * size, d_n * r, ok)
    tl.store(direct + i, error * z, ok)


@triton.jit
def reset_gates(
    g: Any, u: Any, u_z: Any, h: Any, saved: Any, count: Any, size: Any, width: tl.constexpr, block: tl.constexpr
) -> None:
    """The gates r and z, and r ⊙ h. `width`: blocks of u, 3 if that of z is in `u_z`."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok, j = i < count, i % size
    row = i // size
    at = row * 3 * size + j
    z = tl.load(g + at + size, ok)
    if width == 2:
        r = tl.load(g + at, ok) + tl.load(u + row * 2 * size + j, ok)
        z += tl.load(u + row * 2 * size + size + j, ok)
    else:
        r = tl.load(g + at, ok) + tl.load(u + i, ok)
    if width == 3:
        z += tl.load(u_z + i, ok)
    r = tl.sigmoid(r)
    tl.store(g + at, r, ok)
    tl.store(g + at + size, tl.sigmoid(z), ok)
    tl.store(saved + i, r * tl.load(h + i, ok), ok)


@triton.jit
def reset_mix(
    g: Any, u: Any, h: Any, h2: Any, count: Any, size: Any, z_gates_candidate: tl.constexpr, block: tl.constexpr
) -> None:
    """The candidate and the new state."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    at = (i // size) * 3 * size + i % size
    n, z, old = (
        _tanh(tl.load(g + at + 2 * size, ok) + tl.load(u + i, ok)),
        tl.load(g + at + size, ok),
        tl.load(h + i, ok),
    )
    weight = z if z_gates_candidate else 1 - z
    tl.store(g + at + 2 * size, n, ok)
    tl.store(h2 + i, old + weight * (n - old), ok)


@triton.jit
def reset_mix_backward(
    g: Any, h: Any, d_h: Any, direct: Any, count: Any, size: Any, z_gates_candidate: tl.constexpr, block: tl.constexpr
) -> None:
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    at = (i // size) * 3 * size + i % size
    z, n, error = tl.load(g + at + size, ok), tl.load(g + at + 2 * size, ok), tl.load(d_h + i, ok)
    weight = z if z_gates_candidate else 1 - z
    d_weight = error * (n - tl.load(h + i, ok))
    d_z = d_weight if z_gates_candidate else -d_weight
    tl.store(g + at + size, d_z * z * (1 - z), ok)
    tl.store(g + at + 2 * size, error * weight * (1 - n * n), ok)
    tl.store(direct + i, error * (1 - weight), ok)


@triton.jit
def reset_gates_backward(g: Any, u: Any, h: Any, direct: Any, count: Any, size: Any, block: tl.constexpr) -> None:
    """`u`: gradient of r ⊙ h."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    ok = i < count
    at = (i // size) * 3 * size + i % size
    r, error = tl.load(g + at, ok), tl.load(u + i, ok)
    tl.store(direct + i, tl.load(direct + i, ok) + error * r, ok)
    tl.store(g + at, error * tl.load(h + i, ok) * r * (1 - r), ok)
