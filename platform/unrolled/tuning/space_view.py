"""Parameters of a search space as a reader meets them: short names, values as text, which are categories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.config_file import written
from unrolled.evaluation.wording import finite

Entry = Mapping[str, Any]
"""A part of sweep.json."""
NUMERIC = ("uniform", "loguniform", "randint")
LONGEST = 40  # characters of a value that are shown
FEW = 6  # different numbers up to which a parameter of unknown range is one of categories


@dataclass(frozen=True)
class Parameter:
    """A key of the config that a sweep varies.

    Attributes:
        key: dotted.
        label: its last parts, as many as tell it from the others.
        values: of a categorical one, in the space's order; empty for a numeric one.
        low, high: ends of a numeric one's range.
        logarithmic: it was drawn uniformly by its logarithm.
        when: values of other parameters under which it is in use; empty where always.
    """

    key: str
    label: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def categorical(self) -> bool:
        """Whether it has values rather than a range."""
        return bool(self.values)

    def text(self, value: Any) -> str:
        """Returns a value as printed everywhere; two different ones never look the same."""
        plain = _plain(self.key, value)
        twins = [other for other in self.values if _plain(self.key, other) == plain]
        return plain if len(twins) < 2 else f"{plain} ({self.place(value) + 1})"

    def given(self, parameters: Mapping[str, Any], value: Any) -> bool:
        """Returns whether a point uses it with that value."""
        return self.key in parameters and identity(parameters[self.key]) == identity(value)

    def place(self, value: Any) -> int:
        """Returns the place of a value of a categorical parameter; one that the space lacks is last."""
        known = [identity(one) for one in self.values]
        return known.index(identity(value)) if identity(value) in known else len(known)


def identity(value: Any) -> str:
    """Returns what two equal values share and True, 1 and "1" do not."""
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value, sort_keys=True)


def parameters_of(sweep: Entry) -> list[Parameter]:
    """Returns the parameters in the space's order; those of a sweep without a space as its trials show them."""
    space: dict[str, Entry] = dict(sweep.get("space") or {})
    drawn: dict[str, list[Any]] = {}
    for trial in sweep["trials"]:
        for key, value in (trial.get("parameters") or {}).items():
            drawn.setdefault(key, []).append(value)
    for key, values in drawn.items():
        if key not in space:
            space[key] = _guessed(values)
    labels = _labels(list(space))
    return [_parameter(key, labels[key], entry) for key, entry in space.items()]


def _parameter(key: str, label: str, entry: Entry) -> Parameter:
    when = tuple((other, tuple(values)) for other, values in (entry.get("when") or {}).items())
    if entry["kind"] in NUMERIC:
        log = entry["kind"] == "loguniform"
        return Parameter(key, label, (), float(entry["low"]), float(entry["high"]), log, when)
    unique = {identity(value): value for value in entry["values"]}
    return Parameter(key, label, tuple(unique.values()), when=when)


def _guessed(values: Sequence[Any]) -> dict[str, Any]:
    unique = {identity(value): value for value in values}
    numbers = [number for value in unique.values() if (number := finite(value)) is not None]
    if len(numbers) == len(unique) > FEW:
        return {"kind": "uniform", "low": min(numbers), "high": max(numbers)}
    return {"kind": "choice", "values": list(unique.values())}


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """Returns short names: `cell` of model.cell, but `clipping.kind` of training.clipping.kind."""
    parts = {key: 1 if key.count(".") < 2 else 2 for key in keys}
    while True:
        labels = {key: ".".join(key.split(".")[-count:]) for key, count in parts.items()}
        shared = [key for key in keys if list(labels.values()).count(labels[key]) > 1]
        if not shared:
            return labels
        parts |= {key: parts[key] + 1 for key in shared}


def _plain(key: str, value: Any) -> str:
    if value is None and key.endswith("truncate"):
        return "full"
    text = f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else written(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
