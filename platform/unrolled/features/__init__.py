"""Features of photographs: networks, what they make of a split, and where that is kept."""

from __future__ import annotations

from unrolled.features.backbones import Backbone, make_backbone
from unrolled.features.making import open_features
from unrolled.features.store import Features

__all__ = ["Backbone", "Features", "make_backbone", "open_features"]
