"""What a pointing model knows of candidates: where they lie, and what the network made of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unrolled.config.pointing import PointingConfig
from unrolled.data.asked import Box
from unrolled.data.opening import REGIONS, as_split
from unrolled.data.questions import open_asked
from unrolled.data.regions import Region, cut, regions_of
from unrolled.data.visual7w import EDGE
from unrolled.errors import UserError
from unrolled.features import Features, make_backbone, open_features
from unrolled.features.run import region_splits
from unrolled.tasks.pictures import Pictures


class RegionFeatures:
    """Args: `pictures`, the photographs of the same config."""

    def __init__(self, config: PointingConfig, pictures: Pictures) -> None:
        self._config, self._pictures = config, pictures
        self._places: dict[str, Mapping[str, Region]] = {}
        self._stores: dict[str, tuple[Features, dict[str, int]]] = {}

    @property
    def cut_out(self) -> bool:
        """Whether regions have features of their own; else they are read off the photographs' grids."""
        return self._config.model.regions.by == "crop"

    def places(self, split: str) -> Mapping[str, Region]:
        """Returns where every candidate of a split lies, by its id."""
        if split not in self._places:
            self._places[split] = regions_of(open_asked(self._config.data, split))
        return self._places[split]

    def edges(self, split: str, ids: Sequence[str]) -> Tensor:
        """Returns the edges of regions, `(regions, 4)`."""
        places = self.places(split)
        return torch.tensor([places[region][1:] for region in ids])

    def features(self, split: str, ids: Sequence[str]) -> Tensor | None:
        """Returns what the network made of regions, `(regions, channels)`; made where it is missing."""
        if not self.cut_out:
            return None
        if self._config.data.captions:
            photographs, places = self._pictures.features(split), self.places(split)
            assert isinstance(photographs, Features)
            return photographs.globals(torch.tensor([places[region].photo for region in ids]))
        found: dict[str, Tensor] = {}
        for part in region_splits(self._config, [split]):
            store, rows = self._store(part)
            own = [region for region in ids if region in rows]
            means = store.globals(torch.tensor([rows[region] for region in own], dtype=torch.long))
            found |= zip(own, means, strict=True)
        return torch.stack([found[region] for region in ids])

    @torch.inference_mode()
    def computed(self, photo: str, boxes: Sequence[Box]) -> tuple[Tensor | None, Tensor]:
        """Returns features and edges of boxes on a photograph that is named by its address or its file.

        Raises:
            UserError: it cannot be read, or a box reaches beyond it.
        """
        image = self._pictures.photo(photo)
        for x, y, width, height in boxes:
            if min(x, y) < -EDGE or x + width > image.width + EDGE or y + height > image.height + EDGE:
                raise UserError(
                    f"--boxes: x {x:g}, y {y:g}, {width:g} × {height:g} reaches beyond {photo}, {image.width} × "
                    f"{image.height} pixels."
                )
        sides = np.asarray([image.width, image.height] * 2, dtype=np.float64)
        edges = np.asarray([(x, y, x + width, y + height) for x, y, width, height in boxes]) / sides
        edges = edges.clip(0, 1)
        if not self.cut_out:
            return None, torch.from_numpy(edges).float()
        backbone = make_backbone(self._config.model.features.model_copy(update={"grid": 1})).eval()
        pictures = [cut(image, Region(0, *map(float, own)), self._config.data.margin) for own in edges]
        pixels = torch.stack([backbone.preprocess(picture) for picture in pictures])
        return backbone(pixels).mean(1), torch.from_numpy(edges).float()

    def _store(self, part: str) -> tuple[Features, dict[str, int]]:
        """Opens the features of what `region_splits` names, with the row of every region."""
        if part not in self._stores:
            asked = open_asked(as_split(self._config.data), part.removeprefix(REGIONS))
            rows = {region: row for row, region in enumerate(regions_of(asked))}
            self._stores[part] = open_features(self._config, part), rows
        return self._stores[part]
