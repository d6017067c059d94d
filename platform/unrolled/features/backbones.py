"""Convolutional networks that turn pictures into grids of features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from unrolled.config.captioning_data import Features
from unrolled.data.views import seen
from unrolled.errors import UserError, listing, nearest
from unrolled.features import lite, small
from unrolled.features.maps import Cut, last_map
from unrolled.features.weights import check, digest, hub_weights, read_weights

VERSION = 1
"""Raise when the same picture gives other features, so that kept ones are made again."""
SMALL = "small"
PIXEL = 255.0


class Kind(NamedTuple):
    """What is known of a network before it is made.

    Attributes:
        size: pixels of a side.
        mean: of each colour in the pixels that it was trained on, of 0 … 255; `deviation` likewise.
        pretrained: torchvision's entry of its weights, if it is torchvision's.
    """

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    pretrained: Any = None


class Backbone(nn.Module):
    """A network up to a map of features.

    Attributes:
        channels: of a position.
        positions: of a grid, row by row.
        size: pixels of a side.
        learning_rate_factor: of its parameters, where they are trained.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, cut: Cut, kind: Kind, side: int, learning_rate_factor: float) -> None:
        super().__init__()
        self.learning_rate_factor = learning_rate_factor
        self.network: nn.Module = cut.network
        self.size, self.channels, self.positions = kind.size, cut.channels, side * side
        self._side, self._pooled = side, cut.positions != (side, side)
        self.register_buffer("mean", torch.tensor(kind.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(kind.deviation).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Returns the pixels of a picture, `(3, size, size)`, 0 … 255 as bytes; all of it, squeezed to a square."""
        return seen(image, self.size).permute(2, 0, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the grids, `(n, positions, channels)`, of pixels `(n, 3, size, size)`, bytes or numbers 0 … 255."""
        features: Tensor = self.network((pixels.to(self.mean.dtype) - self.mean) / self.deviation)
        if self._pooled:
            features = functional.adaptive_avg_pool2d(features, self._side)
        return features.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; batch normalisation keeps the statistics that it was trained with, since those of a batch
        would depend on the number of workers."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def folded(self) -> Backbone:
        """Returns a copy for inference alone: normalisation by known statistics is folded into the convolutions."""
        made = copy.deepcopy(self).eval()
        made.network = fuse(made.network).to(memory_format=torch.channels_last).requires_grad_(False)
        return made


def make_backbone(features: Features) -> Backbone:
    """Makes the network of `model.features`, with its weights; raises `UserError` as the two that this calls."""
    backbone = build_backbone(features)
    load_pretrained(backbone, features)
    return backbone


def build_backbone(features: Features) -> Backbone:
    """Makes the network of `model.features` with weights that know nothing.

    Raises:
        UserError: no such network, or one that makes no map.
    """
    kind = kind_of(features)
    network = _network(features.backbone)
    try:
        cut = last_map(network, kind.size, features.grid)
    except ValueError as error:
        raise UserError(f"model.features.backbone: {features.backbone} cannot be used: {error}.") from None
    return Backbone(cut, kind, features.grid, features.learning_rate)


def load_pretrained(backbone: Backbone, features: Features) -> None:
    """Gives the network that `build_backbone` made the weights of `model.features`, if there are any.

    Raises:
        UserError: they cannot be had, or belong to another network.
    """
    weights, source = _weights(features, kind_of(features))
    if weights:
        wanted = backbone.network.state_dict()
        check(wanted, weights, features.backbone, source)
        backbone.network.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=False)


def kind_of(features: Features) -> Kind:
    """Returns what is known of a network by its name; raises `UserError` if there is none of that name."""
    kind = _named(features.backbone)
    return kind if features.size is None else kind._replace(size=features.size)


def _named(backbone: str) -> Kind:
    if backbone in lite.SIZES:
        return Kind(lite.SIZES[backbone], (lite.MEAN,) * 3, (lite.DEVIATION,) * 3)
    if backbone == SMALL:
        return Kind(small.SIZE, (small.MEAN,) * 3, (small.DEVIATION,) * 3)
    from torchvision import models

    known = models.list_models(module=models)
    if backbone not in known:
        names = (*lite.SIZES, SMALL, *known)
        hint = nearest(backbone, names) or f" Such as {listing((*lite.SIZES, SMALL, 'vgg16', 'resnet50'))}."
        raise UserError(f"model.features.backbone: {backbone!r} is no network that is known here.{hint}")
    pretrained = models.get_model_weights(backbone)["DEFAULT"]
    # Of the preprocessing that the weights were trained with: its size after cropping, and its normalisation.
    transform = pretrained.transforms()
    return Kind(
        transform.crop_size[0],
        tuple(PIXEL * mean for mean in transform.mean),
        tuple(PIXEL * deviation for deviation in transform.std),
        pretrained,
    )


def weights_name(features: Features) -> str:
    """Returns what tells these weights from others, without loading them; raises `UserError` as `make_backbone`."""
    kind = kind_of(features)
    if features.weights is not None:
        return digest(Path(features.weights).expanduser())
    if features.backbone in lite.SIZES:
        return digest(lite.weights_file(features.backbone))
    return kind.pretrained.url if kind.pretrained else f"first {small.VERSION}"


def _network(backbone: str) -> nn.Module:
    if backbone in lite.SIZES:
        return lite.Lite(backbone)
    if backbone == SMALL:
        return small.Small()
    from torchvision import models

    if backbone.startswith("vit_"):
        raise UserError(f"model.features.backbone: {backbone} is a transformer and makes no map of features.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of two networks, on their first weights
        network: nn.Module = models.get_model(backbone, weights=None)
    return network


def _weights(features: Features, kind: Kind) -> tuple[Mapping[str, Tensor], str]:
    """Returns the weights by name, none for a network that has only its first ones, and where they come from."""
    if features.weights is None and kind.pretrained:
        return hub_weights(kind.pretrained), str(kind.pretrained)
    if features.weights is None and features.backbone == SMALL:
        return {}, ""
    name, given = features.backbone, features.weights
    file = lite.weights_file(name) if given is None else Path(given).expanduser()
    weights = read_weights(file)
    return lite.named_here(name, weights) if name in lite.SIZES else weights, str(file)
