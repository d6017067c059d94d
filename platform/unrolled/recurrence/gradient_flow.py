"""Gradient flow through time: measured step by step, in any model.

The gradient of a loss at step τ reaches the state d steps earlier through a product of d step Jacobians
∂s_t/∂s_{t−1}. Their largest singular values bound its growth; below 1 it must vanish, above it may explode
(Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013). s stands for the whole state of a
cell: h, and for an LSTM also c.
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

VANISHING, EXPLODING = 0.1, 10.0
"""Fraction of the gradient that remains at the largest distance: below, it vanishes, and above, it explodes."""
MAX_JACOBIANS = 64
"""Steps per layer whose Jacobian is measured, spread evenly over the batch and its steps."""
LANCZOS_ROUNDS = 30


@dataclass(frozen=True)
class LayerGradientFlow:
    """Flow of a loss's gradient back through one layer, in one direction, averaged over the examples of a batch.

    Attributes:
        layer: such as `decoder 2`, or `encoder 1 ←` for a layer that runs from the end.
        cell: name of its class.
        matrices: largest singular value of every recurrent matrix, gate by gate.
        jacobian: largest singular value of the step Jacobian ∂s_t/∂s_{t−1}, geometric mean over at most
            `MAX_JACOBIANS` steps.
        norms: ‖∂L/∂h_t‖ of every step in the layer's direction, `(steps,)`: of the whole loss, over all paths; root
            mean square over the examples.
        remaining: `(distance + 1,)`: the fraction of ‖∂L/∂s_τ‖ that remains at s_{τ−d}, where τ is the last step that
            the loss reaches and no later loss contributes; geometric mean over the examples, as far as half of them
            reach.
    """

    layer: str
    cell: str
    matrices: list[float]
    jacobian: float
    norms: list[float]
    remaining: list[float]

    @property
    def growth(self) -> float:
        """Factor per step, geometric mean over the whole distance; NaN if there is no step to go back."""
        distance = len(self.remaining) - 1
        return self.remaining[-1] ** (1 / distance) if distance > 0 else float("nan")

    @property
    def verdict(self) -> str:
        """`vanishing` if less than `VANISHING` remains at the largest distance, `exploding` if more than `EXPLODING`,
        else `steady`."""
        left = self.remaining[-1]
        return "vanishing" if left < VANISHING else "exploding" if left > EXPLODING else "steady"


def gradient_flow(model: nn.Module, loss: Callable[[], Tensor]) -> list[LayerGradientFlow]:
    """Measures every recurrent layer of `model` that `loss` runs and depends on.

    Args:
        model: any module with a `Stack` in it, or a stack; best in float64, where little underflows, and in
            evaluation mode. Its parameters and their gradients stay as they are.
        loss: computes a scalar with the model. Of a stack that it runs several times, the last run is measured.
    """
    with record_steps(model) as traces:
        value = loss()
    flows = [_layer_flow(trace, value) for trace in traces.values() if trace.after]
    return [flow for flow in flows if flow is not None]


@dataclass
class Trace:
    """Steps of one cell over a sequence, in the cell's direction.

    Attributes:
        mask: `(steps, batch)`, bool; None if every step counts.
        projected, before, after: projected input, state before and state after every step.
    """

    layer: str
    cell: Cell
    mask: Tensor | None = None
    projected: list[Tensor] = field(default_factory=list)
    before: list[State] = field(default_factory=list)
    after: list[State] = field(default_factory=list)


@contextmanager
def record_steps(model: nn.Module) -> Iterator[dict[Cell, Trace]]:
    """While open, every stack in `model` runs step by step, whichever engine was chosen, and records its states."""
    traces: dict[Cell, Trace] = {}
    with ExitStack() as undo:
        for name, stack in named_stacks(model):
            _record_stack(stack, name, traces, undo)
        yield traces


def _record_stack(stack: Stack, name: str, traces: dict[Cell, Trace], undo: ExitStack) -> None:
    undo.callback(setattr, stack, "engine", stack.engine)
    stack.engine = "autograd"  # the engine that calls `Cell.step`
    for depth, layer in enumerate(stack.cells(), start=1):
        for cell, arrow in zip(layer, (" →", " ←") if len(layer) > 1 else ("",), strict=True):
            traces[cell] = Trace(f"{name} {depth}{arrow}", cell)
            undo.enter_context(_record_cell(traces[cell]))

    def begin(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        mask = inspect.signature(stack.forward).bind(*args, **kwargs).arguments.get("mask")
        for layer in stack.cells():
            for direction, cell in enumerate(layer):
                by_time = mask.t() if isinstance(mask, Tensor) else None
                trace = traces[cell]
                trace.mask = by_time.flip(0) if by_time is not None and direction == 1 else by_time
                trace.projected, trace.before, trace.after = [], [], []

    undo.callback(stack.register_forward_pre_hook(begin, with_kwargs=True).remove)


@contextmanager
def _record_cell(trace: Trace) -> Iterator[None]:
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


def _layer_flow(trace: Trace, loss: Tensor) -> LayerGradientFlow | None:
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
    norms = _norms(_gradients(torch.stack(sources).sum(), trace.after))
    valid = (torch.ones_like(reached) if trace.mask is None else trace.mask) & (steps <= last)
    nonempty = (valid.sum(1) > 0).nonzero().flatten()
    squares = torch.stack([gradient[0].square().sum(-1) for gradient in gradients])
    return LayerGradientFlow(
        trace.layer,
        type(trace.cell).__name__,
        matrix_singular_values(trace.cell),
        _mean_jacobian(trace, valid),
        ((squares * valid).sum(1) / valid.sum(1))[nonempty].sqrt().tolist(),
        _remaining(norms, valid),
    )


def _gradients(loss: Tensor, states: list[State]) -> list[State]:
    """∂loss/∂s for every step, zeros where the loss does not depend on it."""
    flat = [tensor for state in states for tensor in state]
    grads = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(at) if grad is None else grad for at, grad in zip(flat, grads, strict=True)]
    size = len(states[0])
    return [tuple(filled[i : i + size]) for i in range(0, len(filled), size)]


def _norms(gradients: list[State]) -> Tensor:
    """L2 norms over all tensors of a state, `(steps, batch)`."""
    return torch.stack([torch.linalg.vector_norm(torch.cat(state, dim=-1), dim=-1) for state in gradients])


def _remaining(norms: Tensor, valid: Tensor) -> list[float]:
    """Remaining fractions by distance, from norms by step, both `(steps, batch)`; padding steps add no distance."""
    distances = valid.flip(0).cumsum(0).flip(0) - 1
    logs = []
    for distance in range(int(distances.max()) + 1):
        here = valid & (distances == distance)
        if 2 * int(here.sum()) < int(valid.any(0).sum()):
            break
        rows = here.any(0)
        start = norms.where(valid & (distances == 0), 0.0).sum(0)[rows]
        logs.append((norms.where(here, 0.0).sum(0)[rows] / start).log().mean())
    return torch.stack(logs).exp().tolist()


def matrix_singular_values(cell: Cell) -> list[float]:
    """Returns σ_max of every `(hidden, hidden)` block of the recurrent weights, in the order of the cell's gates."""
    weights = [value for name, value in cell.named_parameters() if name.startswith("weight_hidden")]
    blocks = [block for weight in weights for block in torch.split(weight.detach(), cell.hidden_size)]
    return [float(torch.linalg.matrix_norm(block, 2)) for block in blocks]


def _mean_jacobian(trace: Trace, valid: Tensor) -> float:
    """Geometric mean of the Jacobians' largest singular values over steps spread evenly over the valid ones."""
    steps, rows = valid.nonzero(as_tuple=True)
    chosen = torch.linspace(0, len(steps) - 1, min(MAX_JACOBIANS, len(steps)), device=steps.device).round().long()
    indices = list(zip(steps[chosen].tolist(), rows[chosen].tolist(), strict=True))
    projected = torch.stack([trace.projected[t][b] for t, b in indices])
    state = tuple(torch.stack([trace.before[t][k][b] for t, b in indices]) for k in range(len(trace.before[0])))
    return float(jacobian_singular_values(trace.cell, projected, state).log().mean().exp())


@torch.no_grad()
def jacobian_singular_values(cell: Cell, projected: Tensor, state: State, rounds: int = LANCZOS_ROUNDS) -> Tensor:
    """Largest singular value of ∂s'/∂s where s' = cell.step(projected, s), row by row: `(batch,)`.

    Lanczos on JᵀJ with full re-orthogonalisation (Golub & Van Loan, "Matrix Computations", 10.4): `rounds` products
    with J (forward mode) and with Jᵀ (reverse mode); J is never formed. The result approaches from below and is exact
    for states of at most `rounds` features.

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
        for _ in range(2):  # once leaves rounding errors
            direction = direction - torch.einsum("brs,br->bs", basis, torch.einsum("brs,bs->br", basis, direction))
        new = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        is_new = new > torch.finfo(new.dtype).eps ** 0.5 * length  # else the basis spans the whole range
        direction = torch.where(is_new, direction / new, 0.0)
        basis = torch.cat([basis, direction[:, None]], dim=1)
        with warnings.catch_warnings():  # torch's forward mode imports what torch deprecates
            warnings.simplefilter("ignore", FutureWarning)
            images.append(torch.func.jvp(step, (joined,), (direction,))[1])
        (direction,) = pull_back(images[-1])
    largest: Tensor = torch.linalg.matrix_norm(torch.stack(images, dim=1), 2)
    return largest


TEXTBOOK_SIGMAS = (0.5, 0.9, 1.0, 1.1, 1.5)


def textbook_gradient_flow(hidden: int = 64, steps: int = 50) -> dict[str, LayerGradientFlow]:
    """Returns reference flows by name: untrained cells, small random inputs, the loss at the last step alone.

    Vanilla networks with an orthogonal recurrent matrix times σ, an LSTM with its initial forget bias of 1 and one with
    a forget bias of 4, and a GRU. Computed in float64, with the same numbers on every call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stacks = {f"RNN, σ = {sigma}": _untrained(RNN, hidden, sigma=sigma) for sigma in TEXTBOOK_SIGMAS}
        stacks |= {f"LSTM, forget bias {bias}": _untrained(LSTM, hidden, forget_bias=bias) for bias in (1, 4)}
        stacks["GRU"] = _untrained(GRU, hidden)
        inputs = 0.01 * torch.randn(1, steps + 1, hidden, dtype=torch.float64)
        weights = torch.randn(hidden, dtype=torch.float64)

    def last(stack: Stack) -> Tensor:
        outputs: Tensor = stack(inputs)[0]
        return outputs[0, -1] @ weights

    return {name: gradient_flow(stack, partial(last, stack))[0] for name, stack in stacks.items()}


def _untrained(kind: type[Cell], hidden: int, *, sigma: float | None = None, forget_bias: float | None = None) -> Stack:
    stack = Stack(kind, hidden, hidden).double()
    ((cell,),) = stack.cells()
    if sigma is not None:
        nn.init.orthogonal_(cell.weight_hidden, gain=sigma)
    if forget_bias is not None:
        nn.init.constant_(cell.bias.data.chunk(cell.num_gates)[1], forget_bias)
    return stack
