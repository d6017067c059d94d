"""What Ray Tune sees of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.tune

from unrolled.tuning.training import Errand, Training


class Trial(ray.tune.Trainable):  # type: ignore[misc]
    """An actor that trains one trial after the other; a step is a validation."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        errand = Errand(**config["errand"])
        if errand.workers > 1:
            return ray.tune.PlacementGroupFactory([{"memory": 1}])  # next to nothing: its workers ask for theirs
        return ray.tune.PlacementGroupFactory([{"CPU": errand.cpus} | ({"GPU": 1} if errand.gpu else {})])

    def setup(self, config: dict[str, Any]) -> None:
        self._training = Training(Errand(**config["errand"]))

    def step(self) -> dict[str, Any]:
        return self._training.next()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._training.give(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: str) -> None:
        self._training.take(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.halt()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._training.halt()
