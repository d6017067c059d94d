"""Configs of visual question answering and of pointing at regions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.captioning import FeatureConfig, ImageEncoderConfig, WordRecurrent, WordVocabulary
from unrolled.config.common import Engine, Fraction, Positive, Section, Source, check_engine, check_metric
from unrolled.config.training import METRIC, Training


class QuestionColumns(Section):
    image: str = Field("image", description="column of the photographs; a photograph may have several rows")
    question: str = Field("question", description="column of the questions, one text per row")
    answer: str = Field(
        "answer",
        description="column of the answers: a text, a list of texts by several annotators, or an index into the "
        "choices, from 0",
    )
    choices: str | None = Field(
        None, description="column of the candidate answers, a list of texts per row; null: none"
    )
    id: str | None = Field(None, description="column of the question ids; null: made of split and row")
    kind: str | None = Field(None, description="column of the question types; null: the question word")


class QuestionData(Source):
    """Attributes: `pointing`: whether candidates are boxes, which the task determines."""

    pointing: ClassVar[bool] = False

    source: str = Field(
        description="scenes (built in), easy-vqa (from its package); a folder with Visual7W's dataset.json, with "
        "VQA's questions and annotations, or of tables; s3://bucket/{split}.parquet; or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, if not in the source folder")
    columns: QuestionColumns = QuestionColumns()
    vocabulary: WordVocabulary = WordVocabulary()
    folds: int | None = Field(
        None,
        ge=2,
        description="number of folds for cross-validation over the photographs of train and validation; null: the "
        "splits as they are",
    )
    fold: int = Field(0, ge=0, description="fold used for validation, from 0")
    limit: Positive | None = Field(None, description="use only the first photographs of each split")

    @model_validator(mode="after")
    def _has_fold(self) -> Self:
        if self.fold >= (self.folds or 1):
            most = f"0 to {self.folds - 1}" if self.folds else "0 where data.folds is null"
            raise ValueError(f"data.fold is {self.fold}: accepted is {most}")
        return self


class PointingData(QuestionData):
    pointing: ClassVar[bool] = True

    source: str = Field(
        description="scenes (built in), or a folder with Visual7W's dataset.json for pointing, which lists boxes; "
        "with captions, any source of captioned photographs"
    )
    captions: bool = Field(
        False, description="pretraining on captions: which of several photographs does a caption describe?"
    )
    also: list[str] = Field([], description="additional sources of questions whose words are added to the vocabulary")
    words: str | None = Field(None, description="vocabulary of another run (its words.json), for training.start_from")
    margin: float = Field(
        0.0, ge=0, description="margin around a cropped region on each side, as a fraction of its longer side"
    )


VQAScore = Literal["multiple_choice", "accuracy", "vqa_accuracy", "wups@0.9", "wups@0.0"]


class VQAModel(Section):
    answers: Literal["classes", "vectors", "words"] = Field(
        "words",
        description="classes: classification over answers of the training split; vectors: likewise, with answers "
        "embedded by their words, so that candidates may be new; words: generated word by word",
    )
    sees: Literal["both", "question", "picture"] = Field(
        "both", description="inputs of the model: both, or a question-only or image-only baseline"
    )
    attention: bool = Field(
        True,
        description="attention over positions: stacked attention for classes and vectors, at every step for words; "
        "false: only the mean over positions",
    )
    features: FeatureConfig = FeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig()
    question: WordRecurrent = WordRecurrent()
    most_answers: Positive = Field(1000, description="classes, vectors: number of answers, the most frequent ones")
    joint: Positive = Field(512, description="classes, vectors: size of the joint question and image vector")
    hops: Positive = Field(2, description="classes, vectors, with attention: number of attention hops")
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")

    @property
    def attends(self) -> bool:
        """Whether the model attends to positions."""
        return self.attention and self.sees != "question"


class VQATraining(Training):
    metric: Literal["loss", VQAScore] = Field("loss", description=METRIC)
    batch_tokens: Positive = Field(
        1000, description="padded tokens of questions and answers per batch, over all workers"
    )
    together: bool = Field(
        False,
        description="batch all questions about a photograph together, so that it is encoded once per epoch (always "
        "with fine_tune); false: batch by length",
    )
    label_smoothing: Fraction = Field(
        0.0, description="label smoothing: probability spread over all answers, or over the vocabulary"
    )
    candidates: Fraction = Field(
        0.0,
        description="weight of the loss over a question's candidates only; the remaining weight is that of the loss "
        "over all answers",
    )


class VQADecoding(common.Decoding):
    max_length: Positive = Field(20, description="maximum number of tokens per output")


class VQAEvaluation(Section):
    metrics: list[VQAScore] = Field(
        ["accuracy"], min_length=1, description="scores of an evaluation, the main one first"
    )


class QuestionAnsweringConfig(Config):
    task: Literal["question_answering"] = Field(description="task to train")
    data: QuestionData
    model: VQAModel = VQAModel()
    training: VQATraining = VQATraining()
    decoding: VQADecoding = VQADecoding()
    evaluation: VQAEvaluation = VQAEvaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> QuestionAnsweringConfig:
        model = self.model
        check_engine(model.engine, model.question, "model.question")
        if model.attends and model.answers != "words" and model.sees == "picture":
            raise ValueError(
                f"model.attention is true, but a model of {model.answers} that sees the picture alone has no question "
                "by which it could look; accepted is false"
            )
        if model.attends and model.features.grid == 1:
            raise ValueError("model.features.grid is 1, but model.attention needs positions to look at")
        if model.encoder.places and not model.attends:
            raise ValueError("model.encoder.places needs model.attention true and a model that sees the picture")
        check_metric(self.training.metric, self.evaluation.metrics)
        return self


GroundingScore = Literal["multiple_choice"]


class RegionConfig(Section):
    """Representation of a region."""

    by: Literal["crop", "align"] = Field(
        "crop",
        description="crop: each region is cropped and encoded separately, once; align: it is pooled from the "
        "photograph's grid (RoIAlign)",
    )
    cells: Positive = Field(2, description="align: side of the grid of points pooled per region")
    places: bool = Field(True, description="position and size of a region are inputs, too")
    dropout: Fraction = Field(0.3, description="dropout probability on a region's features")


class GroundingModel(Section):
    sees: Literal["both", "question", "picture"] = Field(
        "both", description="inputs of the model: both, or a question-only or image-only baseline"
    )
    attention: bool = Field(
        True, description="attention over positions at every step; false: only the mean over positions"
    )
    features: FeatureConfig = FeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig(size=256)
    question: WordRecurrent = WordRecurrent(hidden=256, embedding=256)
    regions: RegionConfig = RegionConfig()
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")


class GroundingTraining(Training):
    metric: Literal["loss", GroundingScore] = Field("loss", description=METRIC)
    batch_tokens: Positive = Field(300, description="padded question tokens per batch, over all workers")
    against: Literal["own", "batch"] = Field(
        "own", description="negatives of the loss: the question's other candidates, or all regions of the batch"
    )


class GroundingEvaluation(Section):
    metrics: list[GroundingScore] = Field(["multiple_choice"], min_length=1, description="scores of an evaluation")


class PointingConfig(Config):
    task: Literal["pointing"] = Field(description="task to train")
    data: PointingData
    model: GroundingModel = GroundingModel()
    training: GroundingTraining = GroundingTraining()
    evaluation: GroundingEvaluation = GroundingEvaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> PointingConfig:
        model = self.model
        check_engine(model.engine, model.question, "model.question")
        if model.attention and model.features.grid == 1:
            raise ValueError("model.features.grid is 1, but model.attention needs positions to look at")
        if model.encoder.places and not model.attention:
            raise ValueError("model.encoder.places needs model.attention true")
        if model.features.fine_tune and model.regions.by == "crop":
            raise ValueError(
                "model.regions.by 'crop' keeps what the network makes of regions, but model.features.fine_tune trains "
                "it; accepted is 'align'"
            )
        if self.data.captions:
            self._fits_captions()
        if self.training.against == "batch" and model.regions.by == "align":
            raise ValueError("training.against 'batch' wants model.regions.by 'crop'")
        check_metric(self.training.metric, self.evaluation.metrics)
        return self

    def _fits_captions(self) -> None:
        if self.model.regions.by == "align":
            raise ValueError("model.regions.by 'align' reads boxes, and data.captions has none; accepted is 'crop'")
        if self.model.sees != "question":
            raise ValueError(
                "model.sees must be 'question' where data.captions is true: the candidates are photographs, and the "
                "one that is seen would be the right one"
            )

    def _shrink(self, values: dict[str, Any]) -> None:
        super()._shrink(values)
        values["data"]["words"] = None
