"""Config of captioning.

Sections of tasks on captioned photographs: the photographs, their captions, and what a CNN makes of them.

Keys of `task: captioning`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.common import Engine, Fraction, Positive, Recurrent, Section, Source, check_engine, check_metric
from unrolled.config.training import Training as SharedTraining


class CaptionColumns(Section):
    image: str = Field("image", description="column of the photographs; with files beside a table: of their names")
    captions: str | list[str] = Field(
        "captions", description="column of the captions, a text or a list of texts a row; or several columns of texts"
    )


class CaptionVocabulary(common.Vocabulary):
    kind: common.VocabularyKind = Field("word", description="unit of text; learned on the training split")
    size: common.VocabularySize = Field(10_000, description="most entries, special symbols included")
    min_frequency: Positive = Field(5, description="rarer units become the unknown symbol")
    lowercase: bool = Field(True, description="fold case (the model then writes lower case only)")


class CaptionData(Source):
    source: str = Field(
        description="scenes (built in); a folder of tables, of photographs with metadata.csv or metadata.jsonl, "
        "Flickr8k's, COCO's or one with Karpathy's dataset_….json; s3://bucket/{split}.parquet; or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, where it is not in the source's")
    columns: CaptionColumns = CaptionColumns()
    vocabulary: CaptionVocabulary = CaptionVocabulary()
    max_length: Positive = Field(50, description="training captions with more tokens are left out")
    limit: Positive | None = Field(None, description="use only the first photographs of every split")


class FeatureConfig(Section):
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


CaptioningScore = Literal["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "cider_d", "exact_match"]
Conditioning = Literal["first", "once", "every", "output", "reconstruct", "attention"]
CONDITIONING = (
    "how it sees the picture: first: as an input before the first word; once: beside the first word; every: beside "
    "every word; output: after the recurrence; reconstruct: as every, with a memory that learns to recall the picture "
    "from the words; attention: over the positions of its grid"
)
NonNegative = Annotated[float, Field(ge=0)]


class ImageAttention(Section):
    score: Literal["dot", "general", "additive"] = Field(
        "additive", description="how a state is compared with a position"
    )
    fed: bool = Field(
        True,
        description="the state before a word looks, and what it saw enters the recurrence; false: the state after it "
        "looks, and what it saw joins the output alone (faster)",
    )
    gated: bool = Field(True, description="a state says how much it needs of what it saw (only where it is fed)")
    hard: bool = Field(
        False, description="look at the likeliest position alone, in training at one that is drawn; false: at all"
    )


class CaptioningDecoder(Recurrent):
    cell: common.CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(512, description="features of the state")
    dropout: Fraction = Field(0.5, description="share dropped from embeddings, between layers and from the outputs")
    embedding: Positive = Field(512, description="features of a token")
    conditioning: Conditioning = Field("attention", description=CONDITIONING)
    attention: ImageAttention = ImageAttention()
    picture: Positive = Field(512, description="features of the picture where it stands beside words")
    layer: Positive = Field(1, description="the layer that reads it there, from the lowest, 1")
    recall: Positive = Field(256, description="features of the memory of reconstruct")
    tie: bool = Field(True, description="the output matrix is the embedding matrix")


class ImageEncoderConfig(Section):
    size: Positive | None = Field(
        None, description="features of a position, learned from the network's; null: as the network gives them"
    )
    places: bool = Field(
        False, description="attention: add a learned vector a position, by which the decoder knows where it looks"
    )
    dropout: Fraction = Field(0.0, description="share dropped from the positions' features")


class ViewFeatureConfig(FeatureConfig):
    views: Positive = Field(
        1,
        description="how often features are made of a photograph to learn from: once of all of it, then of views that "
        "are cropped and mirrored at random; an epoch draws one of them",
    )


class CaptioningModel(Section):
    features: ViewFeatureConfig = ViewFeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig()
    decoder: CaptioningDecoder = CaptioningDecoder()
    engine: Engine = Field("auto", description="what runs the recurrence")


class SelfCritical(Section):
    samples: Annotated[int, Field(ge=2)] = Field(5, description="captions drawn of every photograph")
    photographs: Positive = Field(32, description="of a batch, over all workers; an epoch takes each once")
    baseline: Literal["others", "greedy"] = Field(
        "others",
        description="with what a drawn caption's reward is compared: the mean of those of the photograph's other drawn "
        "captions, or that of its greedy caption (one more decoding)",
    )


class HardAttention(Section):
    reinforcement: NonNegative = Field(
        0.1,
        description="weight of what the words after a drawn position teach attention; 1: as the likelihood's gradient "
        "has it, with more noise",
    )
    entropy: NonNegative = Field(0.002, description="reward of attention for being undecided, in nats a nat and word")


class CaptioningTraining(SharedTraining):
    metric: Literal["loss", CaptioningScore] = Field(
        "cider_d", description="decides which checkpoint is best (validation)"
    )
    batch_tokens: Positive = Field(
        1500,
        description="tokens of a batch's captions, over all workers, with their padding where they are of like length",
    )
    together: bool = Field(
        False,
        description="all captions of a photograph in one batch, so that it is encoded once an epoch (always where the "
        "network is trained too); false: captions of like length",
    )
    truncate: Positive | None = Field(
        None, description="gradients flow back within windows of so many words; null: through the whole caption"
    )
    label_smoothing: Fraction = Field(0.0, description="probability spread over the whole vocabulary")
    doubly_stochastic: NonNegative = Field(
        1.0, description="attention: weight of the penalty for positions that a caption looks at too little or too much"
    )
    reconstruction: NonNegative = Field(1.0, description="reconstruct: weight of the picture's error, a word")
    hard_attention: HardAttention = HardAttention()
    self_critical: SelfCritical | None = Field(
        None,
        description="learn from drawn captions, rewarded by CIDEr-D, without dropout, smoothing and penalties: a "
        "second stage, for weights that training.start_from gives; null: learn from captions that people wrote",
    )


class CaptioningDecoding(common.Decoding):
    max_length: Positive = Field(30, description="most tokens of an output")


class CaptioningEvaluation(Section):
    metrics: list[CaptioningScore] = Field(
        ["cider_d", "bleu_4", "bleu_1", "meteor", "rouge_l"],
        min_length=1,
        description="scores of an evaluation; the first leads the report",
    )


class CaptioningConfig(Config):
    task: Literal["captioning"] = Field(description="task to train")
    data: CaptionData
    model: CaptioningModel = CaptioningModel()
    training: CaptioningTraining = CaptioningTraining()
    decoding: CaptioningDecoding = CaptioningDecoding()
    evaluation: CaptioningEvaluation = CaptioningEvaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> CaptioningConfig:
        """Checks that no single key can see. A message starts with the key that should change."""
        decoder = self.model.decoder
        check_engine(self.model.engine, decoder, "model.decoder")
        if decoder.layer > decoder.layers:
            raise ValueError(
                f"model.decoder.layer is {decoder.layer}, but model.decoder.layers is {decoder.layers}: accepted is 1 "
                f"to {decoder.layers}"
            )
        features = self.model.features
        if features.fine_tune and features.views > 1:
            raise ValueError(
                f"model.features.views is {features.views}: accepted with fine_tune true is 1, since every epoch draws "
                "a view of its own"
            )
        attends = decoder.conditioning == "attention"
        if attends and decoder.attention.score == "dot" and self.model.encoder.size != decoder.hidden:
            raise ValueError(
                f"model.encoder.size is {self.model.encoder.size}, but attention.score 'dot' needs it equal to "
                f"model.decoder.hidden, {decoder.hidden}; 'general' and 'additive' take any size"
            )
        if self.model.encoder.places and not attends:
            raise ValueError(
                f"model.encoder.places needs model.decoder.conditioning 'attention', not {decoder.conditioning!r}, "
                "which looks at no single position"
            )
        if attends and self.model.features.grid == 1:
            raise ValueError(
                "model.features.grid is 1, but model.decoder.conditioning 'attention' needs positions to look at"
            )
        if decoder.attention.hard and not decoder.attention.fed:
            raise ValueError("model.decoder.attention.hard is true: accepted is then attention.fed true alone")
        if decoder.attention.hard and self.training.truncate is not None:
            raise ValueError(
                "training.truncate must be null where model.decoder.attention.hard is true: what a drawn position is "
                "worth shows in all words after it"
            )
        check_metric(self.training.metric, self.evaluation.metrics)
        if self.training.self_critical is not None and "cider_d" not in self.evaluation.metrics:
            raise ValueError("evaluation.metrics is without cider_d, which is what training.self_critical raises")
        return self
