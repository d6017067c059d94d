"""Config of language modeling."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.common import (
    Engine,
    Fraction,
    Positive,
    PositiveNumber,
    RecurrentWithInitialState,
    Section,
    Source,
    check_engine,
)
from unrolled.config.training import METRIC, Training


class TextVocabulary(common.Vocabulary):
    kind: Literal["bpe", "word", "character"] = Field(
        "character",
        description="token type; the vocabulary is learned on the training text and contains all its characters",
    )


class TextData(Source):
    source: str = Field(
        description="hello (built in), a text file, a folder with train.txt and so on, s3://bucket/{split}.parquet, "
        "or hub id"
    )
    column: str = Field("text", description="column of the text in a table; rows are joined by newlines")
    validation_share: Fraction = Field(
        0.1,
        description="fraction at the end of a source without splits that is used for validation; 0: validate on the "
        "whole text",
    )
    vocabulary: TextVocabulary = TextVocabulary()
    limit: Positive | None = Field(None, description="use only the first tokens of each split")


class LanguageModelConfig(RecurrentWithInitialState):
    cell: common.CellName = Field("lstm", description="recurrent cell")
    embedding: Positive | None = Field(None, description="size of token embeddings; null: one-hot")
    tie: bool = Field(False, description="share the output matrix with the embeddings (requires embedding = hidden)")
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")


class LanguageModelTraining(Training):
    metric: Literal["loss"] = Field("loss", description=METRIC)
    lanes: Positive = Field(32, description="number of parallel streams into which the text is cut")
    truncate: Positive = Field(
        100, description="steps per window of truncated back-propagation through time; the state is carried over"
    )
    sequence: Positive | None = Field(
        None,
        description="steps per update, over which the windows' gradients are accumulated; null: one update per window",
    )

    @property
    def update_steps(self) -> int:
        """Steps of each lane per update."""
        return self.sequence or self.truncate


class LanguageModelDecoding(common.Decoding):
    max_length: Positive = Field(500, description="maximum number of tokens generated after a prime text")


class LanguageModelEvaluation(Section):
    lanes: Positive = Field(
        8,
        description="parallel streams of the split, also in validation, each of 1000 tokens or more and from an "
        "initial state",
    )
    prime: str | None = Field(
        None, description="text that the report's samples continue; null: the first tokens of the split"
    )
    temperatures: list[PositiveNumber] = Field(
        [0.5, 0.8, 1.0], min_length=1, description="temperatures of the report's samples"
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
