"""Config of question answering and grounding.

Sections of tasks on questions about photographs: the photographs, and the questions, their answers and candidates.

What a CNN makes of the photographs is the section `Features` of captioning.

Keys of `task: question_answering`.

Keys of `task: pointing`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.captioning import FeatureConfig, ImageEncoderConfig
from unrolled.config.common import Engine, Fraction, Positive, Recurrent, Section, Source, check_engine, check_metric
from unrolled.config.training import Training as SharedTraining


class QuestionColumns(Section):
    image: str = Field("image", description="column of the photographs; a photograph may have several rows")
    question: str = Field("question", description="column of the questions, a text a row")
    answer: str = Field(
        "answer",
        description="column of the answers: a text, a list of several people's, or the place among choices, from 0",
    )
    choices: str | None = Field(None, description="column of the candidates, a list of texts a row; null: none")
    id: str | None = Field(None, description="column of the questions' ids; null: split and row")
    kind: str | None = Field(None, description="column of the questions' types; null: the question word")


class QuestionVocabulary(common.Vocabulary):
    kind: common.VocabularyKind = Field("word", description="unit of text; learned on the training split")
    size: common.VocabularySize = Field(10_000, description="most entries, special symbols included")
    lowercase: bool = Field(True, description="fold case (the model then writes lower case only)")


class QuestionData(Source):
    """`pointing`: whether candidates are boxes; the task says so, not its config."""

    pointing: ClassVar[bool] = False

    source: str = Field(
        description="scenes (built in), easy-vqa (its package); a folder with Visual7W's dataset.json, with VQA's "
        "questions and annotations, or of tables; s3://bucket/{split}.parquet; or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, where it is not in the source's")
    columns: QuestionColumns = QuestionColumns()
    vocabulary: QuestionVocabulary = QuestionVocabulary()
    folds: int | None = Field(
        None,
        ge=2,
        description="deal the photographs of train and validation into so many parts, of which one validates and the "
        "others train; null: as they are split",
    )
    fold: int = Field(0, ge=0, description="the part that validates, from 0")
    limit: Positive | None = Field(None, description="use only the first photographs of every split")

    @model_validator(mode="after")
    def _has_fold(self) -> Self:
        if self.fold >= (self.folds or 1):
            most = f"0 to {self.folds - 1}" if self.folds else "0 where data.folds is null"
            raise ValueError(f"data.fold is {self.fold}: accepted is {most}")
        return self


class PointingData(QuestionData):
    pointing: ClassVar[bool] = True

    source: str = Field(
        description="scenes (built in), a folder with Visual7W's dataset.json for pointing, which lists boxes; with "
        "captions, any source of captioned photographs"
    )
    captions: bool = Field(
        False,
        description="ask which photograph shows words of its captions: candidates are whole photographs (from which a "
        "model learns words before it learns from questions)",
    )
    also: list[str] = Field([], description="further sources of questions whose words enter the vocabulary, too")
    words: str | None = Field(
        None, description="words.json of another run, its vocabulary, where training.start_from names that run"
    )
    margin: float = Field(
        0.0, ge=0, description="a region that is cut out is wider on each side by this share of its longer side"
    )


VQAScore = Literal["multiple_choice", "accuracy", "vqa_accuracy", "wups@0.9", "wups@0.0"]


class QuestionEncoderConfig(Recurrent):
    """What reads the question; with `answers: words` it writes the answer too."""

    cell: common.CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(512, description="features of the state")
    dropout: Fraction = Field(0.5, description="share dropped from embeddings, between layers and from the outputs")
    embedding: Positive = Field(512, description="features of a token")


class VQAModel(Section):
    answers: Literal["classes", "vectors", "words"] = Field(
        "words",
        description="classes: one of the answers of the training split; vectors: likewise, but an answer is known by "
        "the words in it, so that candidates may be new; words: written word by word",
    )
    sees: Literal["both", "question", "picture"] = Field(
        "both", description="both, or as a baseline the question alone (blind) or the picture alone"
    )
    attention: bool = Field(
        True,
        description="look at positions; classes, vectors: stacked attention; words: every step from the state before "
        "it; false: see their mean alone",
    )
    features: FeatureConfig = FeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig()
    question: QuestionEncoderConfig = QuestionEncoderConfig()
    most_answers: Positive = Field(1000, description="classes, vectors: so many of the most frequent answers")
    joint: Positive = Field(512, description="classes, vectors: features of question and picture in one")
    hops: Positive = Field(2, description="classes, vectors, with attention: how often it looks")
    engine: Engine = Field("auto", description="what runs the recurrence")

    @property
    def attends(self) -> bool:
        """Whether it looks at positions."""
        return self.attention and self.sees != "question"


class VQATraining(SharedTraining):
    metric: Literal["loss", VQAScore] = Field("loss", description="decides which checkpoint is best (validation)")
    batch_tokens: Positive = Field(
        1000, description="padded tokens of a batch's questions and answers, over all workers"
    )
    together: bool = Field(
        False,
        description="all questions on a photograph in one batch, so that it is read once an epoch (always where the "
        "network that sees is trained too)",
    )
    label_smoothing: Fraction = Field(0.0, description="probability spread over all answers, or the whole vocabulary")
    candidates: Fraction = Field(
        0.0, description="share of the loss that asks for the right one of a question's candidates alone"
    )


class VQADecoding(common.Decoding):
    max_length: Positive = Field(20, description="most tokens of an output")


class VQAEvaluation(Section):
    metrics: list[VQAScore] = Field(
        ["accuracy"], min_length=1, description="scores of an evaluation; the first leads the report"
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
        """Checks that no single key can see. A message starts with the key that should change."""
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
    """What stands for a region."""

    by: Literal["crop", "align"] = Field(
        "crop",
        description="crop: every region is cut out and goes through the network by itself, once; align: it is read off "
        "the photograph's grid (RoIAlign)",
    )
    cells: Positive = Field(2, description="align: points a side that are read of a region")
    places: bool = Field(True, description="where a region lies and how large it is counts, too")
    dropout: Fraction = Field(0.3, description="share dropped from a region's features")


class GroundingModel(Section):
    sees: Literal["both", "question", "picture"] = Field(
        "both", description="what is known when a region is chosen: picture and question, or one of them alone"
    )
    attention: bool = Field(
        True, description="every step looks at positions from the state before it; false: sees their mean alone"
    )
    features: FeatureConfig = FeatureConfig()
    encoder: ImageEncoderConfig = ImageEncoderConfig(size=256)
    question: QuestionEncoderConfig = QuestionEncoderConfig(hidden=256, embedding=256)
    regions: RegionConfig = RegionConfig()
    engine: Engine = Field("auto", description="what runs the recurrence")


class GroundingTraining(SharedTraining):
    metric: Literal["loss", GroundingScore] = Field("loss", description="decides which checkpoint is best (validation)")
    batch_tokens: Positive = Field(300, description="padded tokens of a batch's questions, over all workers")
    against: Literal["own", "batch"] = Field(
        "own",
        description="what the right region is told from: the question's other candidates, or all regions of the batch",
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
        """Checks that no single key can see. A message starts with the key that should change."""
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
