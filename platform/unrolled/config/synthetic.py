"""Config of synthetic memory problems."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unrolled.config import training
from unrolled.config.base import Config
from unrolled.config.common import (
    CellName,
    Engine,
    Fraction,
    Positive,
    RecurrentWithInitialState,
    Section,
    check_engine,
)


class MemoryData(Section):
    problem: Literal["adding", "copy", "delayed_xor"] = Field(
        description="adding: sum of two marked numbers; copy: recall of ten symbols; delayed_xor: exclusive or of two "
        "marked bits"
    )
    length: Annotated[int, Field(ge=2)] = Field(description="steps per sequence; for copy: blank steps")
    validation: Positive = Field(1000, description="number of validation sequences")
    test: Positive = Field(1000, description="number of test sequences")


class MemoryModel(RecurrentWithInitialState):
    cell: CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(128, description="size of the hidden state, per direction")
    dropout: Fraction = Field(0.0, description="dropout probability between layers and on outputs")
    engine: Engine = Field("auto", description="implementation of the recurrence; auto: the fastest that applies")


class MemorySchedule(training.Schedule):
    # The loss stays on a plateau for long before it falls; a rate that is halved there would keep it there.
    name: training.ScheduleName = Field("constant", description=training.SCHEDULES)


class MemoryTraining(training.Training):
    schedule: MemorySchedule = MemorySchedule()
    metric: Literal["loss", "mse", "accuracy"] = Field("loss", description=training.METRIC)
    batch: Positive = Field(32, description="sequences per update, over all workers; each is new")
    epoch_steps: Positive = Field(500, description="updates per epoch; sequences are never repeated")
    truncate: Positive | None = Field(
        None, description="steps per window of truncated back-propagation through time; null: whole sequences"
    )


class MemoryConfig(Config):
    task: Literal["memory"] = Field(description="task to train")
    data: MemoryData
    model: MemoryModel = MemoryModel()
    training: MemoryTraining = MemoryTraining()

    @model_validator(mode="after")
    def _fits_together(self) -> MemoryConfig:
        check_engine(self.model.engine, self.model, "model")
        known = ("loss", "mse" if self.data.problem == "adding" else "accuracy")
        if self.training.metric not in known:
            raise ValueError(
                f"training.metric is {self.training.metric!r}, but data.problem {self.data.problem!r} has "
                f"{known[0]} and {known[1]}"
            )
        return self

    def _shrink(self, values: dict[str, Any]) -> None:
        values["data"] |= {"validation": 16, "test": 16}
