"""Config sections that several tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
CellName = Literal["rnn", "irnn", "lstm", "peephole_lstm", "gru", "cho_gru", "mut1", "mut2", "mut3"]
Engine = Literal["auto", "fused", "bptt", "autograd"]
VocabularyKind = Literal["bpe", "word", "character"]
VocabularySize = Annotated[int, Field(ge=8)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, types are not guessed, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Splits(Section):
    train: str = Field("train", description="split to learn from")
    validation: str = Field("validation", description="split that chooses the best checkpoint")
    test: str = Field("test", description="split that is reported")


class Source(Section):
    """Data that are read from somewhere."""

    source: str = Field(description="built-in data, folder, s3://bucket/{split}.parquet, or hub id owner/name")
    splits: Splits = Splits()


class Vocabulary(Section):
    kind: VocabularyKind = Field("bpe", description="unit of text; learned on the training split")
    size: VocabularySize = Field(8000, description="most entries, special symbols included (bpe keeps every character)")
    min_frequency: Positive = Field(1, description="rarer units become the unknown symbol")
    lowercase: bool = Field(False, description="fold case (the model then writes lower case only)")


class Recurrent(Section):
    """A stack of cells."""

    cell: CellName = Field("gru", description="recurrent cell")
    hidden: Positive = Field(256, description="features of the state, one direction")
    layers: Positive = Field(1, description="cells on each other")
    dropout: Fraction = Field(0.2, description="share dropped from embeddings, between layers and from the outputs")
    variational: bool = Field(False, description="dropout: one mask for all steps of a sequence")
    zoneout: Fraction = Field(0.0, description="share of the state that every step leaves as it was")
    residual: bool = Field(False, description="a layer adds its input to its output where both are of one size")
    layer_norm: bool = Field(False, description="normalise what input and state add to each gate")
    initialization: Literal["orthogonal", "uniform", "identity"] | None = Field(
        None, description="of the recurrent weights, gate by gate; null: the cell's own"
    )


FUSED_CELLS = ("rnn", "irnn", "lstm", "gru")
"""Cells whose equations torch's own kernels hold."""


def check_metric(metric: str, computed: Sequence[str]) -> None:
    """Raises ValueError where `training.metric` is no score of the evaluation's."""
    if metric not in ("loss", *computed):
        raise ValueError(f"training.metric is {metric!r}, but evaluation.metrics does not compute it")


def check_engine(engine: str, recurrent: Recurrent, key: str) -> None:
    """Raises ValueError where `engine` is `fused`, but the stack under `key` needs more than torch's kernels."""
    if engine != "fused":
        return
    more = [f"{key}.{name}" for name in ("zoneout", "layer_norm") if getattr(recurrent, name)]
    if recurrent.cell not in FUSED_CELLS:
        raise ValueError(
            f"model.engine 'fused' has no kernel for {key}.cell {recurrent.cell!r}, only for {', '.join(FUSED_CELLS)}; "
            "'auto', 'bptt' and 'autograd' run every cell"
        )
    if more:
        raise ValueError(
            f"model.engine 'fused' does without {more[0]}; 'auto', 'bptt' and 'autograd' take every option"
        )


class RecurrentWithInitialState(Recurrent):
    """A stack whose first state nothing else gives."""

    learned_state: bool = Field(False, description="the state before the first step is learned; else it is zeros")


class Sample(Section):
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="below 1 sharpens, above 1 flattens")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="draw from the k likeliest only; 0: from all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="draw from the likeliest that hold this share")
    typical: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="draw from the most typical, nearest the entropy, that hold this share"
    )
    seed: int = Field(1, description="with the sentence's number it fixes every draw")


class Beam(Section):
    size: Positive = Field(5, description="hypotheses kept a step")
    length_penalty: Annotated[float, Field(ge=0)] | Literal["average"] = Field(
        1.0, description="exponent of length normalisation; 0: none; average: divide by the length"
    )
    coverage_penalty: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of input that attention passed over; 0: none"
    )
    groups: Positive = Field(1, description="beams that share the size, each avoiding what those before it chose")
    diversity: Annotated[float, Field(ge=0)] = Field(
        0.0, description="log-probability that a token loses for every earlier group that chose it"
    )


LengthFactor = Annotated[float, Field(ge=0)] | Literal["auto"] | None
LENGTH_FACTOR = (
    "with it an output also has at most length_factor · input tokens + length_offset; auto: the least that would let "
    "every target of the training split through; null: only max_length limits"
)


class Decoding(Section):
    min_length: Positive = Field(1, description="least tokens of an output, the end included")
    max_length: Positive = Field(100, description="most tokens of an output")
    length_factor: LengthFactor = Field(None, description=LENGTH_FACTOR)
    length_offset: Annotated[int, Field(ge=0)] = Field(10, description="see length_factor")
    no_repeat: Annotated[int, Field(ge=0)] = Field(0, description="so many tokens in a row occur once at most; 0: any")
    banned: list[str] = Field([], description="words or phrases never written, as the tokens they are made of")
    batch: Positive = Field(64, description="sentences decoded together")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="of the product with the vocabulary, a search's largest; auto: as in training"
    )
    samples: Positive = Field(20, description="samples among which best and mbr choose")
    sample: Sample = Sample()
    beam: Beam = Beam()
