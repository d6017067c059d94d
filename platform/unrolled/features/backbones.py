"""Backbones: convolutional networks from photographs to grids of features."""

from __future__ import annotations

import copy
import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from unrolled.config.captioning import FeatureConfig
from unrolled.data.images import to_pixels
from unrolled.errors import UserError, did_you_mean, listing
from unrolled.features import efficientnet_lite

VERSION = 1
"""Raise when the same photograph gives other features, so that stored ones are extracted again."""
SMALL = "small"
"""Name of `SmallCNN` in configs."""
SMALL_VERSION = 2
"""Raise when the initial weights of `SmallCNN`, or features computed with them, change."""
SMALL_SIZE, SMALL_MEAN, SMALL_STD = 56, 127.5, 127.5
SMALL_WIDTHS = (32, 64, 128)
"""Channels after each halving: the feature map is `(n, 128, 7, 7)`."""
MAX_PIXEL = 255.0
CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs store a network's weights in their checkpoints."""
BATCH_COUNTER = "num_batches_tracked"


class BackboneSpec(NamedTuple):
    """Properties of a network that are known before it is built.

    Attributes:
        size: pixels per side.
        mean: of each colour in the pixels of training, 0 … 255.
        std: standard deviation, likewise.
        pretrained: torchvision's entry of the weights, for networks of torchvision.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pretrained: Any = None


class TruncatedNetwork(NamedTuple):
    """A network up to a feature map of `channels` and `positions` (rows, columns)."""

    network: fx.GraphModule
    channels: int
    positions: tuple[int, int]


class Backbone(nn.Module):
    """A network up to a feature map.

    Args:
        side: positions per side of the grid, to which the map is pooled.

    Attributes:
        channels: per position.
        positions: of a grid, row by row.
        size: pixels per side.
        learning_rate_factor: of its parameters, where they are fine-tuned.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, truncated: TruncatedNetwork, spec: BackboneSpec, side: int, learning_rate_factor: float) -> None:
        super().__init__()
        self.learning_rate_factor = learning_rate_factor
        self.network: nn.Module = truncated.network
        self.size, self.channels, self.positions = spec.size, truncated.channels, side * side
        self._side, self._pooled = side, truncated.positions != (side, side)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Returns the pixels of a whole image, resized to a square: `(3, size, size)`, 0 … 255 as bytes."""
        return to_pixels(image, self.size).permute(2, 0, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns grids `(n, positions, channels)` of pixels `(n, 3, size, size)`, bytes or numbers 0 … 255."""
        features: Tensor = self.network((pixels.to(self.mean.dtype) - self.mean) / self.std)
        if self._pooled:
            features = functional.adaptive_avg_pool2d(features, self._side)
        return features.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode. Batch normalisation keeps its running statistics, since those of a batch would depend on the
        number of workers."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def folded(self) -> Backbone:
        """Returns a copy for inference with batch normalisation folded into the convolutions."""
        folded = copy.deepcopy(self).eval()
        folded.network = fuse(folded.network).to(memory_format=torch.channels_last).requires_grad_(False)
        return folded


def pretrained_backbone(features: FeatureConfig) -> Backbone:
    """Returns the backbone of `model.features` with its weights; raises as `build_backbone` and `load_pretrained`."""
    backbone = build_backbone(features)
    load_pretrained(backbone, features)
    return backbone


def build_backbone(features: FeatureConfig) -> Backbone:
    """Returns the backbone of `model.features` with untrained weights; raises `UserError` for no such network, or one
    without a feature map."""
    spec = backbone_spec(features)
    try:
        truncated = truncate_at_last_map(_build_network(features.backbone), spec.size, features.grid)
    except ValueError as error:
        raise UserError(f"model.features.backbone: {features.backbone} cannot be used: {error}.") from None
    return Backbone(truncated, spec, features.grid, features.learning_rate)


def load_pretrained(backbone: Backbone, features: FeatureConfig) -> None:
    """Loads the weights of `model.features`, if there are any, into the network of `build_backbone`; raises `UserError`
    if they cannot be had, or belong to another network."""
    weights, source = _pretrained_weights(features, backbone_spec(features))
    if weights:
        expected = backbone.network.state_dict()
        check_state_dict(expected, weights, features.backbone, source)
        backbone.network.load_state_dict({name: weights[name] for name in expected if name in weights}, strict=False)


def backbone_spec(features: FeatureConfig) -> BackboneSpec:
    """Returns the properties of `model.features.backbone`; raises `UserError` if there is none of that name."""
    spec = _named_spec(features.backbone)
    return spec if features.size is None else spec._replace(size=features.size)


def _named_spec(backbone: str) -> BackboneSpec:
    if backbone in efficientnet_lite.SIZES:
        mean, std = (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.STD,) * 3
        return BackboneSpec(efficientnet_lite.SIZES[backbone], mean, std)
    if backbone == SMALL:
        return BackboneSpec(SMALL_SIZE, (SMALL_MEAN,) * 3, (SMALL_STD,) * 3)
    from torchvision import models

    known = models.list_models(module=models)
    if backbone not in known:
        names = (*efficientnet_lite.SIZES, SMALL, *known)
        usual = listing((*efficientnet_lite.SIZES, SMALL, "vgg16", "resnet50"))
        hint = did_you_mean(backbone, names) or f" Such as {usual}."
        raise UserError(f"model.features.backbone: {backbone!r} is no network that is known here.{hint}")
    pretrained = models.get_model_weights(backbone)["DEFAULT"]
    # The preprocessing of the weights' training: its size after cropping, and its normalisation.
    transform = pretrained.transforms()
    mean, std = (tuple(MAX_PIXEL * value for value in values) for values in (transform.mean, transform.std))
    return BackboneSpec(transform.crop_size[0], mean, std, pretrained)


def weights_fingerprint(features: FeatureConfig) -> str:
    """Returns an identifier of the weights without loading them; raises `UserError` as `load_pretrained`."""
    spec = backbone_spec(features)
    if features.weights is not None:
        return file_digest(Path(features.weights).expanduser())
    if features.backbone in efficientnet_lite.SIZES:
        return file_digest(efficientnet_lite.weights_file(features.backbone))
    return spec.pretrained.url if spec.pretrained else f"first {SMALL_VERSION}"


def _build_network(backbone: str) -> nn.Module:
    if backbone in efficientnet_lite.SIZES:
        return efficientnet_lite.EfficientNetLite(backbone)
    if backbone == SMALL:
        return SmallCNN()
    from torchvision import models

    if backbone.startswith("vit_"):
        raise UserError(f"model.features.backbone: {backbone} is a transformer and makes no map of features.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of two networks, on their initial weights
        network: nn.Module = models.get_model(backbone, weights=None)
    return network


class SmallCNN(nn.Module):
    """A small CNN for drawn scenes and tests, without pretrained weights but with the same initial ones everywhere.

    Three convolutions halve the image. A position of the map sees 22 × 22 pixels and nothing else: there is no
    normalisation, since one over the whole image would tell every position of all the others.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        channels = zip((3, *SMALL_WIDTHS), SMALL_WIDTHS, strict=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.Sequential(
                *[
                    nn.Sequential(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU())
                    for inputs, outputs in channels
                ]
            )

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.blocks(pixels)
        return features


def truncate_at_last_map(network: nn.Module, size: int, side: int) -> TruncatedNetwork:
    """Returns a network up to its last map of at least `side` × `side` positions (and of more than one).

    Pooling to a single position, dropout and the classifier are removed; names of parameters stay. The network behaves
    as in evaluation: without dropout, normalised by its running statistics.

    Args:
        network: for images `(n, 3, size, size)`, made of operations that torch.fx can trace.

    Raises:
        ValueError: the network cannot be traced, or has no such map.
    """
    network.eval()
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # anything that the network raises
        raise ValueError(f"torch.fx cannot trace it ({error})") from None
    interpreter = fx.Interpreter(traced, garbage_collect_values=False)
    with torch.inference_mode():
        interpreter.run(torch.zeros(1, 3, size, size))
    shapes = {node: value.shape for node, value in interpreter.env.items() if isinstance(value, Tensor)}
    least = max(side, 2)
    maps = [
        node
        for node, shape in shapes.items()
        if len(shape) == 4 and min(shape[2:]) >= least and node.op not in ("placeholder", "output")
    ]
    if not maps:
        raise ValueError(f"it makes no map of {side} × {side} positions from {size} × {size} pixels")
    (output,) = traced.graph.find_nodes(op="output")
    output.args = (maps[-1],)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    _, channels, rows, columns = shapes[maps[-1]]
    return TruncatedNetwork(traced, channels, (rows, columns))


def _pretrained_weights(features: FeatureConfig, spec: BackboneSpec) -> tuple[Mapping[str, Tensor], str]:
    """Returns the weights by name, and their source; no weights for `SmallCNN` without a file."""
    name, given = features.backbone, features.weights
    if given is None and spec.pretrained:
        return download_weights(spec.pretrained), str(spec.pretrained)
    if given is None and name == SMALL:
        return {}, ""
    file = efficientnet_lite.weights_file(name) if given is None else Path(given).expanduser()
    weights = read_state_dict(file)
    return efficientnet_lite.rename_weights(name, weights) if name in efficientnet_lite.SIZES else weights, str(file)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Reads a file of weights by name: safetensors, or torch's format (without unpickling other objects). Raises
    `UserError` if there is no such file, or it holds something else."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"model.features.weights: {file}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(f"model.features.weights: {file} is no file of weights, of torch or safetensors.") from None
    for key in CHECKPOINT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        raise UserError(f"model.features.weights: {file} holds no weights by name.")
    return content


def download_weights(pretrained: Any) -> dict[str, Tensor]:
    """Returns pretrained weights of torchvision, downloaded unless they are in torch's cache; raises `UserError` if
    they cannot be."""
    try:
        weights: dict[str, Tensor] = pretrained.get_state_dict(progress=False)
    except Exception as error:  # of the network, of the disk, or of an interrupted download
        reason = getattr(error, "reason", None) or str(error).splitlines()[0] or type(error).__name__
        raise UserError(
            f"model.features.backbone: the weights {pretrained} cannot be downloaded from {pretrained.url} ({reason}); "
            "set model.features.weights to a file of them, or use efficientnet-lite0, which brings its own."
        ) from None
    return weights


def check_state_dict(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], backbone: str, file: str) -> None:
    """Raises `UserError` if `given` lacks weights of the network, or has them in another shape."""
    for name, tensor in expected.items():
        if name.endswith(BATCH_COUNTER):
            continue
        if name not in given:
            problem = f"it has no {name!r}"
        elif given[name].shape != tensor.shape:
            problem = f"its {name!r} is {_format_shape(given[name])} and not {_format_shape(tensor)}"
        else:
            continue
        raise UserError(
            f"model.features.weights: {file} holds the weights of another network than {backbone}: {problem}."
        )


def _format_shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"


def file_digest(file: Path) -> str:
    """Returns the SHA-256 of a file of weights; raises `UserError` if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model.features.weights: {file}: cannot be read ({error.strerror or error}).") from None
