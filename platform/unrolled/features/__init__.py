"""Image features: backbones, their extraction and storage; or pixels for a backbone that is fine-tuned."""

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
