"""The recurrent core against torch's own kernels, plain autograd and the matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from measure import Figure, ratio, take_turns
from synthetic import memory
from unrolled.recurrence import CELLS, Cell, Engine, scan

SHAPES = [(64, 32, 256, 256), (64, 32, 512, 512), (32, 64, 512, 1024)]
"""(batch, time, input, hidden); figures are named by the last, and by the number of threads."""
KERNELS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
Work = Callable[[], None]


def recurrence(quick: bool) -> Iterator[Figure]:
    """Forward and backward passes of one layer, with one thread and with all: every cell in float32, with and without
    padding; the gated ones in bfloat16 where the processor multiplies it fast; and the memory of a scan."""
    given = torch.get_num_threads()
    for threads in sorted({given} if quick else {1, given}):
        torch.set_num_threads(threads)
        for shape in [(32, 16, 64, 128)] if quick else SHAPES:
            name, rounds = f"h{shape[3]}/{threads}t", 3 if quick else 9
            yield from _against_torch(shape, name, rounds)
            yield from _with_padding(shape, name, rounds)
            yield from _against_autograd(shape, name, rounds)
            if half_is_fast():
                yield from _in_half(shape, name, rounds)
    torch.set_num_threads(given)
    yield from memory(quick)


def half_is_fast() -> bool:
    """Whether the processor has units for matrices of bfloat16."""
    return bool(torch.cpu._is_amx_tile_supported())


def _against_torch(shape: tuple[int, ...], name: str, rounds: int) -> Iterator[Figure]:
    inputs = _inputs(shape)
    work = {f"torch/{cell}": _kernel_pass(cell, inputs, shape[3]) for cell in KERNELS}
    work |= {f"bptt/{cell}": _scan_pass(cell, inputs, shape[3], "bptt") for cell in CELLS}
    work |= {f"fused/{cell}": _scan_pass(cell, inputs, shape[3], "fused") for cell in KERNELS}
    work["products"] = _products(shape, 4)
    seconds = take_turns(work, rounds)
    lstm = [_flops("lstm", shape) / second for second in seconds["torch/lstm"]]
    for cell in CELLS:
        rate = [_flops(cell, shape) / second for second in seconds[f"bptt/{cell}"]]
        yield ratio(f"recurrence/{cell}/{name}/flops", rate, lstm, goal=0.87, better="higher", baseline="nn.LSTM")
    for cell in KERNELS:
        for engine in ("bptt", "fused"):
            yield ratio(
                f"recurrence/{cell}/{name}/{engine}",
                seconds[f"{engine}/{cell}"],
                seconds[f"torch/{cell}"],
                goal=None if (cell, engine) == ("rnn", "bptt") else 1.10,
                better="lower",
                baseline=f"nn.{cell.upper()}",
            )
    for engine in ("bptt", "torch"):
        yield ratio(
            f"recurrence/lstm/{name}/{engine}-gemm",
            seconds["products"],
            seconds[f"{engine}/lstm"],
            goal=None,
            better="higher",
            baseline="GEMMs",
        )


def _with_padding(shape: tuple[int, ...], name: str, rounds: int) -> Iterator[Figure]:
    inputs = _inputs(shape)
    lengths = torch.linspace(shape[1] / 2, shape[1], shape[0]).long()[torch.randperm(shape[0])]
    engines: tuple[Engine, ...] = ("bptt", "fused")
    for cell in KERNELS:
        work = {engine: _scan_pass(cell, inputs, shape[3], engine, lengths) for engine in engines}
        seconds = take_turns({"torch": _kernel_pass(cell, inputs, shape[3], lengths), **work}, rounds)
        for engine in engines:
            yield ratio(
                f"recurrence/{cell}/{name}/{engine}/ragged",
                seconds[engine],
                seconds["torch"],
                goal=1.10,
                better="lower",
                baseline=f"nn.{cell.upper()} packed",
            )


def _against_autograd(shape: tuple[int, ...], name: str, rounds: int) -> Iterator[Figure]:
    inputs = _inputs(shape)
    for cell in CELLS:
        engines: tuple[Engine, ...] = ("bptt", "autograd")
        seconds = take_turns({engine: _scan_pass(cell, inputs, shape[3], engine) for engine in engines}, rounds)
        yield ratio(
            f"recurrence/{cell}/{name}/autograd",
            seconds["autograd"],
            seconds["bptt"],
            goal=1.2,
            better="higher",
            baseline="bptt",
        )


def _in_half(shape: tuple[int, ...], name: str, rounds: int) -> Iterator[Figure]:
    inputs, hidden = _inputs(shape), shape[3]
    goals = (2.0, 1.0) if hidden == 512 else (None, None)
    for cell in ("lstm", "gru", "mut1"):
        work = {half: _scan_pass(cell, inputs, hidden, "bptt", half=half) for half in (False, True)}
        seconds = take_turns({str(half): run for half, run in work.items()}, rounds)
        yield ratio(
            f"recurrence/{cell}/{name}/bf16",
            seconds["False"],
            seconds["True"],
            goal=goals[0] if cell == "lstm" else None,
            better="higher",
            baseline="float32",
        )
    work = {
        "torch": _kernel_pass("lstm", inputs, hidden, half=True),
        "bptt": _scan_pass("lstm", inputs, hidden, "bptt", half=True),
    }
    seconds = take_turns(work, rounds)
    yield ratio(
        f"recurrence/lstm/{name}/bf16/torch",
        seconds["torch"],
        seconds["bptt"],
        goal=goals[1],
        better="higher",
        baseline="nn.LSTM bf16",
    )


def _inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape[:3], requires_grad=True)


def _flops(name: str, shape: tuple[int, ...]) -> int:
    """Of all matrix products, forward (one for each weight and row) and backward (two)."""
    batch, steps, size, hidden = shape
    cell: Cell = CELLS[name](size, hidden)
    weights = sum(value.numel() for key, value in cell.named_parameters() if key.startswith("weight"))
    return 6 * batch * steps * weights


def _scan_pass(
    name: str, inputs: Tensor, hidden: int, engine: Engine, lengths: Tensor | None = None, *, half: bool = False
) -> Work:
    cell = CELLS[name](inputs.shape[2], hidden)
    mask = None if lengths is None else torch.arange(inputs.shape[1]) < lengths[:, None]
    error = _error(inputs, hidden, lengths)

    def run() -> None:
        _clear(cell, inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs, _ = scan(cell, inputs, mask=mask, engine=engine)
        outputs.backward(error)

    return run


def _kernel_pass(name: str, inputs: Tensor, hidden: int, lengths: Tensor | None = None, *, half: bool = False) -> Work:
    """The same with `torch.nn`, sequences packed where they have `lengths`."""
    steps, size = inputs.shape[1:]
    module = KERNELS[name](size, hidden, batch_first=True)
    error = _error(inputs, hidden, lengths)

    def forward() -> Tensor:
        if lengths is None:
            outputs, _ = module(inputs)
            return outputs
        packed, _ = module(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(packed, batch_first=True, total_length=steps)[0]

    def run() -> None:
        _clear(module, inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = forward()
        outputs.backward(error.to(outputs.dtype))

    return run


def _products(shape: tuple[int, ...], gates: int) -> Work:
    """The matrix products of a pass and nothing else; the weights take turns, so that no cache holds them."""
    batch, steps, size, hidden = shape
    rows, outputs = batch * steps, gates * hidden
    inputs, errors, state = torch.randn(rows, size), torch.randn(rows, outputs), torch.randn(batch, hidden)
    states, error = torch.randn(rows, hidden), torch.randn(batch, outputs)
    weights = cycle([torch.randn(outputs, hidden) for _ in range(4)])
    weight_input = torch.randn(outputs, size)

    def run() -> None:
        torch.mm(inputs, weight_input.t())
        for _ in range(steps):
            torch.mm(state, next(weights).t())
        for _ in range(steps):
            torch.mm(error, next(weights))
        torch.mm(errors, weight_input)
        torch.mm(errors.t(), inputs)
        torch.mm(errors.t(), states)

    return run


def _error(inputs: Tensor, hidden: int, lengths: Tensor | None) -> Tensor:
    """The outputs' gradient: ones wherever there is an output."""
    ones = torch.ones(*inputs.shape[:2], hidden)
    return ones if lengths is None else ones * (torch.arange(inputs.shape[1]) < lengths[:, None])[:, :, None]


def _clear(module: nn.Module, inputs: Tensor) -> None:
    """Forgets the gradients of the round before."""
    module.zero_grad(set_to_none=True)
    inputs.grad = None
