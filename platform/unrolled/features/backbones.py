"""Backbones: convolutional networks that turn photographs into grids of features.

Cuts any convolutional classifier down to the part that makes a map of features.

A little CNN for scenes and tests: no pretrained weights, but the same first ones everywhere.

Weights of a backbone: from a file, from the package that holds them, or from the hub of torchvision.

Convolutional networks that turn pictures into grids of features.
"""

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


class TruncatedNetwork(NamedTuple):
    """A network up to a map of `channels` and `positions`, its rows and columns."""

    network: fx.GraphModule
    channels: int
    positions: tuple[int, int]


class _Shapes(fx.Interpreter):
    """Runs a graph and remembers the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def truncate_at_last_map(network: nn.Module, size: int, side: int) -> TruncatedNetwork:
    """Returns the network up to its last map of at least `side` × `side` positions (and of more than one).

    Pooling to a single position, dropout and the classifier fall away; names of parameters stay. Behaviour is that of
    evaluation: dropout is left out, and normalisation uses its own statistics.

    Args:
        network: for pictures `(n, 3, size, size)`, made of operations that torch.fx can trace.

    Raises:
        ValueError: the network cannot be traced, or makes no such map.
    """
    network.eval()
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # of tracing, by whatever the network does
        raise ValueError(f"torch.fx cannot trace it ({error})") from None
    known = _Shapes(traced)
    with torch.inference_mode():
        known.run(torch.zeros(1, 3, size, size))
    least = max(side, 2)
    fitting = [node for node, shape in known.shapes.items() if len(shape) == 4 and min(shape[2:]) >= least]
    fitting = [node for node in fitting if node.op not in ("placeholder", "output")]
    if not fitting:
        raise ValueError(f"it makes no map of {side} × {side} positions from {size} × {size} pixels")
    node = fitting[-1]
    (output,) = traced.graph.find_nodes(op="output")
    output.args = (node,)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    _, channels, rows, columns = known.shapes[node]
    return TruncatedNetwork(traced, channels, (rows, columns))


SIZE = 56
MEAN, DEVIATION = 127.5, 127.5
WIDTHS = (32, 64, 128)
"""Channels of each halving: the last map is `(n, 128, 7, 7)`."""
SMALL_VERSION = 2
"""Raise when the first weights, or what is made with them, change."""


class SmallCNN(nn.Module):
    """Convolutions that halve the picture three times.

    A position of the map sees 22 × 22 pixels and nothing else: there is no normalisation, since one over the whole
    picture would tell every position of all the others.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blocks = [_block(before, width) for before, width in zip((3, *WIDTHS), WIDTHS, strict=False)]
            self.blocks = nn.Sequential(*blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.blocks(pixels)
        return features


def _block(before: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU())


WRAPPED = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs keep a network's weights in their checkpoints."""
COUNTERS = "num_batches_tracked"


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Reads a file of weights by name: safetensors, or torch's format (no other objects are loaded from it).

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"model.features.weights: {file}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(f"model.features.weights: {file} is no file of weights, of torch or safetensors.") from None
    for key in WRAPPED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        raise UserError(f"model.features.weights: {file} holds no weights by name.")
    return content


def download_weights(choice: Any) -> dict[str, Tensor]:
    """Returns pretrained weights of torchvision, downloaded unless they are in torch's cache.

    Raises:
        UserError: they cannot be had here.
    """
    try:
        found: dict[str, Tensor] = choice.get_state_dict(progress=False)
    except Exception as error:  # of the network, of the disk, or of a download that was cut
        reason = getattr(error, "reason", None) or str(error).splitlines()[0] or type(error).__name__
        raise UserError(
            f"model.features.backbone: the weights {choice} cannot be downloaded from {choice.url} ({reason}); "
            "set model.features.weights to a file of them, or use efficientnet-lite0, which brings its own."
        ) from None
    return found


def check_state_dict(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], backbone: str, file: str) -> None:
    """Raises `UserError` if `given` lacks weights that the network wants, or has them in another shape."""
    for name, tensor in wanted.items():
        if name.endswith(COUNTERS):
            continue
        if name not in given:
            problem = f"it has no {name!r}"
        elif given[name].shape != tensor.shape:
            problem = f"its {name!r} is {_shape(given[name])} and not {_shape(tensor)}"
        else:
            continue
        raise UserError(
            f"model.features.weights: {file} holds the weights of another network than {backbone}: {problem}."
        )


def file_digest(file: Path) -> str:
    """Returns what tells a file's content from others; raises `UserError` if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model.features.weights: {file}: cannot be read ({error.strerror or error}).") from None


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"


VERSION = 1
"""Raise when the same picture gives other features, so that kept ones are made again."""
SMALL = "small"
PIXEL = 255.0


class BackboneSpec(NamedTuple):
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

    def __init__(self, cut: TruncatedNetwork, kind: BackboneSpec, side: int, learning_rate_factor: float) -> None:
        super().__init__()
        self.learning_rate_factor = learning_rate_factor
        self.network: nn.Module = cut.network
        self.size, self.channels, self.positions = kind.size, cut.channels, side * side
        self._side, self._pooled = side, cut.positions != (side, side)
        self.register_buffer("mean", torch.tensor(kind.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(kind.deviation).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Returns the pixels of a picture, `(3, size, size)`, 0 … 255 as bytes; all of it, squeezed to a square."""
        return to_pixels(image, self.size).permute(2, 0, 1)

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


def pretrained_backbone(features: FeatureConfig) -> Backbone:
    """Makes the network of `model.features`, with its weights; raises `UserError` as the two that this calls."""
    backbone = build_backbone(features)
    load_pretrained(backbone, features)
    return backbone


def build_backbone(features: FeatureConfig) -> Backbone:
    """Makes the network of `model.features` with weights that know nothing.

    Raises:
        UserError: no such network, or one that makes no map.
    """
    kind = backbone_spec(features)
    network = _network(features.backbone)
    try:
        cut = truncate_at_last_map(network, kind.size, features.grid)
    except ValueError as error:
        raise UserError(f"model.features.backbone: {features.backbone} cannot be used: {error}.") from None
    return Backbone(cut, kind, features.grid, features.learning_rate)


def load_pretrained(backbone: Backbone, features: FeatureConfig) -> None:
    """Gives the network that `build_backbone` made the weights of `model.features`, if there are any.

    Raises:
        UserError: they cannot be had, or belong to another network.
    """
    weights, source = _weights(features, backbone_spec(features))
    if weights:
        wanted = backbone.network.state_dict()
        check_state_dict(wanted, weights, features.backbone, source)
        backbone.network.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=False)


def backbone_spec(features: FeatureConfig) -> BackboneSpec:
    """Returns what is known of a network by its name; raises `UserError` if there is none of that name."""
    kind = _named(features.backbone)
    return kind if features.size is None else kind._replace(size=features.size)


def _named(backbone: str) -> BackboneSpec:
    if backbone in efficientnet_lite.SIZES:
        return BackboneSpec(
            efficientnet_lite.SIZES[backbone], (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.DEVIATION,) * 3
        )
    if backbone == SMALL:
        return BackboneSpec(SIZE, (MEAN,) * 3, (DEVIATION,) * 3)
    from torchvision import models

    known = models.list_models(module=models)
    if backbone not in known:
        names = (*efficientnet_lite.SIZES, SMALL, *known)
        hint = (
            did_you_mean(backbone, names)
            or f" Such as {listing((*efficientnet_lite.SIZES, SMALL, 'vgg16', 'resnet50'))}."
        )
        raise UserError(f"model.features.backbone: {backbone!r} is no network that is known here.{hint}")
    pretrained = models.get_model_weights(backbone)["DEFAULT"]
    # Of the preprocessing that the weights were trained with: its size after cropping, and its normalisation.
    transform = pretrained.transforms()
    return BackboneSpec(
        transform.crop_size[0],
        tuple(PIXEL * mean for mean in transform.mean),
        tuple(PIXEL * deviation for deviation in transform.std),
        pretrained,
    )


def weights_fingerprint(features: FeatureConfig) -> str:
    """Returns what tells these weights from others, without loading them; raises `UserError` as `make_backbone`."""
    kind = backbone_spec(features)
    if features.weights is not None:
        return file_digest(Path(features.weights).expanduser())
    if features.backbone in efficientnet_lite.SIZES:
        return file_digest(efficientnet_lite.weights_file(features.backbone))
    return kind.pretrained.url if kind.pretrained else f"first {SMALL_VERSION}"


def _network(backbone: str) -> nn.Module:
    if backbone in efficientnet_lite.SIZES:
        return efficientnet_lite.Lite(backbone)
    if backbone == SMALL:
        return SmallCNN()
    from torchvision import models

    if backbone.startswith("vit_"):
        raise UserError(f"model.features.backbone: {backbone} is a transformer and makes no map of features.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of two networks, on their first weights
        network: nn.Module = models.get_model(backbone, weights=None)
    return network


def _weights(features: FeatureConfig, kind: BackboneSpec) -> tuple[Mapping[str, Tensor], str]:
    """Returns the weights by name, none for a network that has only its first ones, and where they come from."""
    if features.weights is None and kind.pretrained:
        return download_weights(kind.pretrained), str(kind.pretrained)
    if features.weights is None and features.backbone == SMALL:
        return {}, ""
    name, given = features.backbone, features.weights
    file = efficientnet_lite.weights_file(name) if given is None else Path(given).expanduser()
    weights = read_state_dict(file)
    return efficientnet_lite.named_here(name, weights) if name in efficientnet_lite.SIZES else weights, str(file)
