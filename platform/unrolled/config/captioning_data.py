"""Sections of tasks on captioned photographs: the photographs, their captions, and what a CNN makes of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unrolled.config import sections
from unrolled.config.sections import Positive, Section, Source


class Columns(Section):
    image: str = Field("image", description="column of the photographs; with files beside a table: of their names")
    captions: str | list[str] = Field(
        "captions", description="column of the captions, a text or a list of texts a row; or several columns of texts"
    )


class Vocabulary(sections.Vocabulary):
    kind: sections.VocabularyKind = Field("word", description="unit of text; learned on the training split")
    size: sections.VocabularySize = Field(10_000, description="most entries, special symbols included")
    min_frequency: Positive = Field(5, description="rarer units become the unknown symbol")
    lowercase: bool = Field(True, description="fold case (the model then writes lower case only)")


class Data(Source):
    source: str = Field(
        description="scenes (built in); a folder of tables, of photographs with metadata.csv or metadata.jsonl, "
        "Flickr8k's, COCO's or one with Karpathy's dataset_….json; s3://bucket/{split}.parquet; or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, where it is not in the source's")
    columns: Columns = Columns()
    vocabulary: Vocabulary = Vocabulary()
    max_length: Positive = Field(50, description="training captions with more tokens are left out")
    limit: Positive | None = Field(None, description="use only the first photographs of every split")


class Features(Section):
    """What a convolutional network makes of a photograph: a grid of vectors, and their mean."""

    backbone: str = Field(
        "efficientnet-lite0",
        description="the network: efficientnet-lite0 (its weights are installed), the larger efficientnet-lite1 and "
        "-lite2 (weights in packages of their own), any classification model of torchvision such as vgg16 or resnet50, "
        "or small (for scenes and tests; not pretrained)",
    )
    weights: str | None = Field(None, description="file of weights; null: the network's own, pretrained on ImageNet")
    grid: Positive = Field(
        7, description="positions a side, of the last map that has as many; 1: only the mean over all positions"
    )
    size: Positive | None = Field(
        None, description="pixels a side of what it sees; null: as many as it was pretrained on"
    )
    fine_tune: bool = Field(
        False,
        description="train the network too, on photographs that are cropped and mirrored at random (small: on pictures "
        "as they are); false: its features are made once and kept",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.1, description="fine_tune: of the network, times training.optimizer.learning_rate"
    )
