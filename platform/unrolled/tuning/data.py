"""The data of a sweep, made ready once for all its trials."""

from __future__ import annotations

from typing import Any

from unrolled.config import Config
from unrolled.tasks import prepare


class Fingerprints:
    """Makes data ready once for all trials that train on the same, and remembers their fingerprints."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, str]] = []

    def __call__(self, config: Config) -> str:
        """Returns the fingerprint of a trial's data.

        Raises:
            UserError: they cannot be used, or not under this config.
        """
        of = (config.data, config.seed)
        known = next((fingerprint for data, fingerprint in self._known if data == of), None)
        fingerprint = prepare(config, known).fingerprint
        if known is None:
            self._known.append((of, fingerprint))
        return fingerprint
