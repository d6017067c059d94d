"""Sections of tasks on questions about photographs: the photographs, and the questions, their answers and candidates.

What a CNN makes of the photographs is the section `Features` of captioning."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from unrolled.config import sections
from unrolled.config.captioning_data import Features
from unrolled.config.sections import Positive, Section, Source

__all__ = ["Columns", "Data", "Features", "PointingData", "Vocabulary"]


class Columns(Section):
    image: str = Field("image", description="column of the photographs; a photograph may have several rows")
    question: str = Field("question", description="column of the questions, a text a row")
    answer: str = Field(
        "answer",
        description="column of the answers: a text, a list of several people's, or the place among choices, from 0",
    )
    choices: str | None = Field(None, description="column of the candidates, a list of texts a row; null: none")
    id: str | None = Field(None, description="column of the questions' ids; null: split and row")
    kind: str | None = Field(None, description="column of the questions' types; null: the question word")


class Vocabulary(sections.Vocabulary):
    kind: sections.VocabularyKind = Field("word", description="unit of text; learned on the training split")
    size: sections.VocabularySize = Field(10_000, description="most entries, special symbols included")
    lowercase: bool = Field(True, description="fold case (the model then writes lower case only)")


class Data(Source):
    """`pointing`: whether candidates are boxes; the task says so, not its config."""

    pointing: ClassVar[bool] = False

    source: str = Field(
        description="scenes (built in), easy-vqa (its package); a folder with Visual7W's dataset.json, with VQA's "
        "questions and annotations, or of tables; s3://bucket/{split}.parquet; or hub id owner/name"
    )
    images: str | None = Field(None, description="folder of the photographs, where it is not in the source's")
    columns: Columns = Columns()
    vocabulary: Vocabulary = Vocabulary()
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


class PointingData(Data):
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
