"""Keys of `task: question_answering`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unrolled.config import sections
from unrolled.config.answering_data import Data, Features
from unrolled.config.base import Config
from unrolled.config.captioning import Encoder
from unrolled.config.sections import Engine, Positive, Recurrent, Section, Share, check_engine, check_metric
from unrolled.config.training import Training as SharedTraining

Score = Literal["multiple_choice", "accuracy", "vqa_accuracy", "wups@0.9", "wups@0.0"]


class Question(Recurrent):
    """What reads the question; with `answers: words` it writes the answer too."""

    cell: sections.CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(512, description="features of the state")
    dropout: Share = Field(0.5, description="share dropped from embeddings, between layers and from the outputs")
    embedding: Positive = Field(512, description="features of a token")


class Model(Section):
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
    features: Features = Features()
    encoder: Encoder = Encoder()
    question: Question = Question()
    most_answers: Positive = Field(1000, description="classes, vectors: so many of the most frequent answers")
    joint: Positive = Field(512, description="classes, vectors: features of question and picture in one")
    hops: Positive = Field(2, description="classes, vectors, with attention: how often it looks")
    engine: Engine = Field("auto", description="what runs the recurrence")

    @property
    def attends(self) -> bool:
        """Whether it looks at positions."""
        return self.attention and self.sees != "question"


class Training(SharedTraining):
    metric: Literal["loss", Score] = Field("loss", description="decides which checkpoint is best (validation)")
    batch_tokens: Positive = Field(
        1000, description="padded tokens of a batch's questions and answers, over all workers"
    )
    together: bool = Field(
        False,
        description="all questions on a photograph in one batch, so that it is read once an epoch (always where the "
        "network that sees is trained too)",
    )
    label_smoothing: Share = Field(0.0, description="probability spread over all answers, or the whole vocabulary")
    candidates: Share = Field(
        0.0, description="share of the loss that asks for the right one of a question's candidates alone"
    )


class Decoding(sections.Decoding):
    max_length: Positive = Field(20, description="most tokens of an output")


class Evaluation(Section):
    metrics: list[Score] = Field(
        ["accuracy"], min_length=1, description="scores of an evaluation; the first leads the report"
    )


class QuestionAnsweringConfig(Config):
    task: Literal["question_answering"] = Field(description="what is learned")
    data: Data
    model: Model = Model()
    training: Training = Training()
    decoding: Decoding = Decoding()
    evaluation: Evaluation = Evaluation()

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
