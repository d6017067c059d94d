"""Image features: backbones, their extraction and storage; or pixels for a backbone that is fine-tuned."""

from __future__ import annotations

from unrolled.features.backbones import Backbone, build_backbone, load_pretrained, pretrained_backbone
from unrolled.features.extract import (
    ExtractBlocks,
    FeatureJob,
    extract_features,
    extract_locally,
    extract_splits,
    feature_job,
    feature_jobs,
    open_features,
    region_splits,
    uses_frozen_features,
)
from unrolled.features.store import FeatureSet, PixelSet, open_pixels

__all__ = [
    "Backbone",
    "ExtractBlocks",
    "FeatureJob",
    "FeatureSet",
    "PixelSet",
    "build_backbone",
    "extract_features",
    "extract_locally",
    "extract_splits",
    "feature_job",
    "feature_jobs",
    "load_pretrained",
    "open_features",
    "open_pixels",
    "pretrained_backbone",
    "region_splits",
    "uses_frozen_features",
]
