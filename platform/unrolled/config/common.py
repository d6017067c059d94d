"""Config sections that several tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
CellName = Literal["rnn", "irnn", "lstm", "peephole_lstm", "gru", "cho_gru", "mut1", "mut2", "mut3"]
Engine = Literal["auto", "fused", "bptt", "autograd"]
VocabularyKind = Literal["bpe", "word", "character"]
VocabularySize = Annotated[int, Field(ge=8)]


class Section(BaseModel):
    """A section of the config: unknown keys are refused, types are not converted, values are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Splits(Section):
    train: str = Field("train", description="split for training")
    validation: str = Field("validation", description="split for validation, which determines the best checkpoint")
    test: str = Field("test", description="split for the final evaluation")


class Source(Section):
    """Data from a source with splits."""

    source: str = Field(description="built-in data, a folder, s3://bucket/{split}.parquet, or hub id owner/name")
    splits: Splits = Splits()


class Vocabulary(Section):
    kind: VocabularyKind = Field("bpe", description="token type; the vocabulary is learned on the training split")
    size: VocabularySize = Field(
        8000, description="maximum number of entries, special symbols included (bpe keeps every character)"
    )
    min_frequency: Positive = Field(1, description="less frequent tokens become the unknown symbol")
    lowercase: bool = Field(False, description="lowercase all text (the model then generates lower case only)")


class Recurrent(Section):
    """A stack of recurrent cells."""

    cell: CellName = Field("gru", description="recurrent cell")
    hidden: Positive = Field(256, description="size of the hidden state, per direction")
    layers: Positive = Field(1, description="number of stacked layers")
    dropout: Fraction = Field(0.2, description="dropout probability on embeddings, between layers and on outputs")
    variational: bool = Field(False, description="variational dropout: one mask for all steps of a sequence")
    zoneout: Fraction = Field(0.0, description="zoneout probability: units of the state that keep their previous value")
    residual: bool = Field(False, description="add a layer's input to its output where both have the same size")
    layer_norm: bool = Field(
        False, description="layer normalisation of the input's and the state's contribution to each gate"
    )
    initialization: Literal["orthogonal", "uniform", "identity"] | None = Field(
        None, description="initialisation of each gate's recurrent weights; null: the cell's default"
    )


FUSED_CELLS = ("rnn", "irnn", "lstm", "gru")
"""Cells that torch's fused kernels implement."""


def check_metric(metric: str, computed: Sequence[str]) -> None:
    """Raises ValueError if `training.metric` is neither the loss nor a metric of the evaluation."""
    if metric not in ("loss", *computed):
        raise ValueError(f"training.metric is {metric!r}, but evaluation.metrics does not compute it")


def check_engine(engine: str, recurrent: Recurrent, key: str) -> None:
    """Raises ValueError if `engine` is `fused` and torch's kernels do not implement the stack at `key`."""
    if engine != "fused":
        return
    unsupported = [f"{key}.{name}" for name in ("zoneout", "layer_norm") if getattr(recurrent, name)]
    if recurrent.cell not in FUSED_CELLS:
        raise ValueError(
            f"model.engine 'fused' has no kernel for {key}.cell {recurrent.cell!r}, only for {', '.join(FUSED_CELLS)}; "
            "'auto', 'bptt' and 'autograd' run every cell"
        )
    if unsupported:
        raise ValueError(
            f"model.engine 'fused' does without {unsupported[0]}; 'auto', 'bptt' and 'autograd' take every option"
        )


class RecurrentWithInitialState(Recurrent):
    """A stack whose initial state no other part of the model provides."""

    learned_state: bool = Field(False, description="learn the initial state; false: zeros")


class Sample(Section):
    temperature: PositiveNumber = Field(
        1.0, description="temperature: below 1 sharpens the distribution, above 1 flattens it"
    )
    top_k: Count = Field(0, description="sample from the k most probable tokens; 0: from all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="nucleus sampling: sample from the most probable tokens with this total probability"
    )
    typical: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="typical sampling: sample from the tokens nearest the entropy with this total probability"
    )
    seed: int = Field(1, description="random seed; a sample depends on it and the sentence's index only")


class Beam(Section):
    size: Positive = Field(5, description="hypotheses kept per step")
    length_penalty: NonNegative | Literal["average"] = Field(
        1.0, description="exponent of length normalisation; 0: none; average: division by the length"
    )
    coverage_penalty: NonNegative = Field(0.0, description="weight of the penalty for input without attention; 0: none")
    groups: Positive = Field(1, description="groups of diverse beam search, among which the size is divided")
    diversity: NonNegative = Field(
        0.0, description="penalty on the log-probability of a token for each earlier group that chose it"
    )


LengthFactor = NonNegative | Literal["auto"] | None
LENGTH_FACTOR = (
    "additional limit: length_factor · input tokens + length_offset; auto: the smallest factor that "
    "admits every target of the training split; null: no additional limit"
)


class Decoding(Section):
    min_length: Positive = Field(1, description="minimum number of tokens per output, end symbol included")
    max_length: Positive = Field(100, description="maximum number of tokens per output")
    length_factor: LengthFactor = Field(None, description=LENGTH_FACTOR)
    length_offset: Count = Field(10, description="offset of the limit by length_factor")
    no_repeat: Count = Field(0, description="size of n-grams that are not repeated; 0: no restriction")
    banned: list[str] = Field([], description="words or phrases that are never generated, compared as token sequences")
    batch: Positive = Field(64, description="sentences per batch")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of the product with the vocabulary, the largest of a search; auto: that of training",
    )
    samples: Positive = Field(20, description="number of samples for best and mbr")
    sample: Sample = Sample()
    beam: Beam = Beam()
