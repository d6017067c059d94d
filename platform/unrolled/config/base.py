"""The part of a config that every task has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from unrolled.config.common import Section
from unrolled.config.training import Training
from unrolled.config.tuning import Tuning

FEW = 64
"""Examples of a smoke run, at most."""


class Config(Section):
    """The whole configuration of a run; every task has its own class, with its own sections.

    Attributes:
        frozen_keys: keys and sections that a resumed run cannot change.
    """

    frozen_keys: ClassVar[tuple[str, ...]] = ("seed", "data", "model")

    task: str = Field(description="task to train")
    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] = Field(description="of the run's folder; the file's by default")
    storage: str = Field("runs", description="folder that holds the run folders")
    seed: int = Field(1, description="of parameters, batches and dropout")
    data: Section
    model: Section
    training: Training = Training()
    tuning: Tuning | None = Field(None, description="of `unrolled tune`; other commands leave it unread")

    def smoke_version(self) -> Self:
        """Returns the tiny version of a run: few examples, few steps, fresh weights, everything else as it is."""
        values = self.model_dump()
        values["training"] |= {"epochs": 1, "max_steps": 4, "validate_every": 2, "log_every": 2}
        values["training"] |= {"checkpoint_every": None, "start_from": None}
        self._shrink(values)
        return type(self).model_validate(values)

    def _shrink(self, values: dict[str, Any]) -> None:
        """Makes the data of a smoke run few, in place; those of a task without `data.limit` in its own way."""
        values["data"]["limit"] = min(FEW, values["data"]["limit"] or FEW)
