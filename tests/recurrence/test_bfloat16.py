"""Tests of bfloat16 products under autocast, with everything else in float32."""

from __future__ import annotations

import pytest
import torch

from unrolled.models import VocabularyHead
from unrolled.recurrence import CELLS, Stack, scan

SMOOTH = sorted(set(CELLS) - {"irnn"})  # where a rounding crosses zero, a rectifier's derivative jumps


def gradients(cell, inputs, errors, *, bf16, **options):
    inputs = inputs.clone().requires_grad_()
    cell.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        outputs, last = scan(cell, inputs, engine="bptt", **options)
    outputs.backward(errors)
    assert {tensor.dtype for tensor in (outputs, *last, inputs.grad)} == {inputs.dtype}
    return {"outputs": outputs.detach(), "inputs": inputs.grad} | {
        name: parameter.grad.clone() for name, parameter in cell.named_parameters()
    }


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_float64_within_roundings_of_bfloat16(name):
    torch.manual_seed(0)
    cell, inputs, errors = CELLS[name](512, 512), torch.randn(16, 32, 512), torch.randn(16, 32, 512)
    bf16 = gradients(cell, inputs, errors, bf16=True)
    exact = gradients(cell.double(), inputs.double(), errors.double(), bf16=False)
    for key, value in exact.items():
        assert float((bf16[key].double() - value).norm() / value.norm()) < 1e-2, key


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}])
@pytest.mark.parametrize("name", sorted(CELLS))
def test_masks_directions_and_options_hold_in_bfloat16(name, options):
    torch.manual_seed(0)
    cell, inputs, errors = CELLS[name](5, 8, **options).eval(), torch.randn(3, 9, 5), torch.randn(3, 9, 8)
    mask = torch.arange(9) < torch.tensor([9, 4, 0])[:, None]
    settings = {"mask": mask, "reverse": True, "zoneout": 0.2}
    bf16 = gradients(cell, inputs, errors, bf16=True, **settings)
    exact = gradients(cell.double(), inputs.double(), errors.double(), bf16=False, **settings)
    for key, value in exact.items():
        assert float((bf16[key].double() - value).norm()) <= 0.1 * float(value.norm()), key


@pytest.mark.parametrize("engine", ["auto", "bptt", "autograd"])
def test_every_engine_runs_under_autocast(engine):
    torch.manual_seed(0)
    stack, inputs = Stack(CELLS["gru"], 6, 8, layers=2, engine=engine), torch.randn(2, 9, 6)
    exact, _ = stack(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = stack(inputs)
    outputs.float().sum().backward()
    torch.testing.assert_close(outputs.float(), exact, rtol=0, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in stack.parameters())


def test_the_vocabulary_head_in_bfloat16():
    torch.manual_seed(0)
    head, targets = VocabularyHead(64, 300), torch.randint(300, (2500,))  # two chunks
    found = []
    for bf16 in (True, False):
        hidden = torch.randn(2500, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = head.loss(hidden, targets, 0.1)
        loss.backward()
        assert loss.dtype == hidden.grad.dtype == torch.float32
        found.append([loss.detach(), hidden.grad, head.weight.grad.clone(), head.bias.grad.clone()])
    for rounded, exact in zip(*found, strict=True):
        assert float((rounded - exact).norm() / exact.norm()) < 1e-2
