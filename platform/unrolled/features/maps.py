"""Cuts any convolutional classifier down to the part that makes a map of features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, fx, nn


class Cut(NamedTuple):
    """A network up to a map of `channels` and `positions`, its rows and columns."""

    network: fx.GraphModule
    channels: int
    positions: tuple[int, int]


class _Shapes(fx.Interpreter):
    """Runs a graph and remembers the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def last_map(network: nn.Module, size: int, side: int) -> Cut:
    """Returns the network up to its last map of at least `side` × `side` positions (and of more than one).

    Pooling to a single position, dropout and the classifier fall away; names of parameters stay. Behaviour is that of
    evaluation: dropout is left out, and normalisation uses its own statistics.

    Args:
        network: for pictures `(n, 3, size, size)`, made of operations that torch.fx can trace.

    Raises:
        ValueError: the network cannot be traced, or makes no such map.
    """
    network.eval()
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # of tracing, by whatever the network does
        raise ValueError(f"torch.fx cannot trace it ({error})") from None
    known = _Shapes(traced)
    with torch.inference_mode():
        known.run(torch.zeros(1, 3, size, size))
    least = max(side, 2)
    fitting = [node for node, shape in known.shapes.items() if len(shape) == 4 and min(shape[2:]) >= least]
    fitting = [node for node in fitting if node.op not in ("placeholder", "output")]
    if not fitting:
        raise ValueError(f"it makes no map of {side} × {side} positions from {size} × {size} pixels")
    node = fitting[-1]
    (output,) = traced.graph.find_nodes(op="output")
    output.args = (node,)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    _, channels, rows, columns = known.shapes[node]
    return Cut(traced, channels, (rows, columns))
