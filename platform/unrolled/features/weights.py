"""Weights of a backbone: from a file, from the package that holds them, or from the hub of torchvision."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unrolled.errors import UserError

WRAPPED = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs keep a network's weights in their checkpoints."""
COUNTERS = "num_batches_tracked"


def read_weights(file: Path) -> dict[str, Tensor]:
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


def hub_weights(choice: Any) -> dict[str, Tensor]:
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


def check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], backbone: str, file: str) -> None:
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


def digest(file: Path) -> str:
    """Returns what tells a file's content from others; raises `UserError` if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model.features.weights: {file}: cannot be read ({error.strerror or error}).") from None


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
