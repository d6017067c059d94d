"""The training section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unrolled.config.common import Fraction, Positive, Section

Precision = Literal["auto", "float32", "float64", "bfloat16", "float16"]


class Optimizer(Section):
    name: Literal["adam", "adamw", "adafactor", "sgd"] = Field("adam", description="update rule")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="after warm-up, before any decay")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 penalty (decoupled for adamw)")
    momentum: Fraction = Field(0.9, description="of sgd; beta 1 of adam and adamw")


ScheduleName = Literal["constant", "plateau", "inverse_square_root", "cosine", "one_cycle"]
SCHEDULES = (
    "learning rate after warm-up; cosine and one_cycle end at zero when the run does, by steps, epochs or minutes"
)


class Schedule(Section):
    name: ScheduleName = Field("plateau", description=SCHEDULES)
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="steps of linear rise from zero")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="plateau: rate is multiplied by this …")
    patience: Annotated[int, Field(ge=0)] = Field(
        1, description="… after more validations without a better loss than this"
    )


class Clipping(Section):
    kind: Literal["norm", "value", "squared_norm", "adaptive", "none"] = Field(
        "norm",
        description="norm: rescale a gradient whose norm exceeds the threshold to that norm; value: limit every "
        "component to ±threshold; squared_norm: multiply by threshold / s where the squared norm s exceeds the "
        "threshold; adaptive: limit each unit's gradient to threshold times the norm of its weights",
    )
    threshold: Annotated[float, Field(gt=0)] = Field(1.0, description="see kind; for adaptive 0.01 to 0.1 is usual")


class EarlyStopping(Section):
    patience: Positive | None = Field(None, description="stop after so many validations without a better metric")


class Training(Section):
    """How any task is trained; a task adds what its batches are."""

    epochs: Positive = Field(20, description="passes over the training split, at most")
    start_from: str | None = Field(
        None, description="run whose best weights this one begins with; of like data and model; null: fresh ones"
    )
    max_steps: Positive | None = Field(None, description="stop after so many updates")
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(None, description="stop after so long, resumes included")
    accumulate: Positive = Field(1, description="global batches whose gradients are added up for one update")
    precision: Precision = Field(
        "auto",
        description="of parameters and arithmetic; bfloat16 and float16: float32, but matrices are multiplied in it "
        "while training; auto: bfloat16 where the hardware has matrix units for it (GPUs, AMX, avx512_bf16), else "
        "float32",
    )
    detect_anomaly: bool = Field(
        False, description="end a run whose numbers stop being finite with the place where they did (slow)"
    )
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clipping: Clipping = Clipping()
    skip_non_finite: Annotated[int, Field(ge=0)] = Field(
        10, description="updates in a row that may be left out because loss or gradient is not finite; one more ends"
    )
    moving_average: Fraction = Field(
        0.0,
        description="decay of an average over the parameters of all updates, which is validated and kept as the model; "
        "0: none",
    )
    metric: str = Field("loss", description="decides which checkpoint is best (validation)")
    early_stopping: EarlyStopping = EarlyStopping()
    validate_every: Positive | None = Field(None, description="steps between validations; null: once an epoch")
    checkpoint_every: Positive | None = Field(None, description="steps between checkpoints; null: at validations")
    checkpoint_in_background: bool = Field(True, description="training goes on while a checkpoint is written")
    keep: Positive = Field(2, description="newest checkpoints kept beside the best")
    log_every: Positive = Field(50, description="steps between rows of metrics.jsonl")
    trackers: list[Literal["mlflow", "wandb"]] = Field(
        [], description="where numbers go besides TensorBoard files; their packages must be installed"
    )
    restarts: Annotated[int, Field(ge=0)] = Field(3, description="how often a failed group of workers is started again")

    @property
    def parameter_type(self) -> Literal["float32", "float64"]:
        """Of parameters, as torch names it."""
        return "float64" if self.precision == "float64" else "float32"

    def completed(self, *, epoch: float, step: int, seconds: float) -> float:
        """Returns the fraction of the training that is done (0 to 1), by the limit that is closest."""
        fractions = [epoch / self.epochs]
        if self.max_steps:
            fractions.append(step / self.max_steps)
        if self.max_minutes:
            fractions.append(seconds / 60 / self.max_minutes)
        return min(1.0, max(fractions))
