"""Config of captioning, and the section of image features that other tasks on photographs share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.common import (
    Engine,
    Fraction,
    NonNegative,
    Positive,
    PositiveNumber,
    Recurrent,
    Section,
    Source,
    check_engine,
    check_metric,
)
from unrolled.config.training import METRIC, Training


class CaptionColumns(Section):
    image: str = Field("image", description="column of the photographs, or of their file names")
    captions: str | list[str] = Field(
        "captions",
        description="column of the captions, one text or a list of texts per row; or several columns of texts",
    )


class WordVocabulary(common.Vocabulary):
    kind: common.VocabularyKind = Field(
        "word", description="token type; the vocabulary is learned on the training split"
    )
    size: common.VocabularySize = Field(10_000, description="maximum number of entries, special symbols included")
    lowercase: bool = Field(True, description="lowercase all text (the model then generates lower case only)")


class CaptionVocabulary(WordVocabulary):
    min_frequency: Positive = Field(5, description="less frequent tokens become the unknown symbol")


class CaptionData(Source):
    source: str = Field(
        description="scenes (built in); a folder of tables, of photographs with metadata.csv or metadata.jsonl, in "
        "the layout of Flickr8k or COCO, or with Karpathy's dataset_….json; s3://bucket/{split}.parquet; "
        "or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, if not in the source folder")
    columns: CaptionColumns = CaptionColumns()
    vocabulary: CaptionVocabulary = CaptionVocabulary()
    max_length: Positive = Field(50, description="training captions with more tokens are skipped")
    limit: Positive | None = Field(None, description="use only the first photographs of each split")


class FeatureConfig(Section):
    """Image features from a convolutional network: a grid of vectors, and their mean."""

    backbone: str = Field(
        "efficientnet-lite0",
        description="convolutional network: efficientnet-lite0 (weights installed), efficientnet-lite1 and -lite2 "
        "(weights in separate packages), any classification model of torchvision such as vgg16 or "
        "resnet50, or small (for scenes and tests; not pretrained)",
    )
    weights: str | None = Field(None, description="file of weights; null: the network's ImageNet weights")
    grid: Positive = Field(
        7,
        description="side of the grid of positions, taken from the last feature map of that size; 1: only the mean "
        "over all positions",
    )
    size: Positive | None = Field(None, description="side of the input in pixels; null: that of pretraining")
    fine_tune: bool = Field(
        False,
        description="train the network, too, on randomly cropped and mirrored photographs (small: on unchanged ones); "
        "false: its features are computed once and cached",
    )
    learning_rate: PositiveNumber = Field(
        0.1, description="fine_tune: learning rate of the network relative to training.optimizer.learning_rate"
    )


CaptioningScore = Literal["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "cider_d", "exact_match"]
Conditioning = Literal["first", "once", "every", "output", "reconstruct", "attention"]
CONDITIONING = (
    "how the decoder is conditioned on the image: first: image as an input before the first word; "
    "once: concatenated with the first word; every: with every word; output: after the recurrence; "
    "reconstruct: as every, with a visual memory that learns to reconstruct the image from the words; "
    "attention: attention over the grid of positions"
)


class ImageAttention(Section):
    score: Literal["dot", "general", "additive"] = Field("additive", description="attention score function")
    fed: bool = Field(
        True,
        description="the previous state attends and the context is an input of the recurrence; false: the new state "
        "attends and the context is an input of the output layer only (faster)",
    )
    gated: bool = Field(True, description="gate the context by the state (only with fed)")
    hard: bool = Field(
        False,
        description="hard attention: one position per word, sampled in training, arg-max at test time; false: soft "
        "attention",
    )


class WordRecurrent(Recurrent):
    """A recurrent stack over words."""

    cell: common.CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(512, description="size of the hidden state")
    dropout: Fraction = Field(0.5, description="dropout probability on embeddings, between layers and on outputs")
    embedding: Positive = Field(512, description="size of token embeddings")


class CaptioningDecoder(WordRecurrent):
    conditioning: Conditioning = Field("attention", description=CONDITIONING)
    attention: ImageAttention = ImageAttention()
    picture: Positive = Field(512, description="size of the image vector where it is concatenated with words")
    layer: Positive = Field(1, description="layer that receives the image vector, from the lowest, 1")
    recall: Positive = Field(256, description="reconstruct: size of the visual memory")
    tie: bool = Field(True, description="share the output matrix with the embeddings")


class ImageEncoderConfig(Section):
    size: Positive | None = Field(
        None, description="size of a learned projection of each position's features; null: no projection"
    )
    places: bool = Field(False, description="attention: add a learned position embedding to each position")
    dropout: Fraction = Field(0.0, description="dropout probability on the positions' features")


class ViewFeatureConfig(FeatureConfig):
    views: Positive = Field(
        1,
        description="number of cached views per training photograph: the whole photograph, then random crops and "
        "mirrorings; each epoch draws one",
    )


class CaptioningModel(Section):
    features: ViewFeatureConfig = ViewFeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig()
    decoder: CaptioningDecoder = CaptioningDecoder()
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")


class SelfCritical(Section):
    samples: Annotated[int, Field(ge=2)] = Field(5, description="captions sampled per photograph")
    photographs: Positive = Field(32, description="photographs per batch, over all workers; an epoch uses each once")
    baseline: Literal["others", "greedy"] = Field(
        "others",
        description="baseline of a sampled caption's reward: the mean reward of the photograph's other samples, or "
        "the reward of its greedy caption (one more decoding)",
    )


class HardAttention(Section):
    reinforcement: NonNegative = Field(
        0.1,
        description="weight of the policy gradient of attention; 1: the gradient of the likelihood, with more variance",
    )
    entropy: NonNegative = Field(0.002, description="weight of the entropy bonus of attention per word")


class CaptioningTraining(Training):
    metric: Literal["loss", CaptioningScore] = Field("cider_d", description=METRIC)
    batch_tokens: Positive = Field(
        1500,
        description="caption tokens per batch, over all workers, padding included where captions are batched by length",
    )
    together: bool = Field(
        False,
        description="batch all captions of a photograph together, so that it is encoded once per epoch (always with "
        "fine_tune); false: batch by length",
    )
    truncate: Positive | None = Field(
        None, description="words per window of truncated back-propagation through time; null: whole captions"
    )
    label_smoothing: Fraction = Field(0.0, description="label smoothing: probability spread over the whole vocabulary")
    doubly_stochastic: NonNegative = Field(
        1.0,
        description="attention: weight of the doubly stochastic penalty, for attention that does not sum to 1 per "
        "position over a caption",
    )
    reconstruction: NonNegative = Field(
        1.0, description="reconstruct: weight of the image reconstruction error per word"
    )
    hard_attention: HardAttention = HardAttention()
    self_critical: SelfCritical | None = Field(
        None,
        description="self-critical training on sampled captions rewarded by CIDEr-D, without dropout, label smoothing "
        "and penalties: a second stage after training.start_from; null: training on reference captions",
    )


class CaptioningDecoding(common.Decoding):
    max_length: Positive = Field(30, description="maximum number of tokens per output")


class CaptioningEvaluation(Section):
    metrics: list[CaptioningScore] = Field(
        ["cider_d", "bleu_4", "bleu_1", "meteor", "rouge_l"],
        min_length=1,
        description="scores of an evaluation, the main one first",
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
                "training.truncate must be null where model.decoder.attention.hard is true: the reward of a sampled "
                "position depends on all words after it"
            )
        check_metric(self.training.metric, self.evaluation.metrics)
        if self.training.self_critical is not None and "cider_d" not in self.evaluation.metrics:
            raise ValueError("evaluation.metrics is without cider_d, which is what training.self_critical raises")
        return self
