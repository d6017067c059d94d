"""Region pointer: a model that chooses the region of a photograph that a question asks for.

Zhu et al. 2016, "Visual7W", section 5.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models.decoder import Decoder
from unrolled.models.encoders import ImageEncoder
from unrolled.recurrence import Dropout

LOCATION_FEATURES = 5
"""Features of a region's location: its edges and its area."""
MIN_DEVIATION = 0.25
"""Smallest divisor of a channel, as a fraction of the channels' mean deviation."""


class Regions(NamedTuple):
    """Candidate regions of a batch, each once.

    Attributes:
        features: of the network for each region, `(regions, channels)`; `None`: they are read off the grid.
        edges: left, top, right and bottom as fractions of the photograph's sides, `(regions, 4)`.
        photo_index: photograph of each region in the batch, `(regions,)`.
    """

    features: Tensor | None
    edges: Tensor
    photo_index: Tensor


class RegionEncoder(nn.Module):
    """v = W f̂ + P g + b of a region's feature f and its location g, with f̂ = (norm(f) − m) / d.

    norm brings a region's channels to mean 0 and variance 1, because the size of a network's features depends on the
    sharpness of the crop, not on its content. m and d are mean and deviation of every channel over many regions, if
    they are known (`fit_normalization`): what all regions have in common would hide their differences.

    Args:
        channels: of f.
        size: of v.
        cells: points per side that are read off a grid.
        use_location: whether g is used. P is initialised to zero, so that a model trained without it can be continued.
        dropout: of f̂.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, size: int, cells: int, *, use_location: bool, dropout: Dropout) -> None:
        super().__init__()
        self.map, self.cells, self.dropout = nn.Linear(channels, size), cells, dropout
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.location = nn.Linear(LOCATION_FEATURES, size, bias=False) if use_location else None
        if self.location is not None:
            nn.init.zeros_(self.location.weight)

    @torch.no_grad()
    def fit_normalization(self, features: Tensor) -> None:
        """Sets m and d from the features of many regions, `(regions, channels)`; d has a lower limit, so that channels
        that hardly vary are not amplified."""
        deviation, mean = torch.std_mean(self._normalize(features), dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=MIN_DEVIATION * float(deviation.mean())))

    def forward(self, regions: Regions, grids: Tensor) -> Tensor:
        """Returns v, `(regions, size)`, on the grids `(photographs, positions, channels)` of the photographs."""
        features = self._read_off(regions, grids) if regions.features is None else regions.features
        encoded: Tensor = self.map(self.dropout((self._normalize(features) - self.mean) / self.deviation))
        if self.location is None:
            return encoded
        left, top, right, bottom = regions.edges.unbind(-1)
        area = (right - left) * (bottom - top)
        located: Tensor = self.location(torch.stack([left, top, right, bottom, area], dim=-1).to(encoded.dtype))
        return encoded + located

    def _normalize(self, features: Tensor) -> Tensor:
        return functional.layer_norm(features, features.shape[-1:])

    def _read_off(self, regions: Regions, grids: Tensor) -> Tensor:
        """Interpolates `cells`² points of each region from the grid (He et al. 2017, "Mask R-CNN")."""
        from torchvision.ops import roi_align

        side = round(grids.shape[1] ** 0.5)
        maps = grids.transpose(1, 2).reshape(len(grids), -1, side, side)
        boxes = torch.cat([regions.photo_index[:, None].to(maps.dtype), regions.edges.to(maps.dtype) * side], dim=1)
        points: Tensor = roi_align(maps, boxes, self.cells, sampling_ratio=2, aligned=True)
        return points.flatten(1)


class RegionScores(NamedTuple):
    """Result of a `RegionPointer`.

    Attributes:
        scores: of every question and every region of the batch, `(batch, regions)`.
        weights: of attention at the question's last token, `(batch, positions)`, if there is attention.
    """

    scores: Tensor
    weights: Tensor | None


class RegionPointer(nn.Module):
    """Scores regions by the product h · v of the question reader's last state and the region's vector.

    Args:
        encoder: of the photographs.
        reader: a decoder without readout, whose first input is the photograph and whose tokens are the question's.
        network: pixels → grids, if it is trained too; `None`: the inputs are grids.
        sees: whether the reader sees the photograph; else zeros.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        reader: Decoder,
        regions: RegionEncoder,
        network: nn.Module | None = None,
        *,
        sees: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.encoder, self.reader, self.regions, self.sees = network, encoder, reader, regions, sees

    def forward(
        self, photos: Tensor, photo_index: Tensor, tokens: Tensor, mask: Tensor, regions: Regions
    ) -> RegionScores:
        """Scores regions.

        Args:
            photos: grids `(photographs, positions, channels)`, or pixels if there is a network.
            photo_index: photograph of each question, `(batch,)`.
            tokens: of the questions, `(batch, time)`, padded at the end; one token at least.
            mask: `(batch, time)`, False on padding.
        """
        grids = photos if self.network is None else self.network(photos)
        memory = self.reader.prepare(self.encoder(grids if self.sees else torch.zeros_like(grids))).select(photo_index)
        window = self.reader.window(memory, tokens, self.reader.start(memory))
        rows, last = torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1
        weights = None if window.weights is None else window.weights[rows, last]
        return RegionScores(window.outputs[rows, last] @ self.regions(regions, grids).t(), weights)
