"""Batches of pointing questions: tokens, photographs and candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The candidates of questions, as places among the regions of a batch.

    Attributes:
        places: `(batch, most)`; 0 on padding.
        there: `(batch, most)`, False on padding.
        right: place of the right one in the row, `(batch,)`; 0 where it is not known.
    """

    places: Tensor
    there: Tensor
    right: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Candidates:
        """Moves every tensor."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items()}
        return Candidates(**moved)


@dataclass(frozen=True)
class PointingBatch:
    """Questions, their photographs and candidates, each of these once.

    Attributes:
        pictures: what the encoder reads, `(photographs, …)`.
        owners: the photograph of each question, `(batch,)`.
        tokens, mask: of the questions, `(batch, time)`, padded at the end.
        features: of the regions, `(regions, channels)`; `None` where they are read off the grid.
        edges: of the regions: left, top, right and bottom as shares of the photograph's sides, `(regions, 4)`.
        region_owners: the photograph of each region, by its place in `pictures`, `(regions,)`.
    """

    pictures: Tensor
    owners: Tensor
    tokens: Tensor
    mask: Tensor
    features: Tensor | None
    edges: Tensor
    region_owners: Tensor
    candidates: Candidates

    def to(self, device: torch.device) -> PointingBatch:
        """Moves every tensor."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.owners)


def candidates_of(choices: Sequence[Sequence[str]], rights: Sequence[int], regions: Sequence[str]) -> Candidates:
    """Finds the candidates of questions, given by their ids, among the regions of a batch.

    Args:
        choices: of each question, one or more.
        rights: place of the right one among them; -1: not known.
    """
    number = {region: place for place, region in enumerate(regions)}
    most = max(map(len, choices))
    places = torch.zeros(len(choices), most, dtype=torch.long)
    there = torch.zeros(len(choices), most, dtype=torch.bool)
    for row, own in enumerate(choices):
        places[row, : len(own)] = torch.tensor([number[region] for region in own])
        there[row, : len(own)] = True
    return Candidates(places, there, torch.tensor(rights).clamp(min=0))
