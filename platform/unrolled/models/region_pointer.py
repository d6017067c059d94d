"""Region pointer: a model that chooses a region of a photograph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.models import decoder_loop
from unrolled.models.attention import Attention
from unrolled.models.attention_feeding import ContextFeeding
from unrolled.models.decoder import ImageVector
from unrolled.models.encoders import EncoderOutput, ImageEncoder, Rows
from unrolled.recurrence import Dropout, Stack

PLACE = 5
"""Numbers that say where a region lies: its edges and its share of the photograph."""


LEAST = 0.25
"""Of the channels' mean deviation, the least that a channel is divided by."""


class Regions(NamedTuple):
    """Candidates of a batch, each once.

    Attributes:
        features: what the network made of each, `(regions, channels)`; `None` where they are read off the grid.
        edges: left, top, right and bottom as shares of the photograph's sides, `(regions, 4)`.
        source_index: the photograph of each, by its place in the batch, `(regions,)`.
    """

    features: Tensor | None
    edges: Tensor
    source_index: Tensor


class RegionEncoder(nn.Module):
    """v = W f̂ + P g + b of a region's feature f and its place g, with f̂ = (norm(f) − m) / d.

    norm brings a region's channels to mean 0 and variance 1: features of one network differ in size with the sharpness
    of what is cut out, which says nothing about what it is. m and d are mean and deviation of every channel over many
    regions, where these are known (`center`): what all regions have in common would hide in what they differ.

    Args:
        channels: of f.
        size: of v.
        cells: points a side that are read off a grid.
        places: whether g counts. P begins at zero, so that what was learned without it holds.
        dropout: of f̂.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, size: int, cells: int, *, places: bool, dropout: Dropout) -> None:
        super().__init__()
        self.map, self.cells, self.dropout = nn.Linear(channels, size), cells, dropout
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.place = nn.Linear(PLACE, size, bias=False) if places else None
        if self.place is not None:
            nn.init.zeros_(self.place.weight)

    @torch.no_grad()
    def fit_normalization(self, features: Tensor) -> None:
        """Takes m and d from the features of many regions, `(regions, channels)`; no channel that hardly varies becomes
        as loud as the others."""
        deviation, mean = torch.std_mean(self._normal(features), dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=LEAST * float(deviation.mean())))

    def forward(self, regions: Regions, grids: Tensor) -> Tensor:
        """Returns v, `(regions, size)`.

        Args:
            grids: of the photographs, `(photographs, positions, channels)`.
        """
        features = self._aligned(regions, grids) if regions.features is None else regions.features
        seen: Tensor = self.map(self.dropout((self._normal(features) - self.mean) / self.deviation))
        if self.place is None:
            return seen
        left, top, right, bottom = regions.edges.unbind(-1)
        area = (right - left) * (bottom - top)
        placed: Tensor = self.place(torch.stack([left, top, right, bottom, area], dim=-1).to(seen.dtype))
        return seen + placed

    def _normal(self, features: Tensor) -> Tensor:
        return functional.layer_norm(features, features.shape[-1:])

    def _aligned(self, regions: Regions, grids: Tensor) -> Tensor:
        """Reads `cells`² points off the grid, each between the positions around it (He et al. 2017, "Mask R-CNN")."""
        from torchvision.ops import roi_align

        side = round(grids.shape[1] ** 0.5)
        maps = grids.transpose(1, 2).reshape(len(grids), -1, side, side)
        boxes = torch.cat([regions.source_index[:, None].to(maps.dtype), regions.edges.to(maps.dtype) * side], dim=1)
        points: Tensor = roi_align(maps, boxes, self.cells, sampling_ratio=2, aligned=True)
        return points.flatten(1)


class QuestionReader(nn.Module):
    """A recurrent network whose first input is the picture, and whose others are a question's tokens. With attention
    the state before a token looks at the positions, and what it saw stands beside the token."""

    def __init__(
        self, embedding: nn.Embedding, stack: Stack, glance: ImageVector, attention: Attention | None, dropout: Dropout
    ) -> None:
        super().__init__()
        self.embedding, self.stack, self.glance, self.attention = embedding, stack, glance, attention
        self.feeding = None if attention is None else ContextFeeding(stack.output_size, gated=False)
        self.dropout = dropout

    def forward(
        self, picture: EncoderOutput, source_index: Tensor, tokens: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Reads questions.

        Args:
            picture: of each photograph.
            source_index: the photograph of each question, `(batch,)`.
            tokens: `(batch, time)`, padded at the end; one token at least.
            mask: `(batch, time)`, False on padding.

        Returns:
            The last state h of each, `(batch, hidden)`, and the weights of its last look, `(batch, positions)`.
        """
        embedded, last = self.dropout(self.embedding(tokens)), mask.sum(1) - 1
        rows = torch.arange(len(tokens), device=tokens.device)
        seen = self.glance(picture.summary)[source_index]
        if self.attention is None:
            _, state = self.stack.step(seen, self.stack.begin(len(tokens)))
            hidden, _ = self.stack(embedded, state)
            return hidden[rows, last], None
        hidden, weights = self._look(picture, source_index, seen, embedded)
        return hidden[rows, last], weights[rows, last]

    def _look(
        self, picture: EncoderOutput, source_index: Tensor, seen: Tensor, embedded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States and weights of all steps."""
        attention, feeding = self.attention, self.feeding
        assert attention is not None and feeding is not None
        memory = EncoderOutput(picture.states, picture.mask, picture.summary, attention.keys(picture.states)).select(
            source_index
        )
        nothing = memory.summary.new_zeros(memory.summary.shape)  # no state has looked yet
        _, state = self.stack.step(seen, self.stack.begin(len(embedded)), nothing)
        if decoder_loop.applies(self.stack):
            run = feeding.run(self.stack, attention, embedded, memory, state)
            return run.hidden, run.weights
        each, looked = [], []
        for token in embedded.unbind(1):
            rows = Rows.uniform(len(token), 1, token.device)
            context, weights = feeding(attention, state[-1][0][0], memory, rows)
            hidden, state = self.stack.step(token, state, context)
            each.append(hidden)
            looked.append(weights)
        return torch.stack(each, dim=1), torch.stack(looked, dim=1)


class RegionScores(NamedTuple):
    """Attributes:
    scores: of every question and every region of the batch, `(batch, regions)`.
    weights: of attention's last look, `(batch, positions)`, where there is one.
    """

    scores: Tensor
    weights: Tensor | None


class RegionPointer(nn.Module):
    """The score of a region is the product h · v of the reader's last state and the region's vector.

    Args:
        network: pixels → grids, where it is trained too; `None`: grids are given.
        sees: whether the picture is seen before a question; else zeros stand for it.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        reader: QuestionReader,
        regions: RegionEncoder,
        network: nn.Module | None = None,
        *,
        sees: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.encoder, self.reader, self.regions, self.sees = network, encoder, reader, regions, sees

    def forward(
        self, pictures: Tensor, source_index: Tensor, tokens: Tensor, mask: Tensor, regions: Regions
    ) -> RegionScores:
        """Scores regions.

        Args:
            pictures: grids `(photographs, positions, channels)`, or pixels where there is a network.
            source_index, tokens, mask: of the questions, as `QuestionReader` takes them.
        """
        grids = pictures if self.network is None else self.network(pictures)
        picture = self.encoder(grids if self.sees else torch.zeros_like(grids))
        asked, weights = self.reader(picture, source_index, tokens, mask)
        return RegionScores(asked @ self.regions(regions, grids).t(), weights)
