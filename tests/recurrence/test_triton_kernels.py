"""Tests of the Triton kernels in Triton's interpreter, against torch's operations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="this torch comes without Triton")

CHECK = """
import torch
from unrolled.native import build
from unrolled.recurrence import CELLS, scan, triton_steps

build.load = lambda: None
for name, cell in CELLS.items():
    for hidden in (5, 40):
        torch.manual_seed(0)
        cell = CELLS[name](4, hidden)
        for parameter in cell.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        mask = torch.arange(4) < torch.tensor([4, 2, 0])[:, None]
        inputs, errors, found = torch.randn(3, 4, 4), torch.randn(3, 4, hidden), []
        assert triton_steps.applies(inputs)
        for engine in ("bptt", "autograd"):
            cell.zero_grad()
            read = inputs.clone().requires_grad_()
            outputs, last = scan(cell, read, mask=mask, engine=engine, reverse=True)
            ((outputs * errors).sum() + sum(tensor.square().sum() for tensor in last)).backward()
            found.append([outputs.detach(), read.grad, *(parameter.grad for parameter in cell.parameters())])
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5)
"""


def test_every_cell_steps_as_in_torch():
    ran = subprocess.run(
        [sys.executable, "-c", CHECK],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
