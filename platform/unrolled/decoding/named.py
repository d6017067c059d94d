"""Strategies as the command line and results.json spell them: `beam`, or `beam:size=10,length_penalty=0.6`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from unrolled.config import Decoding
from unrolled.decoding.strategies import MBR, Beam, Best, Greedy, Sample, Strategy
from unrolled.errors import UserError, listing, nearest
from unrolled.models.scorer import Precision
from unrolled.recurrence.product import multiplies_bfloat16

STRATEGIES: dict[str, type[Strategy]] = {each.name(): each for each in (Greedy, Sample, Beam, Best, MBR)}
C = TypeVar("C", bound=Decoding)
USUAL = ("greedy", "sample", "beam")
"""What an evaluation compares if nothing else is asked for."""


def split(text: str) -> list[str]:
    """Splits `greedy,beam:size=10,length_penalty=0.6` into strategies: options go on after a comma."""
    spellings: list[str] = []
    for piece in text.split(","):
        if spellings and ":" in spellings[-1] and "=" in piece and ":" not in piece:
            spellings[-1] += f",{piece}"
        else:
            spellings.append(piece)
    return spellings


def choose(spellings: Sequence[str], config: Decoding) -> dict[str, Strategy]:
    """Returns strategies by their spellings: the settings of the config's `decoding` section, but the options spelled.

    Raises:
        UserError: no such strategy or option, a value that is not accepted, or a spelling given twice.
    """
    chosen: dict[str, Strategy] = {}
    for spelling in spellings:
        if spelling in chosen:
            raise UserError(f"--decode: {spelling!r} is given twice.")
        chosen[spelling] = _strategy(spelling, config)
    return chosen


def as_trained(config: C, precision: str, length_factor: float | None = None) -> C:
    """Returns the settings of a trained model with what `auto` stands for.

    Args:
        precision: of the training; where that is `auto` itself, it stays, and the hardware decides.
        length_factor: what the training split says.
    """
    settled: dict[str, Any] = {}
    if config.precision == "auto" and precision != "auto":
        settled["precision"] = "bfloat16" if precision == "bfloat16" else "float32"
    if config.length_factor == "auto":
        settled["length_factor"] = length_factor
    return config.model_copy(update=settled)


def precision_of(config: Decoding) -> Precision:
    """Returns what a strategy's precision is; `auto`: bfloat16 where the hardware has units for it, as in training."""
    if config.precision != "auto":
        return config.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def _strategy(spelling: str, config: Decoding) -> Strategy:
    name, colon, options = spelling.partition(":")
    if name not in STRATEGIES:
        raise UserError(
            f"--decode: {name!r} is not a strategy; there is {listing(STRATEGIES)}.{nearest(name, STRATEGIES)}"
        )
    kind = STRATEGIES[name]
    settings = _configured(kind, config)
    given = _options(spelling, options) if colon else {}
    for key in given:
        if key not in settings:
            takers = [other for other, each in STRATEGIES.items() if key in _configured(each, config)]
            hint = f" {listing(takers)} has it." if takers else nearest(key, settings)
            raise UserError(f"--decode {spelling}: {name} has no option {key!r}; it has {listing(settings)}.{hint}")
    return kind(**settings | given)


def _configured(kind: type[Strategy], config: Decoding) -> dict[str, Any]:
    """Returns the settings that the config gives a strategy: what may be spelled, too."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(Strategy)}
    settings["precision"] = precision_of(config)
    if issubclass(kind, Sample):
        settings |= config.sample.model_dump()
        settings["samples"] = config.samples if issubclass(kind, Best | MBR) else 1
    if issubclass(kind, MBR):
        settings["utility"] = MBR.utility
    if issubclass(kind, Beam):
        settings |= config.beam.model_dump() | {"best": 1}
    return settings


def _options(spelling: str, options: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options.split(","):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--decode {spelling}: {option!r} is no option; accepted is key=value, such as size=10.")
        if key in given:
            raise UserError(f"--decode {spelling}: {key} is given twice.")
        given[key] = _value(value)
    return given


def _value(text: str) -> Any:
    if text == "null":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
