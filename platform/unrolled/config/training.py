"""Config section `training`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unrolled.config.common import Count, Fraction, NonNegative, Positive, PositiveNumber, Section

Precision = Literal["auto", "float32", "float64", "bfloat16", "float16"]

METRIC = "validation score that determines the best checkpoint"


class Optimizer(Section):
    name: Literal["adam", "adamw", "adafactor", "sgd"] = Field("adam", description="optimizer")
    learning_rate: PositiveNumber = Field(1e-3, description="learning rate after warm-up, before any decay")
    weight_decay: NonNegative = Field(0.0, description="L2 penalty (decoupled for adamw)")
    momentum: Fraction = Field(0.9, description="momentum of sgd; beta 1 of adam and adamw")


ScheduleName = Literal["constant", "plateau", "inverse_square_root", "cosine", "one_cycle"]
SCHEDULES = (
    "schedule of the learning rate after warm-up; cosine and one_cycle reach zero at the end of the "
    "run, by steps, epochs or minutes"
)


class Schedule(Section):
    name: ScheduleName = Field("plateau", description=SCHEDULES)
    warmup_steps: Count = Field(0, description="updates of linear warm-up from zero")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="plateau: the rate is multiplied by this factor …"
    )
    patience: Count = Field(1, description="… after more than this number of validations without a lower loss")


class Clipping(Section):
    kind: Literal["norm", "value", "squared_norm", "adaptive", "none"] = Field(
        "norm",
        description="norm: rescale a gradient whose norm exceeds the threshold to that norm; value: limit every "
        "component to ±threshold; squared_norm: multiply by threshold / s where the squared norm s exceeds the "
        "threshold; adaptive: limit each unit's gradient to threshold times the norm of its weights",
    )
    threshold: PositiveNumber = Field(1.0, description="threshold of clipping; 0.01 to 0.1 is usual for adaptive")


class EarlyStopping(Section):
    patience: Positive | None = Field(
        None, description="stop after this number of validations without a better metric; null: never"
    )


class Training(Section):
    """Training keys of all tasks; each task adds those of its batches."""

    epochs: Positive = Field(20, description="maximum number of passes over the training split")
    start_from: str | None = Field(
        None,
        description="run whose best weights are the initial weights, with the same vocabulary and model; null: fresh "
        "weights",
    )
    max_steps: Positive | None = Field(None, description="maximum number of updates")
    max_minutes: PositiveNumber | None = Field(None, description="maximum training time in minutes, resumes included")
    accumulate: Positive = Field(1, description="gradient accumulation: global batches per update")
    precision: Precision = Field(
        "auto",
        description="number format of parameters and arithmetic; bfloat16 and float16: float32 parameters, matrix "
        "products in training in the 16-bit format; auto: bfloat16 where the hardware has matrix units "
        "for it (GPUs, CPUs with AMX), else float32",
    )
    detect_anomaly: bool = Field(
        False, description="end a run at the first non-finite number and report its place (slow)"
    )
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clipping: Clipping = Clipping()
    skip_non_finite: Count = Field(
        10,
        description="up to this number of consecutive updates with a non-finite loss or gradient are skipped; one "
        "more ends the run",
    )
    moving_average: Fraction = Field(
        0.0,
        description="decay of an exponential moving average of the parameters, which is validated and saved as the "
        "model; 0: none",
    )
    metric: str = Field("loss", description=METRIC)
    early_stopping: EarlyStopping = EarlyStopping()
    validate_every: Positive | None = Field(None, description="updates between validations; null: once per epoch")
    checkpoint_every: Positive | None = Field(
        None, description="updates between checkpoints; null: at validations only"
    )
    checkpoint_in_background: bool = Field(True, description="write checkpoints while training continues")
    keep: Positive = Field(2, description="number of newest checkpoints to keep, in addition to the best")
    log_every: Positive = Field(50, description="updates between rows of metrics.jsonl")
    trackers: list[Literal["mlflow", "wandb"]] = Field(
        [], description="experiment trackers in addition to TensorBoard files; their packages must be installed"
    )
    restarts: Count = Field(3, description="number of times that a failed group of workers is restarted")

    @property
    def parameter_type(self) -> Literal["float32", "float64"]:
        """Name of the parameters' dtype in torch."""
        return "float64" if self.precision == "float64" else "float32"

    def completed(self, *, epoch: float, step: int, seconds: float) -> float:
        """Returns the fraction of the training that is done (0 to 1), by the limit that is closest."""
        fractions = [epoch / self.epochs]
        if self.max_steps:
            fractions.append(step / self.max_steps)
        if self.max_minutes:
            fractions.append(seconds / 60 / self.max_minutes)
        return min(1.0, max(fractions))
