"""Tests of compiled scans: against the cells' own steps, and the fallback without a compiler."""

from __future__ import annotations

import shutil

import pytest
import torch

from unrolled import native
from unrolled.native import build
from unrolled.recurrence import CELLS, scan

NAMES = sorted(CELLS)
MASKS = {
    "padded": torch.arange(9) < torch.tensor([9, 4, 0])[:, None],
    "holes": torch.tensor([[0, 1, 1, 0, 1, 0, 0, 0, 1], [0] * 9, [1, 0, 0, 1, 0, 0, 1, 1, 0]]).bool(),
    "nothing": torch.zeros(3, 9, dtype=torch.bool),
}
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def passes(cell, inputs, errors, **options):
    inputs = inputs.clone().requires_grad_()
    cell.zero_grad()
    outputs, last = scan(cell, inputs, engine="bptt", **options)
    (sum(tensor.square().sum() for tensor in last) + (outputs * errors).sum()).backward()
    return [outputs.detach(), inputs.grad, *(parameter.grad.clone() for parameter in cell.parameters())]


def given(name, hidden, dtype=torch.float32):
    torch.manual_seed(3)
    cell = CELLS[name](5, hidden)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return cell.to(dtype), torch.randn(3, 9, 5).to(dtype), torch.randn(3, 9, hidden).to(dtype)


@needs_compiler
@pytest.mark.parametrize("hidden", [1, 16, 37])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_plain_steps_make_the_same(name, mask, reverse, hidden, monkeypatch):
    cell, inputs, errors = given(name, hidden)
    assert native.scan_supported(cell, bf16=False)
    options = {"mask": MASKS[mask], "reverse": reverse}
    fast = passes(cell, inputs, errors, **options)
    monkeypatch.setattr(build, "load", lambda: None)
    plain = passes(cell, inputs, errors, **options)
    for got, want in zip(fast, plain, strict=True):
        # By norm: gradients of the rectified network are thousands, and what cancels in one of them leaves roundings.
        assert (got - want).norm() <= 1e-5 * want.norm() + 1e-6


@needs_compiler
@pytest.mark.parametrize("turned", [False, True])
def test_what_stays_the_same_counts_where_there_is_a_step(turned, monkeypatch):
    cell, inputs, errors = given("gru", 16)
    inputs, static_input = (inputs[..., :3], inputs[:, 0, 3:].clone().requires_grad_())
    inputs = inputs.transpose(0, 1).contiguous().transpose(0, 1) if turned else inputs
    found = []
    for _ in range(2):
        static_input.grad = None
        found.append([*passes(cell, inputs, errors, mask=MASKS["holes"], static_input=static_input), static_input.grad])
        monkeypatch.setattr(build, "load", lambda: None)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_compiled_steps_come_as_close_to_float64_as_torchs_own(name, monkeypatch):
    exact = passes(*given(name, 64, torch.float64))
    fast = passes(*given(name, 64))
    monkeypatch.setattr(build, "load", lambda: None)
    plain = passes(*given(name, 64))
    for got, own, want in zip(fast, plain, exact, strict=True):
        error, allowed = (float((values.double() - want).norm() / want.norm()) for values in (got, own))
        assert error <= 3 * allowed + 1e-6


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1e4, -1e4, float("inf"), float("nan")])
def test_large_and_non_finite_sums_end_as_torchs_do(name, value, monkeypatch):
    cell, inputs, _ = given(name, 8)
    inputs[0, 4, 2] = value
    fast, _ = scan(cell, inputs, engine="bptt")
    monkeypatch.setattr(build, "load", lambda: None)
    plain, _ = scan(cell, inputs, engine="bptt")
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5, equal_nan=True)


@needs_compiler
@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("name", ["lstm", "gru", "mut3"])
@pytest.mark.parametrize("hidden", [37, 320])  # matrices that every core keeps, and those that cores share out
def test_threads_change_nothing(hidden, name, batch):
    cell, _, _ = given(name, hidden)
    inputs, errors, mask = torch.randn(batch, 4, 5), torch.randn(batch, 4, hidden), torch.rand(batch, 4) < 0.6
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append([*passes(cell, inputs, errors), *passes(cell, inputs, errors, mask=mask)])
    torch.set_num_threads(threads)
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(("batch", "hidden", "threads"), [(9, 32, 1), (40, 64, 2), (33, 1056, 2)])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"irnn"}))
def test_compiled_scans_in_bfloat16_stay_within_its_roundings(name, batch, hidden, threads):
    cell = CELLS[name](32, hidden)
    if not native.scan_supported(cell, bf16=True):
        pytest.skip("this CPU has no matrix unit")
    torch.manual_seed(4)
    inputs, errors = torch.randn(batch, 5, 32), torch.randn(batch, 5, hidden)
    options = {"mask": torch.rand(batch, 5) < 0.7, "reverse": True}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        half = passes(cell, inputs, errors, **options)
    torch.set_num_threads(before)
    exact = passes(cell.double(), inputs.double(), errors.double(), **options)
    for got, want in zip(half, exact, strict=True):
        assert float((got.double() - want).norm() / want.norm()) < 1e-2


@needs_compiler
def test_a_cell_that_inherits_its_steps_runs_them_itself():
    class Changed(CELLS["rnn"]):
        pass

    assert not native.scan_supported(Changed(3, 4), bf16=False)


def test_without_a_compiler_steps_run_with_torch(monkeypatch):
    monkeypatch.setenv("CC", "/no/such/compiler")
    build.load.cache_clear()
    try:
        cell, inputs, errors = given("gru", 8)
        assert not native.scan_supported(cell, bf16=False)
        assert all(value.isfinite().all() for value in passes(cell, inputs, errors))
    finally:
        monkeypatch.undo()
        build.load.cache_clear()
