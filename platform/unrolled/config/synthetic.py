"""Config of synthetic memory tasks."""

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
        description="sum of two marked numbers; ten symbols recalled; exclusive or of two marked bits"
    )
    length: Annotated[int, Field(ge=2)] = Field(description="steps of a sequence; for copy: of silence")
    validation: Positive = Field(1000, description="sequences that choose the best checkpoint")
    test: Positive = Field(1000, description="sequences that are reported")


class MemoryModel(RecurrentWithInitialState):
    cell: CellName = Field("lstm", description="recurrent cell")
    hidden: Positive = Field(128, description="features of the state, one direction")
    dropout: Fraction = Field(0.0, description="share dropped between layers and from the outputs")
    engine: Engine = Field("auto", description="what runs the recurrence")


class MemorySchedule(training.Schedule):
    # The loss rests long before it falls: a rate that halves at rest would keep it there.
    name: training.ScheduleName = Field("constant", description=training.SCHEDULES)


class MemoryTraining(training.Training):
    schedule: MemorySchedule = MemorySchedule()
    metric: Literal["loss", "mse", "accuracy"] = Field(
        "loss", description="decides which checkpoint is best (validation)"
    )
    batch: Positive = Field(32, description="sequences of an update, over all workers; each is new")
    epoch_steps: Positive = Field(500, description="updates that count as an epoch: sequences never come twice")
    truncate: Positive | None = Field(
        None, description="gradients flow back within windows of so many steps; null: through the whole sequence"
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
