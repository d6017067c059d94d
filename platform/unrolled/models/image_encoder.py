"""From what a convolutional network made of a picture to a `Memory`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.models.memory import Memory
from unrolled.recurrence import Dropout


class ImageEncoder(nn.Module):
    """Positions of a grid, or one position that is the whole picture.

    Args:
        channels: features of a position, as the network gives them.
        size: features of a position as the decoder sees them, max(0, W x + b); `None`: those the network gives.
        dropout: of the positions, after the map.
        network: pixels `(pictures, 3, height, width)` → grids `(pictures, positions, channels)`, where it is trained
            with the decoder; `None`: grids are given.
        grid: whether the decoder looks at positions; else it is given their mean as the only one.
        placed: positions, to each of which a learned vector is added, by which the decoder knows where it looks (as
            Gehring et al. 2017, section 3.1, for words); 0: none is.
        spread: deviation of these vectors at first.
    """

    def __init__(
        self,
        channels: int,
        size: int | None,
        dropout: Dropout,
        *,
        network: nn.Module | None = None,
        grid: bool = True,
        placed: int = 0,
        spread: float = 0.1,
    ) -> None:
        super().__init__()
        self.network, self.grid, self.dropout = network, grid, dropout
        self.map = None if size is None else nn.Linear(channels, size)
        self.memory_size = size or channels
        self.places = nn.Parameter(spread * torch.randn(placed, self.memory_size)) if placed else None
        self.kind: Tensor
        self.register_buffer("kind", torch.empty(0), persistent=False)  # of the type that the model computes in

    def forward(self, pictures: Tensor) -> Memory:
        """Grids `(pictures, positions, channels)`, or pixels where there is a network; the summary is the mean."""
        grids = pictures.to(self.kind.dtype) if self.network is None else self.network(pictures)
        if not self.grid:
            grids = grids.mean(1, keepdim=True)
        states = grids if self.map is None else self.map(grids)
        if self.places is not None:  # before the rectifier, so that the mean, too, says what is where
            states = states + self.places
        states = self.dropout(states if self.map is None else torch.relu(states))
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mean = states.sum(1) / states.shape[1]  # of torch's own, the gradient would be written out for every position
        return Memory(states, mask, mean)
