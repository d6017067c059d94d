"""Keys of `task: pointing`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from unrolled.config.answering import Question
from unrolled.config.answering_data import Features, PointingData
from unrolled.config.base import Config
from unrolled.config.captioning import Encoder
from unrolled.config.sections import Engine, Positive, Section, Share, check_engine, check_metric
from unrolled.config.training import Training as SharedTraining

Score = Literal["multiple_choice"]


class Regions(Section):
    """What stands for a region."""

    by: Literal["crop", "align"] = Field(
        "crop",
        description="crop: every region is cut out and goes through the network by itself, once; align: it is read off "
        "the photograph's grid (RoIAlign)",
    )
    cells: Positive = Field(2, description="align: points a side that are read of a region")
    places: bool = Field(True, description="where a region lies and how large it is counts, too")
    dropout: Share = Field(0.3, description="share dropped from a region's features")


class Model(Section):
    sees: Literal["both", "question", "picture"] = Field(
        "both", description="what is known when a region is chosen: picture and question, or one of them alone"
    )
    attention: bool = Field(
        True, description="every step looks at positions from the state before it; false: sees their mean alone"
    )
    features: Features = Features()
    encoder: Encoder = Encoder(size=256)
    question: Question = Question(hidden=256, embedding=256)
    regions: Regions = Regions()
    engine: Engine = Field("auto", description="what runs the recurrence")


class Training(SharedTraining):
    metric: Literal["loss", Score] = Field("loss", description="decides which checkpoint is best (validation)")
    batch_tokens: Positive = Field(300, description="padded tokens of a batch's questions, over all workers")
    against: Literal["own", "batch"] = Field(
        "own",
        description="what the right region is told from: the question's other candidates, or all regions of the batch",
    )


class Evaluation(Section):
    metrics: list[Score] = Field(["multiple_choice"], min_length=1, description="scores of an evaluation")


class PointingConfig(Config):
    task: Literal["pointing"] = Field(description="what is learned")
    data: PointingData
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

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
