"""The training section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unrolled.config.sections import Positive, Section, Share


class Optimizer(Section):
    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="update rule")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="after warm-up, before any decay")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 penalty (decoupled for adamw)")
    momentum: Share = Field(0.9, description="of sgd; beta 1 of adam and adamw")


class Schedule(Section):
    name: Literal["constant", "plateau", "cosine"] = Field(
        "plateau",
        description="learning rate after warm-up; cosine: falls to zero at the run's end, by steps or minutes",
    )
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
    """How any task is trained; a task adds what its batches are."""

    epochs: Positive = Field(20, description="passes over the training split, at most")
    max_steps: Positive | None = Field(None, description="stop after so many updates")
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(None, description="stop after so long, resumes included")
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        "float32",
        description="of parameters and arithmetic; bfloat16: float32, but matrices are multiplied in bfloat16 while "
        "training (fast with AMX and on GPUs)",
    )
    detect_anomaly: bool = Field(
        False, description="end a run whose numbers stop being finite with the place where they did (slow)"
    )
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clipping: Clipping = Clipping()
    metric: str = Field("loss", description="decides which checkpoint is best (validation)")
    early_stopping: EarlyStopping = EarlyStopping()
    validate_every: Positive | None = Field(None, description="steps between validations; null: once an epoch")
    checkpoint_every: Positive | None = Field(None, description="steps between checkpoints; null: at validations")
    keep: Positive = Field(2, description="newest checkpoints kept beside the best")
    log_every: Positive = Field(50, description="steps between rows of metrics.jsonl")
    restarts: Annotated[int, Field(ge=0)] = Field(3, description="how often a failed group of workers is started again")

    @property
    def parameter_type(self) -> Literal["float32", "float64"]:
        """Of parameters, as torch names it."""
        return "float64" if self.precision == "float64" else "float32"
