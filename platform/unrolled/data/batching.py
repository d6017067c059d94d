"""Batches of similar length, planned for all workers.

The plan is a list of global batches. A worker takes its slice of each, so any number of workers sees the same
global batches, and a position in the list is all that resuming needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from unrolled.data.tokenizer import BEGIN, END, PAD

WINDOW = 100_000
"""Examples that are shuffled and sorted together: bounds the memory and the disk distance of a plan."""


@dataclass(frozen=True)
class Batch:
    """Padded tokens of some examples; masks are False on padding.

    Attributes:
        inputs, input_mask: `(batch, positions)`, with an end symbol, so that even an empty text has a token.
        before: `(batch, time)`, begin symbol and target: what the decoder reads.
        after: `(batch, time)`, target and end symbol: what it should write.
        target_mask: `(batch, time)`.
    """

    inputs: Tensor
    input_mask: Tensor
    decoder_inputs: Tensor
    targets: Tensor
    target_mask: Tensor

    def to(self, device: torch.device) -> Self:
        """Moves every tensor."""
        return type(self)(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


def plan(lengths: np.ndarray, *, batch_tokens: int, max_length: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Plans the global batches of one epoch.

    Args:
        lengths: `(examples, 2)`, tokens of input and target.
        batch_tokens: most padded tokens of the longer side in a batch; an example longer than that stands alone.
        max_length: examples with a longer side than this are left out.

    Returns:
        Example numbers, one array a batch, in the order of training.
    """
    generator = np.random.default_rng([seed, epoch])
    usable = np.flatnonzero(lengths.max(1) <= max_length)
    order = generator.permutation(usable)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        inputs, targets = lengths[window].T
        # By input, then by target, up and down in turn: neighbours are alike on both sides, so little is padded.
        window = window[np.lexsort((np.where(inputs % 2, targets, -targets), inputs))]
        batches += np.split(window, _cuts(lengths[window].max(1), batch_tokens))
    return [batches[i] for i in generator.permutation(len(batches))]


def _cuts(lengths: np.ndarray, budget: int) -> list[int]:
    """Where a run of examples must be cut so that every part, padded to its longest, stays within the budget."""
    cuts: list[int] = []
    start = longest = 0
    for i, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if i > start and longest * (i + 1 - start) > budget:
            cuts.append(i)
            start, longest = i, length
    return cuts


def padding_fraction(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """The share of padding in planned batches, both sides together; arguments as `plan` has and returns them."""
    padded = sum(len(batch) * int(lengths[batch].max(0).sum()) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def pad(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Stacks rows of tokens: `(batch, longest)` and its mask."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()) if rows else 0) < lengths[:, None]
    tokens = torch.full(mask.shape, PAD)
    tokens[mask] = torch.from_numpy(np.concatenate(rows).astype(np.int64)) if rows else tokens.new_empty(0)
    return tokens, mask


def collate_inputs(inputs: Sequence[Sequence[int] | np.ndarray]) -> tuple[Tensor, Tensor]:
    """Returns padded tokens `(batch, positions)` with end symbols, and their mask."""
    return pad([np.concatenate((row, [END])) for row in inputs])


def collate(inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Batch:
    """Makes a batch of examples given without begin and end symbols."""
    padded, input_mask = collate_inputs(inputs)
    before, target_mask = pad([np.concatenate(([BEGIN], target)) for target in targets])
    after, _ = pad([np.concatenate((target, [END])) for target in targets])
    return Batch(padded, input_mask, before, after, target_mask)
