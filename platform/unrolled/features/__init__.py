"""Features of photographs: networks, what they make of a split and where that is kept; or photographs for a network
that is trained."""

from __future__ import annotations

from unrolled.features.backbones import Backbone, build_backbone, load_pretrained, make_backbone
from unrolled.features.extract import open_features
from unrolled.features.store import Features, Pixels, open_pixels

__all__ = [
    "Backbone",
    "Features",
    "Pixels",
    "build_backbone",
    "load_pretrained",
    "make_backbone",
    "open_features",
    "open_pixels",
]
