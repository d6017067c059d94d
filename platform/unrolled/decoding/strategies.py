"""How to search: the settings of greedy, sampling and beam search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from unrolled.errors import UserError


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every step.

    Args:
        max_length: tokens at most, the end token included.
    """

    max_length: int = 100

    def __post_init__(self) -> None:
        _check_max_length(self)


@dataclass(frozen=True)
class Sample:
    """Tokens drawn from the model's distribution p, made sharper or flatter and cut to its head.

    Args:
        temperature: draws from p^(1/temperature), normalised; below 1 sharper, above 1 flatter.
        top_k: only the k most probable tokens; 0 for all (Fan et al. 2018).
        top_p: only the nucleus, the fewest tokens that together have this probability after `temperature` and
            `top_k`; 1 for all (Holtzman et al. 2020).
        seed: with a sentence's id, decides its draws.
        max_length: tokens at most, the end token included.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 1
    max_length: int = 100

    def __post_init__(self) -> None:
        # The least temperature is greedy in all but name, and far from where float32 would overflow.
        _check(self, "temperature", float, lambda x: 0.001 <= x < math.inf, "number, 0.001 or more")
        _check(self, "top_k", int, lambda x: x >= 0, "whole number, 0 or more")
        _check(self, "top_p", float, lambda x: 0 < x <= 1, "number above 0, up to 1")
        _check(self, "seed", int, lambda x: 0 <= x < 2**64, "whole number from 0 to 2^64 - 1")
        _check_max_length(self)


@dataclass(frozen=True)
class Beam:
    """The best finished hypothesis of a beam search.

    Args:
        size: unfinished hypotheses kept of every sentence.
        length_penalty: α of GNMT (Wu et al. 2016, eq. 14): a hypothesis Y is worth
            log p(Y) / ((5 + |Y|) / 6)^α, |Y| counting the end token. 0 compares plain log-probabilities.
        max_length: tokens at most, the end token included.
    """

    size: int = 5
    length_penalty: float = 1.0
    max_length: int = 100

    def __post_init__(self) -> None:
        _check(self, "size", int, lambda x: x >= 1, "whole number, 1 or more")
        _check(self, "length_penalty", float, lambda x: 0 <= x < math.inf, "number, 0 or more")
        _check_max_length(self)


Strategy = Greedy | Sample | Beam


def _check(strategy: Strategy, field: str, kind: type, fits: Callable[[float], bool], accepted: str) -> None:
    value, name = getattr(strategy, field), f"{type(strategy).__name__.lower()}.{field}"
    right = isinstance(value, int | kind) and not isinstance(value, bool)
    if not right or not fits(value):
        raise UserError(f"{name} is {value!r}; accepted is a {accepted}.")


def _check_max_length(strategy: Strategy) -> None:
    _check(strategy, "max_length", int, lambda x: x >= 1, "whole number, 1 or more")
