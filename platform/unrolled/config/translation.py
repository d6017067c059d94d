"""Config of translation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unrolled.config import common
from unrolled.config.base import Config
from unrolled.config.common import (
    Engine,
    Fraction,
    Positive,
    Recurrent,
    RecurrentWithInitialState,
    Section,
    Source,
    check_engine,
    check_metric,
)
from unrolled.config.training import METRIC, Training

TranslationScore = Literal["bleu", "chrf", "chrf++", "ter", "exact_match"]


class ParallelColumns(Section):
    input: str = Field("input", description="column of the source texts")
    target: str = Field("target", description="column of the target texts")


class TranslationVocabulary(common.Vocabulary):
    shared: bool = Field(True, description="whether both columns share one vocabulary")


class TranslationData(Source):
    source: str = Field(description="dates (built in), a folder, s3://bucket/{split}.parquet, or hub id owner/name")
    columns: ParallelColumns = ParallelColumns()
    vocabulary: TranslationVocabulary = TranslationVocabulary()
    max_length: Positive = Field(100, description="training pairs with more tokens on either side are skipped")
    limit: Positive | None = Field(None, description="use only the first pairs of each split")


class TranslationEncoder(RecurrentWithInitialState):
    bidirectional: bool = Field(True, description="bidirectional encoder")
    embedding: Positive = Field(256, description="size of token embeddings")


class TranslationAttention(Section):
    score: Literal["dot", "general", "additive"] = Field("general", description="attention score function")
    input_feeding: bool = Field(
        False, description="input feeding: each attentional vector is an input of the next step (slower)"
    )


class TranslationDecoder(Recurrent):
    embedding: Positive = Field(256, description="size of token embeddings")
    conditioning: Literal["state", "attention"] = Field(
        "attention",
        description="how the decoder is conditioned on the input: state: encoder summary as initial state; attention: "
        "soft attention in addition",
    )
    attention: TranslationAttention = TranslationAttention()
    tie: bool = Field(True, description="share the output matrix with the embeddings")


class TranslationModel(Section):
    encoder: TranslationEncoder = TranslationEncoder()
    decoder: TranslationDecoder = TranslationDecoder()
    tie_embeddings: bool = Field(
        False, description="share embeddings between encoder and decoder (requires a shared vocabulary)"
    )
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")


class TranslationTraining(Training):
    metric: Literal["loss", TranslationScore] = Field("loss", description=METRIC)
    batch_tokens: Positive = Field(4000, description="padded tokens of the longer side per batch, over all workers")
    truncate: Positive | None = Field(
        None,
        description="steps per window of truncated back-propagation through time, in encoder and decoder; null: whole "
        "sequences",
    )
    label_smoothing: Fraction = Field(0.1, description="label smoothing: probability spread over the whole vocabulary")


class TranslationDecoding(common.Decoding):
    length_factor: common.LengthFactor = Field("auto", description=common.LENGTH_FACTOR)
    replace_unknown: bool = Field(
        False, description="allow the unknown symbol and replace it by the input word with the highest attention"
    )
    prefix: str = Field("", description="text that every output begins with")
    required: list[str] = Field([], description="words or phrases that every output contains; beam search only")


class TranslationEvaluation(Section):
    metrics: list[TranslationScore] = Field(
        ["bleu", "chrf", "exact_match"], min_length=1, description="scores of an evaluation, the main one first"
    )


class TranslationConfig(Config):
    task: Literal["translation"] = Field(description="task to train")
    data: TranslationData
    model: TranslationModel = TranslationModel()
    training: TranslationTraining = TranslationTraining()
    decoding: TranslationDecoding = TranslationDecoding()
    evaluation: TranslationEvaluation = TranslationEvaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> TranslationConfig:
        encoder, decoder = self.model.encoder, self.model.decoder
        check_engine(self.model.engine, encoder, "model.encoder")
        check_engine(self.model.engine, decoder, "model.decoder")
        memory = encoder.hidden * (2 if encoder.bidirectional else 1)
        if decoder.conditioning == "attention" and decoder.attention.score == "dot" and decoder.hidden != memory:
            raise ValueError(
                f"model.decoder.hidden is {decoder.hidden}, but attention.score 'dot' needs it equal to the "
                f"encoder's output, {memory}; 'general' and 'additive' take any size"
            )
        if decoder.conditioning == "state" and decoder.attention.input_feeding:
            raise ValueError("model.decoder.attention.input_feeding needs model.decoder.conditioning 'attention'")
        if self.model.tie_embeddings and not self.data.vocabulary.shared:
            raise ValueError("model.tie_embeddings needs data.vocabulary.shared true")
        if self.model.tie_embeddings and encoder.embedding != decoder.embedding:
            raise ValueError(
                f"model.tie_embeddings needs model.encoder.embedding ({encoder.embedding}) equal to "
                f"model.decoder.embedding ({decoder.embedding})"
            )
        check_metric(self.training.metric, self.evaluation.metrics)
        return self
