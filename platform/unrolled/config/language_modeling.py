"""Keys of `task: language_modeling`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.common import Engine, Fraction, Positive, RecurrentWithInitialState, Section, Source, check_engine
from unrolled.config.training import Training as SharedTraining


class TextVocabulary(common.Vocabulary):
    kind: Literal["bpe", "word", "character"] = Field(
        "character", description="unit of text; learned on the training text, of which every character is kept"
    )


class TextData(Source):
    source: str = Field(
        description="hello (built in), text file, folder of train.txt and so on, s3://bucket/{split}.parquet, or hub id"
    )
    column: str = Field("text", description="column of a table that holds the text; its rows are joined by newlines")
    validation_share: Fraction = Field(
        0.1, description="end of a source without splits that is kept for validation; 0: validate on all of it"
    )
    vocabulary: TextVocabulary = TextVocabulary()
    limit: Positive | None = Field(None, description="use only the first units of every split")


class LanguageModelConfig(RecurrentWithInitialState):
    cell: common.CellName = Field("lstm", description="recurrent cell")
    embedding: Positive | None = Field(None, description="features of a unit; null: one-hot")
    tie: bool = Field(False, description="the output matrix is the embedding matrix (wants embedding = hidden)")
    engine: Engine = Field("auto", description="what runs the recurrence")


class LanguageModelTraining(SharedTraining):
    metric: Literal["loss"] = Field("loss", description="decides which checkpoint is best (validation)")
    lanes: Positive = Field(32, description="streams into which the text is cut; all are read side by side")
    truncate: Positive = Field(
        100, description="steps of a window, through which gradients flow back; the state is carried on"
    )
    sequence: Positive | None = Field(
        None,
        description="steps whose windows add up their gradients for one update; null: every window is an update",
    )

    @property
    def update_steps(self) -> int:
        """Steps of each lane that an update is made from."""
        return self.sequence or self.truncate


class LanguageModelDecoding(common.Decoding):
    max_length: Positive = Field(500, description="units written after a prime text")


class LanguageModelEvaluation(Section):
    lanes: Positive = Field(
        8, description="streams that read the split, also in validation, of 1000 units or more each, from empty states"
    )
    prime: str | None = Field(None, description="what the report's samples continue; null: the split's first units")
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        [0.5, 0.8, 1.0], min_length=1, description="of the report's samples"
    )


class LanguageModelingConfig(Config):
    frozen_keys: ClassVar[tuple[str, ...]] = (
        *Config.frozen_keys,
        "training.lanes",
        "training.truncate",
        "training.sequence",
    )

    task: Literal["language_modeling"] = Field(description="task to train")
    data: TextData
    model: LanguageModelConfig = LanguageModelConfig()
    training: LanguageModelTraining = LanguageModelTraining()
    decoding: LanguageModelDecoding = LanguageModelDecoding()
    evaluation: LanguageModelEvaluation = LanguageModelEvaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> LanguageModelingConfig:
        model = self.model
        check_engine(model.engine, model, "model")
        if model.tie and model.embedding != model.hidden:
            size = "null" if model.embedding is None else model.embedding
            raise ValueError(f"model.tie needs model.embedding ({size}) equal to model.hidden ({model.hidden})")
        sequence, truncate = self.training.sequence, self.training.truncate
        if sequence is not None and sequence < truncate:
            raise ValueError(f"training.sequence ({sequence}) is less than training.truncate ({truncate}), its windows")
        return self

    def _shrink(self, values: dict[str, Any]) -> None:
        values["data"]["limit"] = 2 * self.training.lanes * self.training.update_steps + 1  # two updates
        values["decoding"]["max_length"] = min(50, self.decoding.max_length)
