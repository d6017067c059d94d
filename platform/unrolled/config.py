"""The whole configuration: its schema, its defaults, and what each key means.

A config is a YAML file; `key.path=value` arguments override it. Reading, overriding and the sentences that
answer a mistake are in `config_file.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
CellName = Literal["rnn", "lstm", "gru"]
Engine = Literal["auto", "fused", "autograd"]
Metric = Literal["loss", "bleu", "chrf", "exact_match"]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, types are not guessed, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Columns(Section):
    input: str = Field("input", description="column that the encoder reads")
    target: str = Field("target", description="column that the decoder learns to write")


class Splits(Section):
    train: str = Field("train", description="split to learn from")
    validation: str = Field("validation", description="split that chooses the best checkpoint")
    test: str = Field("test", description="split that is reported")


class Vocabulary(Section):
    kind: Literal["bpe", "word", "character"] = Field("bpe", description="unit of text; learned on the training split")
    size: Annotated[int, Field(ge=8)] = Field(
        8000, description="most entries, special symbols included (bpe keeps every character)"
    )
    shared: bool = Field(True, description="one vocabulary for both columns")
    min_frequency: Positive = Field(1, description="rarer units become the unknown symbol")
    lowercase: bool = Field(False, description="fold case (the model then writes lower case only)")


class Data(Section):
    source: str = Field(description="dates (built in), folder, s3://bucket/{split}.parquet, or hub id owner/name")
    columns: Columns = Columns()
    splits: Splits = Splits()
    vocabulary: Vocabulary = Vocabulary()
    max_length: Positive = Field(100, description="training pairs with more tokens on either side are left out")
    limit: Positive | None = Field(None, description="use only the first pairs of every split")


class Recurrent(Section):
    """A stack of cells."""

    cell: CellName = Field("gru", description="recurrent cell")
    hidden: Positive = Field(256, description="features of the state, one direction")
    layers: Positive = Field(1, description="cells on each other")
    dropout: Share = Field(0.2, description="share dropped from embeddings, between layers and from the outputs")


class Encoder(Recurrent):
    bidirectional: bool = Field(True, description="read from both ends")
    embedding: Positive = Field(256, description="features of a token")


class Attention(Section):
    score: Literal["dot", "general", "additive"] = Field(
        "general", description="how a state is compared with the memory"
    )
    input_feeding: bool = Field(False, description="feed each attentional vector into the next step (slower)")


class Decoder(Recurrent):
    embedding: Positive = Field(256, description="features of a token")
    conditioning: Literal["state", "attention"] = Field(
        "attention", description="how it sees the input: its summary as first state, or soft attention besides"
    )
    attention: Attention = Attention()
    tie: bool = Field(True, description="the output matrix is the embedding matrix")


class Model(Section):
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    tie_embeddings: bool = Field(False, description="encoder and decoder share embeddings (wants a shared vocabulary)")
    engine: Engine = Field("auto", description="what runs the recurrence")


class Optimizer(Section):
    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="update rule")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="after warm-up, before any decay")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 penalty (decoupled for adamw)")
    momentum: Share = Field(0.9, description="of sgd; beta 1 of adam and adamw")


class Schedule(Section):
    name: Literal["constant", "plateau"] = Field("plateau", description="learning rate after warm-up")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="steps of linear rise from zero")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="plateau: rate is multiplied by this …")
    patience: Annotated[int, Field(ge=0)] = Field(
        1, description="… after more validations without a better loss than this"
    )


class Clipping(Section):
    kind: Literal["norm", "none"] = Field("norm", description="rescale the gradient to the threshold, or leave it")
    threshold: Annotated[float, Field(gt=0)] = Field(1.0, description="largest global L2 norm")


class EarlyStopping(Section):
    patience: Positive | None = Field(None, description="stop after so many validations without a better metric")


class Training(Section):
    epochs: Positive = Field(20, description="passes over the training split, at most")
    max_steps: Positive | None = Field(None, description="stop after so many updates")
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(None, description="stop after so long, resumes included")
    batch_tokens: Positive = Field(4000, description="padded tokens of the longer side in a batch, over all workers")
    label_smoothing: Share = Field(0.1, description="probability spread over the whole vocabulary")
    precision: Literal["float32", "float64"] = Field("float32", description="of parameters and arithmetic")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clipping: Clipping = Clipping()
    metric: Metric = Field("loss", description="decides which checkpoint is best (validation)")
    early_stopping: EarlyStopping = EarlyStopping()
    validate_every: Positive | None = Field(None, description="steps between validations; null: once an epoch")
    checkpoint_every: Positive | None = Field(None, description="steps between checkpoints; null: at validations")
    keep: Positive = Field(2, description="newest checkpoints kept beside the best")
    log_every: Positive = Field(50, description="steps between rows of metrics.jsonl")
    restarts: Annotated[int, Field(ge=0)] = Field(3, description="how often a failed group of workers is started again")


class Sample(Section):
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="below 1 sharpens, above 1 flattens")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="draw from the k likeliest only; 0: from all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="draw from the likeliest that hold this share")
    seed: int = Field(1, description="with the sentence's number it fixes every draw")


class Beam(Section):
    size: Positive = Field(5, description="hypotheses kept a step")
    length_penalty: Annotated[float, Field(ge=0)] = Field(1.0, description="exponent of length normalisation; 0: none")


class Decoding(Section):
    max_length: Positive = Field(100, description="most tokens of an output")
    batch: Positive = Field(64, description="sentences decoded together")
    sample: Sample = Sample()
    beam: Beam = Beam()


class Evaluation(Section):
    metrics: list[Literal["bleu", "chrf", "exact_match"]] = Field(
        ["bleu", "chrf", "exact_match"],
        min_length=1,
        description="scores of an evaluation; the first leads the report",
    )


class Config(Section):
    task: Literal["translation"] = Field(description="what is learned")
    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] = Field(description="of the run's folder; the file's by default")
    storage: str = Field("runs", description="folder that holds the run folders")
    seed: int = Field(1, description="of parameters, batches and dropout")
    data: Data
    model: Model = Model()
    training: Training = Training()
    decoding: Decoding = Decoding()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        """Checks that no single key can see. A message starts with the key that should change."""
        encoder, decoder = self.model.encoder, self.model.decoder
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
        if self.training.metric not in ("loss", *self.evaluation.metrics):
            raise ValueError(f"training.metric is {self.training.metric!r}, but evaluation.metrics does not compute it")
        return self


def smoke(config: Config) -> Config:
    """Returns the tiny version of a run: few examples, few steps, everything else as it is."""
    values = config.model_dump()
    values["data"]["limit"] = 64
    values["training"] |= {"epochs": 1, "max_steps": 4, "validate_every": 2, "log_every": 2, "checkpoint_every": None}
    return Config.model_validate(values)
