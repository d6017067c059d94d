"""Features of photographs: networks, what they make of a split and where that is kept; or photographs for a network
that is trained."""

from __future__ import annotations

from unrolled.features.backbones import Backbone, build_backbone, load_pretrained, pretrained_backbone
from unrolled.features.extract import open_features
from unrolled.features.store import FeatureSet, PixelSet, open_pixels

__all__ = [
    "Backbone",
    "FeatureSet",
    "PixelSet",
    "build_backbone",
    "load_pretrained",
    "open_features",
    "open_pixels",
    "pretrained_backbone",
]
