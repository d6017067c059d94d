"""Base class of all configs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from unrolled.config.common import Section
from unrolled.config.training import Training
from unrolled.config.tuning import Tuning

FEW = 64
"""Maximum number of examples in a smoke run."""


class Config(Section):
    """The complete configuration of a run; each task has a subclass with its own sections. The subclass checks values
    across keys in `_fits_together`; a message starts with the key that should change.

    Attributes:
        frozen_keys: keys and sections that a resumed run cannot change.
    """

    frozen_keys: ClassVar[tuple[str, ...]] = ("seed", "data", "model")

    task: str = Field(description="task to train")
    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] = Field(
        description="name of the run folder; default: that of the file"
    )
    storage: str = Field("runs", description="folder that holds the run folders")
    seed: int = Field(1, description="random seed of parameters, batches and dropout")
    data: Section
    model: Section
    training: Training = Training()
    tuning: Tuning | None = Field(None, description="search of `unrolled tune`; other commands ignore it")

    def smoke_version(self) -> Self:
        """Returns the config of a smoke run: few examples, few updates, fresh weights, everything else unchanged."""
        values = self.model_dump()
        values["training"] |= {"epochs": 1, "max_steps": 4, "validate_every": 2, "log_every": 2}
        values["training"] |= {"checkpoint_every": None, "start_from": None}
        self._shrink(values)
        return type(self).model_validate(values)

    def _shrink(self, values: dict[str, Any]) -> None:
        """Reduces the data of a smoke run in place; a task without `data.limit` overrides this."""
        values["data"]["limit"] = min(FEW, values["data"]["limit"] or FEW)
