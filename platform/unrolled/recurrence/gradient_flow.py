"""Gradient flow through time: measured step by step, on any model.

What the cells inside a model do, step by step, while it computes: no model needs to know.

How the gradient flows back through time: measured step by step, on any cell, inside any model.

The gradient of a loss at step τ reaches the state d steps earlier through a product of d step Jacobians
∂s_t/∂s_{t−1}. Their largest singular values bound its growth; below 1 it must vanish, above it may explode
(Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013). s stands for all that a cell
carries: h, and for an LSTM also c.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.gru import GRU
from unrolled.recurrence.lstm import LSTM
from unrolled.recurrence.rnn import RNN
from unrolled.recurrence.stack import Stack, named_stacks


@dataclass
class Trace:
    """What one cell did over a sequence, in the order of reading.

    Attributes:
        mask: `(steps, batch)`, bool; None where every step counts.
        projected, before, after: the input's share, the state before and the state after every step.
    """

    layer: str
    cell: Cell
    mask: Tensor | None = None
    projected: list[Tensor] = field(default_factory=list)
    before: list[State] = field(default_factory=list)
    after: list[State] = field(default_factory=list)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[Cell, Trace]]:
    """While open, every step of every stack in `model` leaves its states in a trace, whichever engine was chosen."""
    traces: dict[Cell, Trace] = {}
    with ExitStack() as undo:
        for name, stack in named_stacks(model):
            _watch(stack, name, traces, undo)
        yield traces


def _watch(stack: Stack, name: str, traces: dict[Cell, Trace], undo: ExitStack) -> None:
    undo.callback(setattr, stack, "engine", stack.engine)
    stack.engine = "autograd"  # the engine that goes through `Cell.step`
    for depth, layer in enumerate(stack.cells(), start=1):
        for cell, arrow in zip(layer, (" →", " ←") if len(layer) > 1 else ("",), strict=True):
            traces[cell] = Trace(f"{name} {depth}{arrow}", cell)
            undo.enter_context(_stepping(traces[cell]))

    def begin(_: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> None:
        mask = inspect.signature(stack.forward).bind(*given, **named).arguments.get("mask")
        for layer in stack.cells():
            for direction, cell in enumerate(layer):
                steps = mask.t() if isinstance(mask, Tensor) else None
                reading = steps.flip(0) if steps is not None and direction == 1 else steps
                trace = traces[cell]
                trace.mask, trace.projected, trace.before, trace.after = reading, [], [], []

    undo.callback(stack.register_forward_pre_hook(begin, with_kwargs=True).remove)


@contextmanager
def _stepping(trace: Trace) -> Iterator[None]:
    cell, step = trace.cell, trace.cell.step

    def traced(projected: Tensor, state: State) -> State:
        # Clones, so that the tensors of a state are independent: h of an LSTM is computed from c of the same step.
        after = tuple(tensor.clone().requires_grad_() for tensor in step(projected, state))
        trace.projected.append(projected.detach())
        trace.before.append(tuple(tensor.detach() for tensor in state))
        trace.after.append(after)
        return after

    vars(cell)["step"] = traced
    try:
        yield
    finally:
        del vars(cell)["step"]


VANISHING, EXPLODING = 0.1, 10.0
"""Share of the gradient at the far end below which it is said to vanish, and above which it is said to explode."""
SAMPLES = 64
"""Steps of a layer whose Jacobian is measured: spread evenly over the batch and its steps."""
ROUNDS = 30


@dataclass(frozen=True)
class LayerGradientFlow:
    """How a loss flows back through one layer, in one direction, averaged over the examples of a batch.

    Attributes:
        layer: such as `decoder 2`, or `encoder 1 ←` for a layer that reads from the end.
        cell: name of its class.
        matrices: largest singular value of every recurrent matrix, gate by gate.
        jacobian: that of the step Jacobian ∂s_t/∂s_{t−1}, geometric mean over at most `SAMPLES` steps.
        norms: ‖∂L/∂h_t‖ for every step in the order of reading, `(steps,)`: the whole loss, all ways included; root
            mean square over the examples.
        left: `(distance + 1,)`: the share of ‖∂L/∂s_τ‖ that is left at s_{τ−d}, where τ is the last step that the loss
            reaches and no later loss adds anything; geometric mean over the examples, as far as half of them reach.
    """

    layer: str
    cell: str
    matrices: list[float]
    jacobian: float
    norms: list[float]
    left: list[float]

    @property
    def growth(self) -> float:
        """Factor a step, geometric mean over the whole distance; NaN where there is no step to go back."""
        distance = len(self.left) - 1
        return self.left[-1] ** (1 / distance) if distance > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """`vanishing` where less than `VANISHING` is left at the end, `exploding` above `EXPLODING`, or `steady`."""
        return "vanishing" if self.left[-1] < VANISHING else "exploding" if self.left[-1] > EXPLODING else "steady"


def gradient_flow(model: nn.Module, loss: Callable[[], Tensor]) -> list[LayerGradientFlow]:
    """Measures every recurrent layer of `model` that `loss` runs and depends on.

    Args:
        model: any module with a `Stack` in it, or a stack; best in float64, where little underflows, and in
            evaluation mode. Its parameters and their gradients stay as they are.
        loss: computes a scalar with the model. Of a stack that it runs several times, the last run is measured.
    """
    with record(model) as traces:
        value = loss()
    flows = [_flow(trace, value) for trace in traces.values() if trace.after]
    return [flow for flow in flows if flow is not None]


def _flow(trace: Trace, loss: Tensor) -> LayerGradientFlow | None:
    gradients = _gradients(loss, trace.after)
    reached = _norms(gradients) > 0
    if not reached.any():
        return None
    steps = torch.arange(len(reached), device=reached.device)[:, None]
    last = torch.where(reached, steps, -1).amax(0)
    ends = (steps == last)[:, :, None]
    sources = [
        (ends[t] * after[k] * gradients[t][k]).sum() for t, after in enumerate(trace.after) for k in range(len(after))
    ]
    back = _norms(_gradients(torch.stack(sources).sum(), trace.after))
    valid = (torch.ones_like(reached) if trace.mask is None else trace.mask) & (steps <= last)
    reading = (valid.sum(1) > 0).nonzero().flatten()
    squares = torch.stack([gradient[0].square().sum(-1) for gradient in gradients])
    return LayerGradientFlow(
        trace.layer,
        type(trace.cell).__name__,
        matrix_singular_values(trace.cell),
        _mean_jacobian(trace, valid),
        ((squares * valid).sum(1) / valid.sum(1))[reading].sqrt().tolist(),
        _left(back, valid),
    )


def _gradients(loss: Tensor, states: list[State]) -> list[State]:
    """∂loss/∂s for every step, zeros where the loss does not depend on it."""
    flat = [tensor for state in states for tensor in state]
    found = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(at) if value is None else value for at, value in zip(flat, found, strict=True)]
    size = len(states[0])
    return [tuple(filled[i : i + size]) for i in range(0, len(filled), size)]


def _norms(gradients: list[State]) -> Tensor:
    """L2 norms over all tensors of a state, `(steps, batch)`."""
    return torch.stack([torch.linalg.vector_norm(torch.cat(state, dim=-1), dim=-1) for state in gradients])


def _left(norms: Tensor, valid: Tensor) -> list[float]:
    """Shares by distance from norms by step, both `(steps, batch)`; steps that carry padding are no distance."""
    behind = valid.flip(0).cumsum(0).flip(0) - 1
    logs = []
    for distance in range(int(behind.max()) + 1):
        here = valid & (behind == distance)
        if 2 * int(here.sum()) < int(valid.any(0).sum()):
            break
        rows = here.any(0)
        start = norms.where(valid & (behind == 0), 0.0).sum(0)[rows]
        logs.append((norms.where(here, 0.0).sum(0)[rows] / start).log().mean())
    return torch.stack(logs).exp().tolist()


def matrix_singular_values(cell: Cell) -> list[float]:
    """Returns σ_max of every `(hidden, hidden)` block of the recurrent weights, in the order of the cell's gates."""
    weights = [value for name, value in cell.named_parameters() if name.startswith("weight_hidden")]
    blocks = [block for weight in weights for block in torch.split(weight.detach(), cell.hidden_size)]
    return [float(torch.linalg.matrix_norm(block, 2)) for block in blocks]


def _mean_jacobian(trace: Trace, valid: Tensor) -> float:
    """Geometric mean of the Jacobians' largest singular values over steps spread evenly over those that count."""
    steps, rows = valid.nonzero(as_tuple=True)
    chosen = torch.linspace(0, len(steps) - 1, min(SAMPLES, len(steps)), device=steps.device).round().long()
    picked = list(zip(steps[chosen].tolist(), rows[chosen].tolist(), strict=True))
    projected = torch.stack([trace.projected[t][b] for t, b in picked])
    state = tuple(torch.stack([trace.before[t][k][b] for t, b in picked]) for k in range(len(trace.before[0])))
    return float(jacobian_singular_values(trace.cell, projected, state).log().mean().exp())


@torch.no_grad()
def jacobian_singular_values(cell: Cell, projected: Tensor, state: State, rounds: int = ROUNDS) -> Tensor:
    """Largest singular value of ∂s'/∂s where s' = cell.step(projected, s), row by row: `(batch,)`.

    Lanczos on JᵀJ with full re-orthogonalisation (Golub & Van Loan, "Matrix Computations", 10.4): `rounds` products
    with J (forward mode) and with Jᵀ (reverse mode), so J is never formed. Approaches from below; exact for states of
    at most `rounds` features.

    Args:
        projected: `(batch, …)`, as `cell.project` gives it for one step.
        state: tensors `(batch, hidden)`.
    """
    sizes = [tensor.shape[-1] for tensor in state]

    def step(joined: Tensor) -> Tensor:
        return torch.cat(cell.step(projected, torch.split(joined, sizes, dim=-1)), dim=-1)

    joined = torch.cat(state, dim=-1)
    pull_back = torch.func.vjp(step, joined)[1]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(joined.shape, generator=generator, dtype=joined.dtype).to(joined.device)
    basis, images = joined.new_zeros(len(joined), 0, sum(sizes)), []
    for _ in range(min(rounds, sum(sizes))):
        length = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        for _ in range(2):  # once leaves rounding errors behind
            direction = direction - torch.einsum("brs,br->bs", basis, torch.einsum("brs,bs->br", basis, direction))
        new = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        is_new = new > torch.finfo(new.dtype).eps ** 0.5 * length  # else the basis holds all that J can reach
        direction = torch.where(is_new, direction / new, 0.0)
        basis = torch.cat([basis, direction[:, None]], dim=1)
        with warnings.catch_warnings():  # torch's own forward mode loads what torch calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            images.append(torch.func.jvp(step, (joined,), (direction,))[1])
        (direction,) = pull_back(images[-1])
    largest: Tensor = torch.linalg.matrix_norm(torch.stack(images, dim=1), 2)
    return largest


TEXTBOOK_SIGMAS = (0.5, 0.9, 1.0, 1.1, 1.5)


def textbook_gradient_flow(hidden: int = 64, steps: int = 50) -> dict[str, LayerGradientFlow]:
    """The picture of the textbooks, by name: fresh cells read small random inputs, the loss is at the last step alone.

    Vanilla networks with an orthogonal recurrent matrix times σ; beside them an LSTM as it starts (forget bias 1), one
    with a forget bias of 4, and a GRU. Float64 and the same numbers on every call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stacks = {f"RNN, σ = {sigma}": _fresh(RNN, hidden, sigma=sigma) for sigma in TEXTBOOK_SIGMAS}
        stacks |= {f"LSTM, forget bias {bias}": _fresh(LSTM, hidden, forget_bias=bias) for bias in (1, 4)}
        stacks["GRU"] = _fresh(GRU, hidden)
        inputs = 0.01 * torch.randn(1, steps + 1, hidden, dtype=torch.float64)
        weights = torch.randn(hidden, dtype=torch.float64)

    def last(stack: Stack) -> Tensor:
        outputs: Tensor = stack(inputs)[0]
        return outputs[0, -1] @ weights

    return {name: gradient_flow(stack, partial(last, stack))[0] for name, stack in stacks.items()}


def _fresh(kind: type[Cell], hidden: int, *, sigma: float | None = None, forget_bias: float | None = None) -> Stack:
    stack = Stack(kind, hidden, hidden).double()
    ((cell,),) = stack.cells()
    if sigma is not None:
        nn.init.orthogonal_(cell.weight_hidden, gain=sigma)
    if forget_bias is not None:
        nn.init.constant_(cell.bias.data.chunk(cell.num_gates)[1], forget_bias)
    return stack
